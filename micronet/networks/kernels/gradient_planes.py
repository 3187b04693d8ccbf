"""What is done to one padded plane in the backward pass: the adjoint of each step of planes.py, and correlation.

A gradient plane is zero outside its voxels, two columns and rows wide. The adjoint of a convolution is one more
convolution, with flipped weights, computed on the voxels and their border; `fold_border` then adds the border to the
voxels that it showed. Oracle: PyTorch's gradients in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.jit import LANES, jit
from micronet.networks.kernels.layout import LEFT, TOP, Array, address, bands, reflect, vectors
from micronet.networks.kernels.microkernels import BLOCK, LINEAR
from micronet.networks.kernels.planes import Taps, convolve_at, start
from micronet.networks.kernels.simd import SELU_ALPHA, SELU_SCALE, call_c

__all__ = [
    "Sums",
    "Totals",
    "add_adjoint_taps",
    "add_correlation_taps",
    "add_plane",
    "add_shown_correlation_taps",
    "add_total",
    "convolve_adjoint",
    "correlate",
    "finish_gradient",
    "list_adjoint_plane",
    "new_sums",
    "new_totals",
    "sum_shown",
]

#: Running sums of one plane, float32 (z taps or sets of them, inputs, dy, dx, outputs, lanes); the last is a spare.
Sums = NDArray[np.float32]
#: Sums over planes, float64, in the shape of `Sums`; the spare holds the bias's, [-1, 0, 0, 0, output, 0].
Totals = NDArray[np.float64]


def new_sums(members: int, inputs: int) -> Sums:
    """Return sums for `members` z taps or sets of z taps."""
    return np.zeros((members + 1, inputs, 3, 3, 4, LANES), np.float32)


def new_totals(members: int, inputs: int) -> Totals:
    """Return totals for `members` z taps or sets of z taps."""
    return np.zeros((members + 1, inputs, 3, 3, 4, LANES))


@jit
def list_adjoint_plane(taps: Taps, stack: Array, slot: int, back: Array, members: int) -> None:
    """List the channels of a gradient plane with the flipped weights of a set of z taps."""
    row = 4 * stack.shape[3]
    channel = row * stack.shape[2]
    plane = address(stack, slot) - 2 * row - 4
    count, outputs = taps[-1, 0], back.shape[1]
    for c in range(min(stack.shape[1], outputs)):
        taps[count, 0] = plane + c * channel
        taps[count, 1] = back.ctypes.data + 4 * BLOCK * (members * outputs + c)
        count += 1
    taps[-1, 0] = count


@jit
def add_adjoint_taps(taps: Taps, stack: Array, z: int, depth: int, back: Array) -> None:
    """List what the gradient of a convolution's outputs adds to the gradient of its input plane z.

    The adjoint of `add_taps` along z: every (plane, dz) with ``reflect(plane + dz - 1) == z``.
    """
    for plane in range(max(z - 1, 0), min(z + 2, depth)):
        for dz in range(3):
            if reflect(plane + dz - 1, depth) == z:
                list_adjoint_plane(taps, stack, plane % stack.shape[0], back, 1 << dz)


@jit
def convolve_adjoint(kernel: int, taps: Taps, stack: Array, slot: int, height: int, width: int, zeros: Array) -> None:
    """Write the gradient that the listed planes give into `slot`, border folded; `zeros` is the bias."""
    row = 4 * stack.shape[3]
    convolve_at(
        kernel,
        taps,
        address(stack, slot) - row - 4,
        row * stack.shape[2],
        row,
        bands(height + 2),
        vectors(width + 2),
        zeros,
        LINEAR,
    )
    last, right = TOP + height, LEFT + width
    for c in range(stack.shape[1]):
        for y in range(TOP - 1, last + 1):
            line = stack[slot, c, y]
            line[LEFT + 1] += line[LEFT - 1]
            line[right - 2] += line[right]
            line[LEFT - 1] = 0
            for x in range(right, line.shape[0]):
                line[x] = 0
        for x in range(LEFT, right):
            stack[slot, c, TOP + 1, x] += stack[slot, c, TOP - 1, x]
            stack[slot, c, last - 2, x] += stack[slot, c, last, x]
        for x in range(stack.shape[3]):
            stack[slot, c, TOP - 1, x] = 0
        for y in range(last, stack.shape[2]):
            for x in range(stack.shape[3]):
                stack[slot, c, y, x] = 0


@jit
def finish_gradient(
    gradient: Array, slot: int, z: int, pooled: Array, activated: Array, height: int, width: int
) -> None:
    """Add the gradient that came through average pooling, then multiply by SELU's slope.

    `pooled` is the gradient of the averages, `activated` SELU's value y, whose slope is scale for y > 0, else
    y + scale * alpha; either may have no planes, and is then left out.
    """
    scale, floor = np.float32(SELU_SCALE), np.float32(SELU_SCALE * SELU_ALPHA)
    share = np.zeros(width, np.float32)
    for c in range(gradient.shape[1]):
        for y in range(height):
            # rows as arrays of their own, else the compiler does not see that they may be computed in vectors
            row = gradient[slot, c, TOP + y, LEFT : LEFT + width]
            if z // 4 < pooled.shape[0] and y < height // 4 * 4:
                if y % 4 == 0:
                    for x in range(width // 4 * 4):
                        share[x] = pooled[z // 4, c, TOP + y // 4, LEFT + x // 4] * np.float32(1 / 64)
                for x in range(width):
                    row[x] += share[x]
            if activated.shape[0]:
                values = activated[z % activated.shape[0], c, TOP + y, LEFT : LEFT + width]
                for x in range(width):
                    row[x] *= scale if values[x] > 0 else values[x] + floor


@jit
def add_plane(gradient: Array, slot: int, target: Array, height: int, width: int, anew: bool) -> None:
    """Add the voxels of a plane to plane 0 of `target`, or put them there."""
    for c in range(gradient.shape[1]):
        for y in range(TOP, TOP + height):
            row = gradient[slot, c, y, LEFT : LEFT + width]
            total = target[0, c, y, LEFT : LEFT + width]
            if anew:
                total[:] = 0
            for x in range(width):
                total[x] += row[x]


@jit
def sum_shown(gradient: Array, slot: int, target: Array, z: int, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> None:
    """Adjoint of `upsample`: add every voxel (y, x) of a plane to voxel (ys[y], xs[x]) of `target`."""
    width = xs.shape[0]
    line = np.zeros(width, np.float32)
    for c in range(gradient.shape[1]):
        for y in range(ys.shape[0]):
            row = gradient[slot, c, TOP + y, LEFT : LEFT + width]
            for x in range(width):
                line[x] += row[x]
            if y + 1 == ys.shape[0] or ys[y + 1] != ys[y]:
                shown = target[z, c, TOP + ys[y]]
                for x in range(width):
                    shown[LEFT + xs[x]] += line[x]
                    line[x] = 0


@jit
def _list_correlation(taps: Taps, stack: Array, slot: int, sums: Sums, member: int) -> None:
    """List the channels of an input plane, three rows dy each, with the sums of a z tap or set of z taps."""
    row = 4 * stack.shape[3]
    channel = row * stack.shape[2]
    plane = address(stack, slot)
    count, first, inputs = taps[-1, 0], taps[-1, 1], sums.shape[1]
    for c in range(min(stack.shape[1], inputs - first)):
        for dy in range(3):
            taps[count, 0] = plane + c * channel + (dy - 1) * row
            taps[count, 1] = sums.ctypes.data + 48 * LANES * ((member * inputs + first + c) * 3 + dy)
            count += 1
    taps[-1, 0] = count


@jit
def add_correlation_taps(taps: Taps, stack: Array, z: int, depth: int, sums: Sums) -> None:
    """List the planes that a convolution's output plane z saw, the channels being its next inputs."""
    for dz in range(3):
        _list_correlation(taps, stack, reflect(z + dz - 1, depth) % stack.shape[0], sums, dz)
    taps[-1, 1] += stack.shape[1]


