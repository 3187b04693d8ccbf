"""Fields over a phantom at half its resolution, and smooth steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Field", "coarse_noise", "doubled", "step"]

Field = NDArray[np.float32]


def step(ramp: Field) -> Field:
    """Return a smooth step from 0 to 1."""
    return np.asarray(1 / (1 + np.exp(np.clip(np.float32(-2.5) * ramp, -30, 30))), np.float32)


def doubled(field: Field, shape: tuple[int, ...], begin: int, end: int) -> Field:
    """Return planes begin .. end - 1 of a field at twice its sampling, linear between its samples, cut to `shape`."""
    z = np.arange(begin, end)
    result = 0.5 * (field[z // 2] + field[np.minimum((z + 1) // 2, len(field) - 1)])
    for axis in (1, 2):
        shifted = np.concatenate([np.delete(result, 0, axis), np.take(result, [-1], axis)], axis)
        both = np.stack([result, 0.5 * (result + shifted)], axis=axis + 1)
        merged = (*result.shape[:axis], 2 * result.shape[axis], *result.shape[axis + 1 :])
        result = np.take(both.reshape(merged), np.arange(shape[axis]), axis)
    return result


def coarse_noise(shape: tuple[int, ...], rng: np.random.Generator, length_vox: float) -> Field:
    """Return low-pass noise of mean 0 and standard deviation 1, at half the resolution."""
    noise = rng.standard_normal(tuple((n + 1) // 2 for n in shape))
    noise = ndimage.gaussian_filter(noise, length_vox / 2, mode="wrap", truncate=3.0)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)
