"""Arrays on another grid over the same box: what makes thick planes isotropic, and brings back what was found there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["isotropic_shape", "isotropic_step", "resampled", "resampled_box", "source_lengths"]

Array = NDArray[np.float32]

# An axis that becomes so many times coarser is smoothed.
_FINER = 1.01


def isotropic_step(shape: Sequence[int], spacing_um: Sequence[float], most_voxels: int) -> float:
    """Return the step in µm of an isotropic grid: the finest spacing, or coarser where that makes too many voxels.

    >>> isotropic_step((10, 40, 40), (5.0, 1.0, 1.0), 10**6), isotropic_step((10, 40, 40), (5.0, 1.0, 1.0), 10_000)
    (1.0, 2.0)
    """
    um3 = math.prod(n * um for n, um in zip(shape, spacing_um, strict=True))
    return max(float(min(spacing_um)), math.pow(um3 / most_voxels, 1 / 3))


def isotropic_shape(shape: Sequence[int], spacing_um: Sequence[float], step_um: float) -> tuple[int, int, int]:
    """Return the shape of an isotropic grid over the same box.

    >>> isotropic_shape((10, 40, 40), (5.0, 1.0, 1.0), 2.0)
    (25, 20, 20)
    """
    z, y, x = (max(1, int(n * um / step_um + 0.5)) for n, um in zip(shape, spacing_um, strict=True))
    return z, y, x


def resampled(array: Array, shape: Sequence[int]) -> Array:
    """Return an array on another grid over the same box: linear, and smoothed first along axes that become coarser."""
    return resampled_box(array.__getitem__, array.shape, shape, tuple(slice(0, length) for length in shape))


def resampled_box(
    read: Callable[[tuple[slice, ...]], Array], old: Sequence[int], shape: Sequence[int], box: Sequence[slice]
) -> Array:
    """Return a box of what `resampled` makes of an array, to the same bit.

    Parameters
    ----------
    read : callable
        Gives a box of the array, float32; no more of it than `source_lengths` says.
    old, shape : (Z, Y, X)
        Of the array, and of what is made of it.
    box : (z, y, x) of slice
        Of that.
    """
    ratios = [before / after for before, after in zip(old, shape, strict=True)]
    places = [
        np.clip((np.arange(part.start, part.stop) + 0.5) * ratio - 0.5, 0, length - 1)
        for part, ratio, length in zip(box, ratios, old, strict=True)
    ]
    read_from = [
        slice(max(int(place[0]) - _radius(ratio), 0), min(int(place[-1]) + 2 + _radius(ratio), length))
        for place, ratio, length in zip(places, ratios, old, strict=True)
    ]
    smooth = read(tuple(read_from))
    for axis, ratio in enumerate(ratios):
        if _radius(ratio):
            from scipy import ndimage  # only whose voxels change waits for it

            smooth = ndimage.gaussian_filter1d(smooth, ratio / 2, axis=axis, mode="nearest")
    for axis, (place, part) in enumerate(zip(places, read_from, strict=True)):
        sample = _cut if old[axis] == shape[axis] else _along
        smooth = sample(smooth, place, part.start, axis)
    return np.ascontiguousarray(smooth, dtype=np.float32)


def source_lengths(old: Sequence[int], shape: Sequence[int], sides: Sequence[int]) -> tuple[int, int, int]:
    """Return of how many voxels along each axis `resampled_box` makes a box of these sides, at most."""
    z, y, x = (
        min(before, math.ceil(min(side, after) * before / after) + 2 * _radius(before / after) + 2)
        for before, after, side in zip(old, shape, sides, strict=True)
    )
    return z, y, x


def _radius(ratio: float) -> int:
    """Return how many voxels to each side are averaged where an axis becomes so many times coarser."""
    return int(4 * (ratio / 2) + 0.5) if ratio > _FINER else 0


def _cut(array: Array, places: NDArray[np.float64], first: int, axis: int) -> Array:
    """Return what lies at places along an axis that stays as it is, of an array that begins at `first`."""
    begin = int(places[0]) - first
    return array[(slice(None),) * axis + (slice(begin, begin + len(places)),)]


def _along(array: Array, places: NDArray[np.float64], first: int, axis: int) -> Array:
    """Return an array that begins at `first` sampled linearly at places along an axis."""
    below = np.floor(places)
    low = below.astype(np.intp) - first
    high = np.minimum(low + 1, array.shape[axis] - 1)
    along = [1, 1, 1]
    along[axis] = -1
    part = (places - below).astype(np.float32).reshape(along)
    return np.asarray(array.take(low, axis) * (1 - part) + array.take(high, axis) * part)
