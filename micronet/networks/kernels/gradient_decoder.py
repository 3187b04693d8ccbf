"""Backward through up0: from the probability's gradient to that of up0.0's output (and, from there, of x3).

The mirror of decoder.py: one pass over z, a ring of three planes behind each adjoint convolution. Only the gradient
of up0.0's output is kept at full size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.gradient_planes import (
    Sums,
    Totals,
    add_adjoint_taps,
    add_correlation_taps,
    add_plane,
    add_shown_correlation_taps,
    add_total,
    convolve_adjoint,
    correlate,
    finish_gradient,
    list_adjoint_plane,
    sum_shown,
)
from micronet.networks.kernels.jit import LANES, jit
from micronet.networks.kernels.layout import LEFT, TOP, Array, address, reflect
from micronet.networks.kernels.planes import Taps, new_taps, start, upsample

__all__ = ["decode_gradient", "largest", "upsampled_gradient"]

#: A sigmoid's slope below this counts as 0: with it, products are subnormal and hold no digits.
_FLATTEST = np.float32(1e-30)

_ALL = 0b111  # all three z taps


@jit
def largest(probability: Array, given: Array, z0: int, z1: int) -> tuple[float, float]:
    """Return the largest size of `given`, and of `given` times the sigmoid's slope, in planes z0 .. z1 - 1."""
    _, height, width = probability.shape
    # the largest of each column: so the compiler can do it in vectors
    outer, inner = np.zeros(width, np.float32), np.zeros(width, np.float64)
    for z in range(z0, z1):
        for y in range(height):
            for x in range(width):
                p = probability[z, y, x]
                slope = p * (np.float32(1) - p)
                size = abs(given[z, y, x])
                outer[x] = size if size > outer[x] else outer[x]
                # in double precision: the compiler multiplies before it compares
                product = np.float64(size) * np.float64(slope) if slope >= _FLATTEST else 0.0
                inner[x] = product if product > inner[x] else inner[x]
    return float(outer.max()), float(inner.max())


@jit
def decode_gradient(
    kernels: tuple[int, ...],
    probability: Array,
    given: Array,
    scale: Array,
    z0: int,
    z1: int,
    saved: tuple[Array, ...],
    backs: tuple[Array, ...],
    rings: tuple[Array, ...],
    result: Array,
    sums: tuple[Sums, ...],
    totals: tuple[Totals, ...],
    zeros: Array,
) -> None:
    """Compute planes z0 .. z1 - 1 of the gradient of up0.0's output, and their share of the weight gradients.

    Parameters
    ----------
    kernels : (int, int, int)
        The addresses of microkernels.py.
    probability, given : ndarray of shape (Z, Y, X)
        The forward result and the gradient with respect to it.
    scale : ndarray of shape (2,)
        What the gradient is multiplied by, and the slope of the sigmoid below which it is 0.
    saved : three ndarray
        Results of up0.0, up0.1, up0.3 as decoder.py kept them for this part: plane z in slot z % slots.
    backs : three ndarray
        Flipped weights of up0.1, up0.3, up0.4.
    rings : three ndarray
        Planes to work in: gradients of up0.4 (3, 1), of up0.3 and up0.1 (3, 4).
    result : ndarray
        Stack of Z x 4 planes.
    sums, totals
        Of up0.1, up0.3 and up0.4. The last, of one output, is [dz][0][2 - dy][2 - dx][input]: see `_correlate_1`.
    """
    depth, height, width = probability.shape
    to_4, _, correlation = kernels
    last, third, second = rings
    taps = new_taps()
    nothing = result[:0]
    factor, flattest = scale[0], scale[1]
    for z in range(max(z0 - 3, 0), z1 + 3):
        if z < min(z1 + 3, depth):
            for y in range(height):
                row = last[z % 3, 0, TOP + y, LEFT : LEFT + width]
                for x in range(width):
                    p = probability[z, y, x]
                    slope = p * (np.float32(1) - p)
                    # in this order no product is subnormal: the factor brings what is given near 1
                    row[x] = given[z, y, x] * factor * slope if slope >= flattest else np.float32(0)
        here = z - 1
        if max(z0 - 2, 0) <= here < min(z1 + 2, depth):
            start(taps)
            add_adjoint_taps(taps, last, here, depth, backs[2])
            convolve_adjoint(to_4, taps, third, here % 3, height, width, zeros)
            if z0 <= here < z1:
                _correlate_1(correlation, taps, saved[2], here, depth, last, height, width, sums[2])
                add_total(sums[2], totals[2], last, here % 3, height, width)
                start(taps)
                add_correlation_taps(taps, saved[1], here, depth, sums[1])
                correlate(correlation, taps, address(third, here % 3), third, height, width, sums[1])
                add_total(sums[1], totals[1], third, here % 3, height, width)
        here = z - 2
        if max(z0 - 1, 0) <= here < min(z1 + 1, depth):
            start(taps)
            add_adjoint_taps(taps, third, here, depth, backs[1])
            convolve_adjoint(to_4, taps, second, here % 3, height, width, zeros)
            finish_gradient(second, here % 3, here, nothing, saved[1], height, width)
            if z0 <= here < z1:
                start(taps)
                add_correlation_taps(taps, saved[0], here, depth, sums[0])
                correlate(correlation, taps, address(second, here % 3), second, height, width, sums[0])
                add_total(sums[0], totals[0], second, here % 3, height, width)
        here = z - 3
        if z0 <= here:
            start(taps)
            add_adjoint_taps(taps, second, here, depth, backs[0])
            convolve_adjoint(to_4, taps, result, here, height, width, zeros)


