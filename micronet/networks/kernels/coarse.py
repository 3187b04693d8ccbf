"""Steps of the coarse levels (1/4 and 1/16 of the size): whole stacks, plane by plane, planes z0 .. z1 - 1.

These levels hold 1/64 and 1/4096 of the voxels, so every step simply writes its result to memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.gradient_planes import (
    Sums,
    Totals,
    add_adjoint_taps,
    add_correlation_taps,
    add_total,
    convolve_adjoint,
    correlate,
    finish_gradient,
)
from micronet.networks.kernels.jit import jit
from micronet.networks.kernels.layout import Array, address
from micronet.networks.kernels.planes import add_taps, convolve, new_taps, pool_plane, start, upsample

__all__ = ["convolve_stack", "finish_stack", "gradient_stack", "pool_stack", "upsample_stack"]


@jit
def convolve_stack(
    kernel: int,
    z0: int,
    z1: int,
    sources: tuple[Array, Array],
    weights: Array,
    bias: Array,
    activation: int,
    target: Array,
    size: tuple[int, int, int],
) -> None:
    """Convolve two sources, one after the other (the second may have no planes: none is meant)."""
    depth, height, width = size
    taps = new_taps()
    for z in range(z0, z1):
        start(taps)
        add_taps(taps, sources[0], z, depth, weights)
        if sources[1].shape[0]:
            add_taps(taps, sources[1], z, depth, weights)
        convolve(kernel, taps, target, z, height, width, bias, activation)


@jit
def pool_stack(z0: int, z1: int, source: Array, target: Array, size: tuple[int, int, int]) -> None:
    """Average 4x4x4 voxels of `source`, of which `size` is the size, into planes z0 .. z1 - 1 of `target`."""
    for z in range(4 * z0, 4 * z1):
        pool_plane(source, z, target, size[1], size[2])


@jit
def upsample_stack(
    z0: int,
    z1: int,
    source: Array,
    target: Array,
    nearest: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """Show voxel (nearest[0][z], nearest[1][y], nearest[2][x]) of `source` at (z, y, x)."""
    for z in range(z0, z1):
        upsample(source, nearest[0][z], target, z, nearest[1], nearest[2])


@jit
def gradient_stack(
    kernels: tuple[int, int, int],
    z0: int,
    z1: int,
    given: Array,
    sources: tuple[Array, Array],
    back: Array,
    target: Array,
    sums: Sums,
    totals: Totals,
    zeros: Array,
    size: tuple[int, int, int],
) -> None:
    """Go back through `convolve_stack`: weight gradients into `totals`, the gradient of (some) inputs into `target`.

    `given` is the gradient of the convolution's output; `back` leads to the inputs that `target` stands for.
    """
    depth, height, width = size
    taps = new_taps()
    for z in range(z0, z1):
        start(taps)
        add_correlation_taps(taps, sources[0], z, depth, sums)
        if sources[1].shape[0]:
            add_correlation_taps(taps, sources[1], z, depth, sums)
        correlate(kernels[2], taps, address(given, z), given, height, width, sums)
        add_total(sums, totals, given, z, height, width)
        start(taps)
        add_adjoint_taps(taps, given, z, depth, back)
        convolve_adjoint(kernels[0], taps, target, z, height, width, zeros)


@jit
def finish_stack(
    z0: int, z1: int, gradient: Array, pooled: Array, activated: Array, size: tuple[int, int, int]
) -> None:
    """Add what came through pooling and multiply by SELU's slope, plane by plane (gradient_planes.py)."""
    for z in range(z0, z1):
        finish_gradient(gradient, z, z, pooled, activated, size[1], size[2])
