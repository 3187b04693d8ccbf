"""Evening: brightness that changes over a volume is taken out, so that what one plane teaches holds in the others.

Deeper planes of a microscope's volume are darker, and so are parts of each. A vessel is still brighter than what lies
around it: its logarithm minus the mean logarithm around it, within the plane where planes are thick. What comes out
does not change when the image is multiplied by a number or a number is added to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["evened", "planes_are_thick"]

#: Part of the voxels that counts as dark as the image gets, and what is added before the logarithm, in units of how
#: much brighter the mean is than those: noise of dark voxels is not to be blown up.
_DARKEST, _FLOOR = 0.005, 0.2
#: Voxels of each plane from which both are told, about.
_SEEN = 16_384
#: Axes along which voxels are so many times as long as their shortest side are left out.
_THICK = 2.0


def planes_are_thick(spacing_um: Sequence[float]) -> bool:
    """Return whether voxels are at least twice as long along one axis as along another."""
    return max(spacing_um) >= _THICK * min(spacing_um)


def evened(image: NDArray[np.float32], spacing_um: Sequence[float], around_um: float) -> NDArray[np.float32]:
    """Return how bright every voxel is, as a logarithm, beside what lies around it.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        Normalised or not.
    spacing_um : (z, y, x)
        Along an axis of voxels at least twice as long as the shortest side nothing is averaged: thick planes are evened
        one by one.
    around_um : float
        Standard deviation in µm of what is taken for the surroundings: three running means in a row along each axis,
        nearly a Gaussian.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
        ``L - G(L)``, ``L = log(max(image - d, 0) + m / 5)`` with d the image's 0.5 % quantile and m the mean of
        ``max(image - d, 0)``.
    """
    dark, mean = _levels(image)
    finest = min(spacing_um)
    widths = [_width(around_um / length) if length < _THICK * finest else 1 for length in spacing_um]
    out, around = np.empty(image.shape, np.float32), np.empty(image.shape, np.float32)
    for plane, logarithm, smooth in zip(image, out, around, strict=True):  # no temporary of the volume's size
        np.log(np.maximum(plane - np.float32(dark), 0) + np.float32(_FLOOR * mean), out=logarithm)
        smooth[...] = _running_means(logarithm, widths[1:])
    if widths[0] > 1:
        for row in range(image.shape[1]):
            around[:, row] = _running_means(around[:, row], (widths[0],))
    for logarithm, smooth in zip(out, around, strict=True):
        logarithm -= smooth
    return out


def _running_means(plane: NDArray[np.float32], widths: Sequence[int]) -> NDArray[np.float64]:
    """Return a plane averaged three times along its first axes; beyond its edges lies the last voxel."""
    from scipy import ndimage  # only who evens waits for it

    found = plane.astype(np.float64)
    for axis, width in enumerate(widths):
        for _ in range(3):
            found = ndimage.uniform_filter1d(found, width, axis=axis, mode="nearest")
    return found


def _levels(image: NDArray[np.float32]) -> tuple[float, float]:
    """Return the brightness of the darkest voxels, and how much brighter the mean is; never 0."""
    step = max(1, int((image.shape[1] * image.shape[2] / _SEEN) ** 0.5))
    seen = image[:, ::step, ::step]
    dark = float(np.quantile(seen, _DARKEST))
    mean = float(np.maximum(seen - np.float32(dark), 0).mean(dtype=np.float64))
    return dark, max(mean, 1e-6)


def _width(sigma: float) -> int:
    """Return the odd width of the running mean that, three times in a row, has this standard deviation in voxels."""
    return 2 * int((4 * sigma * sigma + 1) ** 0.5 / 2) + 1