@jit
def _correlate_1(
    kernel: int,
    taps: Taps,
    inputs: Array,
    z: int,
    depth: int,
    gradient: Array,
    height: int,
    width: int,
    sums: Sums,
) -> None:
    """Correlate for a convolution to one output: here the four inputs take the place of four outputs.

    weight gradient[i, dz, dy, dx] = sum over padded input voxels q of input_i[q] * gradient[q - (dz, dy, dx)], so the
    gradient is what is seen, through taps flipped along y and x, by every voxel of the input and its border.
    """
    row = 4 * gradient.shape[3]
    start(taps)
    for plane in range(max(z - 1, 0), min(z + 2, depth)):
        for dz in range(3):
            if reflect(plane + dz - 1, depth) == z:
                for k in range(3):
                    count = taps[-1, 0]
                    taps[count, 0] = address(gradient, plane % 3) + (k - 2) * row - 4
                    taps[count, 1] = sums.ctypes.data + 48 * LANES * (dz * 3 + k)
                    taps[-1, 0] = count + 1
    border = address(inputs, z % inputs.shape[0]) - 4 * inputs.shape[3] - 4
    correlate(kernel, taps, border, inputs, height + 2, width + 2, sums)


@jit
def upsampled_gradient(
    kernels: tuple[int, ...],
    z0: int,
    z1: int,
    gradient: Array,
    nearest: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    source: Array,
    back: Array,
    target: Array,
    rings: tuple[Array, ...],
    sums: Sums,
    totals: Totals,
    zeros: Array,
) -> None:
    """Go back from a convolution's output to its upsampled inputs: coarse planes z0 .. z1 - 1.

    Parameters
    ----------
    gradient : ndarray
        Stack of the gradient of the convolution's output.
    source, target : ndarray
        Stacks of the inputs before upsampling, and of their gradient; the target is zeros.
    back : ndarray
        Flipped weights that lead to these inputs.
    rings : three ndarray
        Planes to work in, (1, 4) each.
    sums, totals
        By set of z taps (weights.py).
    """
    coarse, ys, xs = nearest
    depth, height, width = coarse.shape[0], ys.shape[0], xs.shape[0]
    shown, back_shown, inner = rings
    listed, taps = new_taps(), new_taps()
    for here in range(z0, z1):
        slot = here % 1
        upsample(source, here, shown, slot, ys, xs)
        start(listed)
        within = 0
        for z in range(depth):
            members = 0
            for dz in range(3):
                if coarse[reflect(z + dz - 1, depth)] == here:
                    members |= 1 << dz
            if members == _ALL:  # planes with the same taps are one, their sum
                add_plane(gradient, z, inner, height, width, within == 0)
                within += 1
            elif members:
                _see(kernels[2], taps, listed, gradient, z, members, shown, slot, back, sums, height, width)
        if within:
            _see(kernels[2], taps, listed, inner, slot, _ALL, shown, slot, back, sums, height, width)
        add_total(sums, totals, shown, slot, 0 * height, width)
        convolve_adjoint(kernels[0], listed, back_shown, slot, height, width, zeros)
        sum_shown(back_shown, slot, target, here, ys, xs)


@jit
def _see(
    kernel: int,
    taps: Taps,
    listed: Taps,
    gradient: Array,
    z: int,
    members: int,
    shown: Array,
    slot: int,
    back: Array,
    sums: Sums,
    height: int,
    width: int,
) -> None:
    """List a gradient plane for the adjoint, and correlate it with the upsampled plane it saw through `members`."""
    list_adjoint_plane(listed, gradient, z, back, members)
    start(taps)
    add_shown_correlation_taps(taps, shown, slot, sums, members)
    correlate(kernel, taps, address(gradient, z), gradient, height, width, sums)
