"""Evening: brightness that changes over a volume is taken out, so that what one plane teaches holds in the others.

Deeper planes of a microscope's volume are darker, and so are parts of each. A vessel is still brighter than what lies
around it: its logarithm minus the mean logarithm around it, within the plane where planes are thick. What comes out
does not change when the image is multiplied by a number or a number is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.networks.normalize import normalize_image, standardize

__all__ = ["EvenedPart", "Evening", "Seen", "evened", "planes_are_thick", "sampled", "sampled_bytes", "widths"]

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
    evening = Evening.of(image, image.shape, spacing_um, around_um)
    out, around = np.empty(image.shape, np.float32), np.empty(image.shape, np.float32)
    for plane, logarithm, smooth in zip(image, out, around, strict=True):  # no temporary of the volume's size
        evening.logarithm(plane, logarithm)
        smooth[...] = evening.within(logarithm)
    if evening.crosses_planes:
        for row in range(image.shape[1]):
            around[:, row] = evening.across(around[:, row])
    for logarithm, smooth in zip(out, around, strict=True):
        logarithm -= smooth
    return out


@dataclass(frozen=True)
class Evening:
    """The steps of `evened`, each of a part of the image, for images that are never whole in memory.

    Parameters
    ----------
    dark : float
        Brightness of the darkest voxels.
    floor : float
        What is added before the logarithm.
    widths : (z, y, x)
        Of the running means, in voxels; 1 where nothing is averaged.
    """

    dark: float
    floor: float
    widths: tuple[int, int, int]

    @classmethod
    def of(
        cls, planes: Iterable[NDArray[np.float32]], shape: Sequence[int], spacing_um: Sequence[float], around_um: float
    ) -> Evening:
        """Return the steps for an image whose planes (Y, X) are given in turn."""
        seen = np.stack([sampled(plane, shape) for plane in planes])
        return cls.of_samples(seen, spacing_um, around_um)

    @classmethod
    def of_samples(cls, seen: NDArray[np.float32], spacing_um: Sequence[float], around_um: float) -> Evening:
        """Return the steps for an image of which `sampled` gave this of all planes; it is changed in place."""
        dark = float(np.quantile(seen, _DARKEST))
        seen -= np.float32(dark)
        mean = float(np.maximum(seen, 0, out=seen).mean(dtype=np.float64))
        z, y, x = widths(spacing_um, around_um)
        return cls(dark, _FLOOR * max(mean, 1e-6), (z, y, x))

    @property
    def crosses_planes(self) -> bool:
        """Whether it is averaged along Z too."""
        return self.widths[0] > 1

    def logarithm(self, part: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the logarithms of any part of the image."""
        found: NDArray[np.float32] = np.log(
            np.maximum(part - np.float32(self.dark), 0) + np.float32(self.floor), out=out
        )
        return found

    def within(self, logarithm: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the logarithms of a plane (Y, X), averaged within it."""
        return _running_means(logarithm, self.widths[1:])

    def across(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what `within` gave, averaged along the first axis, which is all of Z; others are as wide as wished."""
        return _running_means(columns, self.widths[:1])


class EvenedPart(NamedTuple):
    """A part of an image that was evened as a whole; mean and standard deviation are those of all of it, or None."""

    image: NDArray[np.float32]
    statistics: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """An image as networks look at it: as it is, or evened, which is done when it is asked for.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        Normalised.
    spacing_um : (z, y, x)
    known : mapping of float to EvenedPart
        Where it is a part of an image that was evened as a whole: that, by its surroundings in µm.
    """

    image: NDArray[np.float32]
    spacing_um: Sequence[float]
    known: Mapping[float, EvenedPart] = field(default_factory=dict)

    def evened(self, around_um: float) -> NDArray[np.float32]:
        """Return it evened over these surroundings, as it is where they are 0."""
        if not around_um:
            return self.image
        return self.known[around_um].image if self.known else evened(self.image, self.spacing_um, around_um)

    def normalized(self, around_um: float) -> NDArray[np.float32]:
        """Return the same normalised again, as a µ-Net looks at it."""
        if not around_um:
            return self.image
        known = self.known[around_um].statistics if self.known else None
        found = self.evened(around_um)
        return normalize_image(found) if known is None else standardize(found, *known)


def widths(spacing_um: Sequence[float], around_um: float) -> tuple[int, int, int]:
    """Return over how many voxels along (Z, Y, X) running means go; 1 where nothing is averaged."""
    finest = min(spacing_um)
    z, y, x = (_width(around_um / length) if length < _THICK * finest else 1 for length in spacing_um)
    return z, y, x


def sampled(plane: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the voxels of a plane (Y, X) from which it is told how bright an image of a shape is."""
    step = _step(shape)
    return plane[::step, ::step].copy()


def sampled_bytes(shape: Sequence[int]) -> int:
    """Return how many bytes it takes to tell how bright an image is."""
    step = _step(shape)
    return 12 * shape[0] * -(-shape[1] // step) * -(-shape[2] // step)


def _step(shape: Sequence[int]) -> int:
    return max(1, int((shape[1] * shape[2] / _SEEN) ** 0.5))


def _running_means(plane: NDArray[np.float32], widths: Sequence[int]) -> NDArray[np.float64]:
    """Return an array averaged three times along its first axes; beyond its edges lies the last voxel."""
    from scipy import ndimage  # only who evens waits for it

    found = plane.astype(np.float64)
    for axis, width in enumerate(widths):
        for _ in range(3):
            found = ndimage.uniform_filter1d(found, width, axis=axis, mode="nearest")
    return found


def _width(sigma: float) -> int:
    """Return the odd width of the running mean that, three times in a row, has this standard deviation in voxels."""
    return 2 * int((4 * sigma * sigma + 1) ** 0.5 / 2) + 1
