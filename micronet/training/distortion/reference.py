"""The formulas of size_map.py and warp.py in NumPy: serves where numba is missing, and is their oracle in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.networks.kernels.edits import Edits

__all__ = ["LARGEST", "distort_mask", "size_map"]

#: Largest size of the size map, and radius of its ball, in voxels.
LARGEST = 15


def _pairs(array: NDArray[Any], shift: int, axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the views array[i] and array[i + shift] along `axis`, for all i where both exist."""
    n = array.shape[axis]
    here, there = [slice(None)] * array.ndim, [slice(None)] * array.ndim
    here[axis] = slice(max(0, -shift), max(0, n - max(0, shift)))
    there[axis] = slice(max(0, shift), max(0, n + min(0, shift)))
    return array[tuple(here)], array[tuple(there)]


def size_map(mask: NDArray[np.uint8], threads: int = 1) -> NDArray[np.int32]:
    """Return the size map of a mask of 0 and 1; `threads` is not used."""
    if mask.all():
        return np.full(mask.shape, -1, np.int32)
    distance = mask * np.uint8(LARGEST)
    for axis in range(3):
        before = distance.copy()
        for shift in range(1 - LARGEST, LARGEST):
            target, _ = _pairs(distance, shift, axis)
            _, source = _pairs(before, shift, axis)
            np.minimum(target, np.maximum(source, np.uint8(abs(shift))), out=target)
    sizes, slid, offsets = distance.copy(), distance.copy(), range(-LARGEST, LARGEST + 1)
    for w in range(LARGEST + 1):  # `slid` is the maximum over |dx| <= w
        if w:
            for shift in (-w, w):
                target, _ = _pairs(slid, shift, 2)
                np.maximum(target, _pairs(distance, shift, 2)[1], out=target)
        for dz in offsets:
            for dy in offsets:
                room = LARGEST**2 - dz**2 - dy**2
                if w**2 <= room < (w + 1) ** 2:  # the ball is that wide here
                    target = _pairs(_pairs(sizes, dz, 0)[0], dy, 1)[0]
                    np.maximum(target, _pairs(_pairs(slid, dz, 0)[1], dy, 1)[1], out=target)
    return sizes.astype(np.int32)


def distort_mask(
    mask: NDArray[np.uint8],
    size: NDArray[np.int32],
    coefficients: NDArray[np.float64],
    tables: Sequence[NDArray[np.float64]],
    edits: Edits | None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return the distorted mask as warp.distort_mask does; `threads` is not used."""
    out = np.empty(mask.shape, np.float32)
    soft = mask.astype(np.float32)
    y, x = np.indices(mask.shape[1:])
    for z, weights in enumerate(tables[0]):
        fields = tables[1] @ np.tensordot(weights, coefficients, (0, 1)) @ tables[2].T
        places = fields[:3] * size[z] + np.stack([np.full_like(y, z), y, x])
        warped = ndimage.map_coordinates(soft, places, order=1, mode="nearest")
        if edits is not None:
            region, radius = fields[3], np.hypot(fields[4], fields[5])
            kept = 1 - edits.lost * _ramp((region - edits.lose_above) / edits.edge)
            tubes = _ramp((edits.tube - radius) / edits.edge)
            gained = edits.gained * _ramp((-region - edits.gain_above) / edits.edge) * tubes
            warped = np.maximum(warped * kept, gained)
        out[z] = warped
    return out


def _ramp(u: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(0.5 + u, 0, 1)
