"""Sizes of the levels of a network, and which coarse voxel nearest upsampling shows at a fine one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Nearest", "Size", "coarser", "nearest_indices"]

Size = tuple[int, int, int]
Nearest = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def coarser(size: Size) -> Size:
    """Return the size after pooling by 4."""
    return size[0] // 4, size[1] // 4, size[2] // 4


def nearest_indices(size: Size, given: Size) -> Nearest:
    """Return which plane, row and column of `given` nearest upsampling shows, with PyTorch's float32 rounding."""

    def along(length: int, source: int) -> NDArray[np.int64]:
        scale = np.float32(source) / np.float32(length)
        shown: NDArray[np.int64] = np.floor(np.arange(length, dtype=np.float32) * scale).astype(np.int64)
        return np.where(shown < source, shown, source - 1)

    return along(size[0], given[0]), along(size[1], given[1]), along(size[2], given[2])
