"""What is done to one padded plane (layout.py) in the forward pass: convolve, reflect, pool, upsample.

Compiled functions without checks; stacks, slots and tables are right by construction of their callers. Oracles:
PyTorch's conv3d with reflect padding, avg_pool3d and nearest interpolate in float64.

Two habits keep compiling short: loops instead of slices (numba compiles the text of an error message into every
slice assignment), and no plain numbers as arguments (every one makes another version of the function).
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.jit import jit
from micronet.networks.kernels.layout import LEFT, TOP, Array, address, bands, reflect, vectors
from micronet.networks.kernels.microkernels import BLOCK, LINEAR
from micronet.networks.kernels.simd import call_c

__all__ = [
    "Line",
    "Taps",
    "add_strip_taps",
    "add_taps",
    "add_upsampled_taps",
    "convolve",
    "convolve_at",
    "convolve_rows",
    "copy_plane",
    "copy_strip",
    "new_taps",
    "pool_plane",
    "pool_strip",
    "reflect_border",
    "rescale",
    "start",
    "upsample",
]

#: Table of plane and weight addresses, as microkernels.py reads it. The last row holds how many are listed and the
#: next input channel of the weights.
Taps = NDArray[np.int64]

#: How a mask is read: (scale, offset) stands for ``scale * v - offset``.
Line = tuple[float, float]

_PLANES = 10  # most planes that one call of a micro-kernel reads

_TOP_ROW = cast(int, np.int64(0))  # typed, see microkernels.py: a plain 0 would compile its reader once more


@jit
def new_taps() -> Taps:
    """Return an empty table; 64 rows are more than any convolution here needs (9 inputs, 3 planes each)."""
    return np.zeros((64, 2), np.int64)


@jit
def start(taps: Taps) -> None:
    """Empty the table."""
    taps[-1, 0] = 0
    taps[-1, 1] = 0


@jit
def _list_plane(taps: Taps, stack: Array, slot: int, first: int, weights: Array, members: int) -> None:
    """List the channels of a plane, from row `first` on, with the weights of a set of z taps, as the next inputs."""
    row = 4 * stack.shape[3]
    channel = row * stack.shape[2]
    plane = address(stack, slot) + (first - 1) * row
    count, done, inputs = taps[-1, 0], taps[-1, 1], weights.shape[1]
    for c in range(min(stack.shape[1], inputs - done)):
        taps[count, 0] = plane + c * channel
        taps[count, 1] = weights.ctypes.data + 4 * BLOCK * (members * inputs + done + c)
        count += 1
    taps[-1, 0] = count


@jit
def add_taps(taps: Taps, stack: Array, z: int, depth: int, weights: Array) -> None:
    """List what the channels of a stack, the next inputs of a convolution, add to its output plane z.

    Reflect padding along z: plane ``reflect(z + dz - 1)`` is seen through z tap dz.
    """
    add_strip_taps(taps, stack, z, depth, _TOP_ROW, weights)


@jit
def add_strip_taps(taps: Taps, stack: Array, z: int, depth: int, first: int, weights: Array) -> None:
    """`add_taps` for an output whose row 0 lies at row `first` of the stack's planes."""
    for dz in range(3):
        _list_plane(taps, stack, reflect(z + dz - 1, depth) % stack.shape[0], first, weights, 1 << dz)
    taps[-1, 1] += stack.shape[1]


@jit
def add_upsampled_taps(taps: Taps, stack: Array, z: int, coarse: NDArray[np.int64], weights: Array) -> None:
    """`add_taps` for planes upsampled along z by showing plane ``coarse[z]`` at z.

    Z taps that see the same coarse plane are one tap with the sum of their weights.
    """
    depth = coarse.shape[0]
    done = 0
    for dz in range(3):
        shown = coarse[reflect(z + dz - 1, depth)]
        members = 0
        for other in range(3):
            if coarse[reflect(z + other - 1, depth)] == shown:
                members |= 1 << other
        if not done & members:
            _list_plane(taps, stack, shown % stack.shape[0], _TOP_ROW, weights, members)
        done |= members
    taps[-1, 1] += stack.shape[1]


@jit
def convolve(
    kernel: int, taps: Taps, stack: Array, slot: int, height: int, width: int, bias: Array, activation: int
) -> None:
    """Write the convolution of the listed planes, with its border, into the channels of `slot`."""
    convolve_rows(kernel, taps, stack, slot, _TOP_ROW, height, width, bias, activation)
    reflect_border(stack, slot, height, width)


@jit
def convolve_rows(
    kernel: int, taps: Taps, stack: Array, slot: int, first: int, rows: int, width: int, bias: Array, activation: int
) -> None:
    """Write the convolution of the listed planes into `rows` rows of `slot` from `first` on; no border."""
    row = 4 * stack.shape[3]
    convolve_at(
        kernel,
        taps,
        address(stack, slot) + first * row,
        row * stack.shape[2],
        row,
        bands(rows),
        vectors(width),
        bias,
        activation,
    )


