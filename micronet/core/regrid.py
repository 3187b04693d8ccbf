"""Arrays on another grid over the same box: what makes thick planes isotropic, and brings back what was found there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["isotropic_shape", "isotropic_step", "resampled"]

Array = NDArray[np.float32]


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
    ratios = [old / new for old, new in zip(array.shape, shape, strict=True)]
    smooth = array
    for axis, ratio in enumerate(ratios):
        if ratio > 1.01:
            from scipy import ndimage  # only whose voxels change waits for it

            smooth = ndimage.gaussian_filter1d(smooth, ratio / 2, axis=axis, mode="nearest")
    for axis, (ratio, length) in enumerate(zip(ratios, shape, strict=True)):
        if length != array.shape[axis]:
            smooth = _along(smooth, (np.arange(length) + 0.5) * ratio - 0.5, axis)
    return np.ascontiguousarray(smooth, dtype=np.float32)


def _along(array: Array, places: NDArray[np.float64], axis: int) -> Array:
    """Return an array sampled linearly at places along an axis; beyond the ends lies the last voxel."""
    inside = np.clip(places, 0, array.shape[axis] - 1)
    low = np.floor(inside).astype(np.intp)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    along = [1, 1, 1]
    along[axis] = -1
    part = (inside - low).astype(np.float32).reshape(along)
    return np.asarray(array.take(low, axis) * (1 - part) + array.take(high, axis) * part)
