"""How far what a volume shows has moved since another one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from micronet.core.errors import InputError

__all__ = ["centroid", "image_drift"]

# Standard deviation, in voxels, of the Gaussian that the correlation is smoothed with: speckle is new at every time
# point and says nothing of the drift.
_SMOOTHING = 1.5
#: Larger volumes are averaged over blocks first, to bound time and memory.
_MOST_VOXELS = 1 << 24


def image_drift(before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float, float]:
    """Return how far (Z, Y, X) the picture has moved from one volume to the next, in voxels.

    Phase correlation (Kuglin & Hines 1975) of the windowed volumes, smoothed, its maximum refined by a parabola
    along each axis. What moves by itself (a beating heart) counts little as long as the rest is still.

    Parameters
    ----------
    before, after : ndarray of one shape (Z, Y, X), real
        Two time points.

    Returns
    -------
    tuple of three floats
        Positive where the picture moved towards larger indices; at most half the axis. 0 where a volume is constant.

    Raises
    ------
    InputError
        If the shapes differ or are not three-dimensional.

    Examples
    --------
    >>> first = np.random.default_rng(1).random((32, 40, 48))
    >>> [round(float(step)) for step in image_drift(first, np.roll(first, (2, 0, -3), (0, 1, 2)))]
    [2, 0, -3]
    """
    if before.ndim != 3 or before.shape != after.shape:
        raise InputError(f"drift is between volumes of one shape (Z, Y, X), found {before.shape} and {after.shape}")
    block = int(np.ceil((before.size / _MOST_VOXELS) ** (1 / 3)))
    first, second = (_windowed(_averaged(volume, block)) for volume in (before, after))
    shape = first.shape
    cross = fft.rfftn(second)
    cross *= fft.rfftn(first).conj()
    strength = np.abs(cross)
    if not strength.max() > 0:
        return 0.0, 0.0, 0.0
    cross /= strength + 1e-9 * strength.max()
    del strength, first, second
    for axis, length in enumerate(shape):
        frequency = fft.rfftfreq(length) if axis == 2 else fft.fftfreq(length)
        cross *= _along(np.exp(-2 * (np.pi * _SMOOTHING * frequency) ** 2), axis)
    correlation = fft.irfftn(cross, shape)
    peak = np.unravel_index(int(correlation.argmax()), shape)
    z, y, x = (block * _refined(correlation, peak, axis) for axis in range(3))
    return z, y, x


def centroid(mask: NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """Return the centre of gravity (Z, Y, X) of a mask in voxels, None where it is empty.

    >>> centroid(np.pad(np.ones((1, 1, 3), bool), 2))
    (2.0, 2.0, 3.0)
    """
    if not mask.any():
        return None
    sums = (mask.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3))
    z, y, x = (float(np.average(np.arange(counts.size), weights=counts)) for counts in sums)
    return z, y, x


def _averaged(volume: NDArray[Any], block: int) -> NDArray[np.float32]:
    """Return the means of blocks of block³ voxels; what does not fill a block is left out."""
    if block == 1:
        return volume.astype(np.float32)
    z, y, x = (max(1, length // block) for length in volume.shape)
    planes = [
        volume[block * i : block * (i + 1), : block * y, : block * x].mean(axis=0, dtype=np.float32) for i in range(z)
    ]
    rows, columns = (n // m for n, m in zip(planes[0].shape, (y, x), strict=True))
    return np.asarray(np.stack(planes).reshape(z, y, rows, x, columns).mean(axis=(2, 4)))


def _windowed(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the volume about its mean, faded out towards its faces: the far face is no neighbour."""
    faded = volume - np.float32(volume.mean(dtype=np.float64))
    for axis, length in enumerate(volume.shape):
        faded *= _along(np.hanning(length + 2)[1:-1], axis)
    return faded


def _along(weights: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    shape = [1, 1, 1]
    shape[axis] = weights.size
    return np.asarray(weights.reshape(shape), np.float32)


def _refined(correlation: NDArray[np.float32], peak: tuple[np.intp, ...], axis: int) -> float:
    """Return the place of the maximum along one axis: the top of the parabola through it and its neighbours."""
    length = correlation.shape[axis]
    index = list(peak)
    values = []
    for step in (-1, 0, 1):
        index[axis] = (peak[axis] + step) % length
        values.append(float(correlation[tuple(index)]))
    low, top, high = values
    curved = low - 2 * top + high
    place = float(peak[axis]) + (0.5 * (low - high) / curved if curved < 0 else 0.0)
    return place - length if place > length / 2 else place
