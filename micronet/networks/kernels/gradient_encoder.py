"""Backward through up0.0's skip connection and down0: the last sweep over full-size planes.

The result of down0.0 was not kept: it is computed again, at a twentieth of the cost of a pass.
"""

from __future__ import annotations

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
from micronet.networks.kernels.microkernels import LINEAR
from micronet.networks.kernels.planes import add_taps, convolve, copy_plane, new_taps, start

__all__ = ["encode_gradient"]


@jit
def encode_gradient(
    kernels: tuple[int, ...],
    image: Array,
    mask: Array,
    x0: Array,
    given: Array,
    pooled: Array,
    z0: int,
    z1: int,
    weights: Array,
    bias: Array,
    backs: tuple[Array, ...],
    rings: tuple[Array, ...],
    sums: tuple[Sums, ...],
    totals: tuple[Totals, ...],
    zeros: Array,
) -> None:
    """Add what planes z0 .. z1 - 1 give to the weight gradients of down0.0, down0.1 and up0.0 (mask and x0).

    Parameters
    ----------
    kernels : (int, int, int)
        The addresses of microkernels.py.
    image, mask : ndarray of shape (Z, Y, X)
        The mask may have no planes (µ-Net).
    x0, given, pooled : ndarray
        Stacks of x0, of the gradient of up0.0's output and of the gradient of pooled x0.
    weights, bias : ndarray
        Taps and bias of down0.0.
    backs : two ndarray
        Flipped weights of down0.1, and of up0.0 to x0.
    rings : five ndarray
        Planes to work in: image, mask (5, 1); result of down0.0, gradients of down0.1 and down0.0 (3, 4).
    sums, totals
        Of down0.0, down0.1, up0.0.
    """
    depth, height, width = image.shape
    to_4, _, correlation = kernels
    images, masks, middle, second, first = rings
    taps = new_taps()
    for step in range(max(z0 - 3, 0), z1 + 3):
        if step < depth:
            copy_plane(image, step, images)
            if mask.shape[0]:
                copy_plane(mask, step, masks)
        z = step - 1
        if max(z0 - 2, 0) <= z < min(z1 + 2, depth):
            start(taps)
            add_taps(taps, images, z, depth, weights)
            convolve(to_4, taps, middle, z % 3, height, width, bias, LINEAR)
        z = step - 2
        if max(z0 - 1, 0) <= z < min(z1 + 1, depth):
            start(taps)
            add_adjoint_taps(taps, given, z, depth, backs[1])
            convolve_adjoint(to_4, taps, second, z % 3, height, width, zeros)
            finish_gradient(second, z % 3, z, pooled, x0, height, width)
            if z0 <= z < z1:
                start(taps)
                add_correlation_taps(taps, middle, z, depth, sums[1])
                correlate(correlation, taps, address(second, z % 3), second, height, width, sums[1])
                add_total(sums[1], totals[1], second, z % 3, height, width)
                start(taps)
                if mask.shape[0]:
                    add_correlation_taps(taps, masks, z, depth, sums[2])
                add_correlation_taps(taps, x0, z, depth, sums[2])
                correlate(correlation, taps, address(given, z), given, height, width, sums[2])
                add_total(sums[2], totals[2], given, z, height, width)
        z = step - 3
        if z0 <= z:
            start(taps)
            add_adjoint_taps(taps, second, z, depth, backs[0])
            convolve_adjoint(to_4, taps, first, z % 3, height, width, zeros)
            start(taps)
            add_correlation_taps(taps, images, z, depth, sums[0])
            correlate(correlation, taps, address(first, z % 3), first, height, width, sums[0])
            add_total(sums[0], totals[0], first, z % 3, height, width)