@jit
def convolve_at(
    kernel: int,
    taps: Taps,
    target: int,
    channel: int,
    pitch: int,
    bands: int,
    vectors: int,
    bias: Array,
    activation: int,
) -> None:
    """Call the micro-kernel, all listed planes in turn: the rows of many planes would not fit the first cache.

    Beside fours of planes, the three of a mask come alone: where their weights are 0, as in a µr-Net that was just
    bootstrapped, the sums are the µ-Net's to the bit. Lengths and addresses are in bytes and as microkernels.py says.
    """
    count = taps[-1, 0]
    alone = count % 4 if count > _PLANES else 0
    calls = max((count - alone + _PLANES - 1) // _PLANES, 1)
    first = 0
    for call in range(-1 if alone else 0, calls):
        end = alone + (count - alone) * (call + 1) // calls
        begin = int(np.int64(bias.ctypes.data)) if first == 0 else 0
        curve = activation if end == count else LINEAR
        given = taps.ctypes.data + taps.strides[0] * first
        call_c(kernel, (given, end - first, target, channel, pitch, bands, vectors, begin, curve))
        first = end


@jit
def copy_plane(volume: Array, z: int, stack: Array) -> None:
    """Copy plane z of a volume (Z, Y, X) into channel 0 of a ring, with its border."""
    copy_strip(volume, z, _TOP_ROW, volume.shape[1], stack)


@jit
def copy_strip(volume: Array, z: int, first: int, rows: int, stack: Array) -> None:
    """Copy `rows` rows of plane z, from `first` on, as if they were the whole plane: the border reflects them."""
    width = volume.shape[2]
    slot = z % stack.shape[0]
    for y in range(rows):
        for x in range(width):
            stack[slot, 0, TOP + y, LEFT + x] = volume[z, first + y, x]
    reflect_border(stack, slot, rows, width)


@jit
def rescale(stack: Array, slot: int, height: int, width: int, line: Line) -> None:
    """Replace every v of channel 0 and its border by ``line[0] * v - line[1]``, in float32."""
    scale, offset = np.float32(line[0]), np.float32(line[1])
    for y in range(TOP - 1, TOP + height + 1):
        row = stack[slot, 0, y, LEFT - 1 : LEFT + width + 1]
        for x in range(width + 2):
            row[x] = row[x] * scale - offset


@jit
def reflect_border(stack: Array, slot: int, height: int, width: int) -> None:
    """Fill the border of one voxel: v[-1] = v[1] and v[n] = v[n - 2] in both directions."""
    last, right = TOP + height, LEFT + width
    for c in range(stack.shape[1]):
        for y in range(TOP, last):
            stack[slot, c, y, LEFT - 1] = stack[slot, c, y, LEFT + 1]
            stack[slot, c, y, right] = stack[slot, c, y, right - 2]
        for x in range(LEFT - 1, right + 1):
            stack[slot, c, TOP - 1, x] = stack[slot, c, TOP + 1, x]
            stack[slot, c, last, x] = stack[slot, c, last - 2, x]


@jit
def pool_plane(stack: Array, z: int, target: Array, height: int, width: int) -> None:
    """Add plane z to the averages over 4x4x4 voxels, channel by channel.

    Trailing rows and columns that fill no cube are dropped, as avg_pool3d does. Planes come in order; the fourth one
    finishes the averaged plane and its border.
    """
    pool_strip(stack, z, _TOP_ROW, height, target, width)
    if z % 4 == 3:
        reflect_border(target, z // 4, height // 4, width // 4)


@jit
def pool_strip(stack: Array, z: int, first: int, end: int, target: Array, width: int) -> None:
    """`pool_plane` for rows first .. end - 1 alone, without border; `first` is a multiple of 4."""
    slot, coarse = z % stack.shape[0], z // 4
    for c in range(stack.shape[1]):
        for y in range(first, end // 4 * 4):
            row = TOP + y // 4
            for x in range(width // 4):
                at = LEFT + 4 * x
                left = stack[slot, c, TOP + y, at] + stack[slot, c, TOP + y, at + 1]
                right = stack[slot, c, TOP + y, at + 2] + stack[slot, c, TOP + y, at + 3]
                total = (left + right) * np.float32(1 / 64)
                if z % 4 + y % 4:
                    total += target[coarse, c, row, LEFT + x]
                target[coarse, c, row, LEFT + x] = total


@jit
def upsample(
    source: Array, slot: int, target: Array, target_slot: int, ys: NDArray[np.int64], xs: NDArray[np.int64]
) -> None:
    """Show voxel (ys[y], xs[x]) of every channel of a plane at (y, x), with border."""
    width = xs.shape[0]
    for c in range(target.shape[1]):
        for y in range(ys.shape[0]):
            row = target[target_slot, c, TOP + y, LEFT : LEFT + width]
            if y > 0 and ys[y] == ys[y - 1]:  # a copy is six times as fast as looking up
                above = target[target_slot, c, TOP + y - 1, LEFT : LEFT + width]
                for x in range(width):
                    row[x] = above[x]
            else:
                shown = source[slot, c, TOP + ys[y]]
                for x in range(width):
                    row[x] = shown[LEFT + xs[x]]
    reflect_border(target, target_slot, ys.shape[0], width)
