"""Where a voxel lies in memory.

A stack is a float32 array (slots, channels, rows, pitch) of padded planes. A whole volume has a slot for every z; a
ring has a few, and plane z lies in slot ``z % slots``. Voxel (y, x) of a plane is at row ``TOP + y``, column
``LEFT + x``::

            LEFT          X        to the next multiple of LANES
    row 0   . . . . | . . . . . . | . . . .      TOP rows above
            . . . b | b b b b b b | b . . .      b: border of one voxel, the plane reflected
    TOP     . . . b | voxels      | b . . .         (in a gradient: zeros, two wide)
            . . . b |             | b . . .
            . . . b | b b b b b b | b . . .
            . . . . | . . . . . . | . . . .      up to a multiple of BAND rows: scratch

so that whole vectors can be read at x - 1, x and x + 1 and whole bands written anywhere. What is outside the border
is finite and never reaches a voxel. Reflection along z is not stored: it is a choice of planes (`reflect`).
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from micronet.core.threads import split
from micronet.networks.kernels.jit import LANES, jit
from micronet.networks.kernels.kept import aligned_zeros, lend
from micronet.networks.kernels.microkernels import BAND

__all__ = ["LEFT", "TOP", "Array", "address", "bands", "kept_stack", "new_stack", "reflect", "strips", "vectors"]

Array = NDArray[np.float32]

#: Columns before and rows above the first voxel; two are needed for the border of gradients.
LEFT = max(LANES, 4)
TOP = 2

# Floats of a strip of a plane. The rings of a sweep are about 50 of them: two threads' share the last cache.
_STRIP = 44_000


def _crowding(rows: int, pitch: int) -> int:
    """Return how unevenly a convolution's input lies in the first cache: the sum of squares over the cache's places.

    The cache has 64 places, each for one line of 64 bytes out of 64. At one moment a convolution holds four lines of
    `BAND` + 2 rows of about twelve planes.
    """
    lines = np.arange(12)[:, None, None] * rows * pitch * 4 // 64 + np.arange(BAND + 2)[:, None] * pitch * 4 // 64
    return int((np.bincount((lines + np.arange(4)).ravel() % 64, minlength=64) ** 2).sum())


@functools.cache
def _rows_and_pitch(height: int, width: int) -> tuple[int, int]:
    rows = TOP + bands(height + 2) * BAND + 1
    pitch = LEFT + vectors(width + 2) * LANES
    if pitch // LANES % 2 == 0:
        pitch += LANES  # odd, else rows below each other compete for the same few places of the first cache
    return min(range(rows, rows + 8), key=lambda longer: _crowding(longer, pitch)), pitch


def _stack_shape(slots: int, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    return slots, channels, *_rows_and_pitch(height, width)


def new_stack(slots: int, channels: int, height: int, width: int) -> Array:
    """Return zeros (slots, channels, rows, pitch) for planes of `height` rows and `width` columns."""
    shape = _stack_shape(slots, channels, height, width)
    return aligned_zeros(math.prod(shape)).reshape(shape)


def kept_stack(slots: int, channels: int, height: int, width: int) -> Array:
    """`new_stack` for results of convolutions, in memory that is kept for the next one.

    Zeros around planes, their border and scratch, not in them. Where planes of this size lay before, nothing else was
    written to, and a convolution will write all of it again.
    """
    shape = _stack_shape(slots, channels, height, width)
    *_, rows, pitch = shape
    numbers, clean = lend(math.prod(shape), (height, width))
    if not clean:
        planes = numbers[: len(numbers) // (rows * pitch) * rows * pitch].reshape(-1, rows, pitch)
        planes[:, : TOP - 1] = 0
        planes[:, TOP + height + 1 :] = 0
        planes[..., : LEFT - 1] = 0
        planes[..., LEFT + width + 1 :] = 0
    return numbers[: math.prod(shape)].reshape(shape)


def strips(height: int, width: int) -> list[tuple[int, int]]:
    """Cut the rows of a plane into strips (first, end) that fit the caches; a plane of moderate size is one.

    They start at multiples of 4, for pooling, and of `BAND`, so that whole bands end within the plane's stack.
    """
    return split(height, -(-height * (width + LEFT) // _STRIP), 4 * BAND)


@jit
def bands(height: int) -> int:
    """Return how many bands cover `height` rows."""
    return (height + BAND - 1) // BAND


@jit
def vectors(width: int) -> int:
    """Return how many vectors cover `width` columns."""
    return (width + LANES - 1) // LANES


@jit
def address(stack: Array, slot: int) -> int:
    """Return the address of the first voxel of channel 0; the caller keeps `stack` alive."""
    index = (slot * stack.shape[1] * stack.shape[2] + TOP) * stack.shape[3] + LEFT
    return int(stack.ctypes.data + 4 * index)


@jit
def reflect(z: int, length: int) -> int:
    """Return the plane that reflect padding shows at z, for z in -1 .. length."""
    if z < 0:
        return -z
    if z >= length:
        return 2 * (length - 1) - z
    return z