@jit
def add_shown_correlation_taps(taps: Taps, stack: Array, slot: int, sums: Sums, members: int) -> None:
    """List one upsampled plane that a set of z taps saw; its channels are the inputs."""
    _list_correlation(taps, stack, slot, sums, members)


@jit
def correlate(kernel: int, taps: Taps, gradient: int, stack: Array, height: int, width: int, sums: Sums) -> None:
    """Add gradient x plane, over `height` rows from address `gradient` on, to the sums of all listed planes."""
    row = 4 * stack.shape[3]
    count = taps[-1, 0]
    if count % 2:
        taps[count, 0] = taps[count - 1, 0]
        taps[count, 1] = sums.ctypes.data + 4 * (sums.size - 12 * LANES)
        count += 1
    call_c(
        kernel,
        (taps.ctypes.data, count // 2, gradient, row * stack.shape[2], row, height, vectors(width)),
    )
    start(taps)


@jit
def add_total(sums: Sums, totals: Totals, gradient: Array, slot: int, height: int, width: int) -> None:
    """Add the sums of a plane, and the sum of its gradient (of the bias), to the totals; zero the sums."""
    running, total = sums.reshape(sums.size), totals.reshape(totals.size)
    for k in range(sums[:-1].size):
        total[k] += running[k]
        running[k] = 0
    line = np.zeros(width, np.float32)
    for c in range(gradient.shape[1]):
        for y in range(TOP, TOP + height - 3, 4):  # four rows at a time: the line is read and written less often
            first = gradient[slot, c, y, LEFT : LEFT + width]
            second = gradient[slot, c, y + 1, LEFT : LEFT + width]
            third = gradient[slot, c, y + 2, LEFT : LEFT + width]
            fourth = gradient[slot, c, y + 3, LEFT : LEFT + width]
            for x in range(width):
                line[x] += (first[x] + second[x]) + (third[x] + fourth[x])
        for y in range(TOP + height // 4 * 4, TOP + height):
            for x in range(width):
                line[x] += gradient[slot, c, y, LEFT + x]
        for x in range(width):
            totals[-1, 0, 0, 0, c, 0] += line[x]
            line[x] = 0
