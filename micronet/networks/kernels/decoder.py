"""Full-resolution sweep up: x0, upsampled x3 (and mask) -> up0 -> probability.

One pass over z with a ring of three planes behind each convolution: plane z + 3 of the first convolution, z + 2 of
the second, z + 1 of the third and z of the probability are computed in turn. Nothing is concatenated or upsampled in
memory but for a ring of three upsampled planes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.jit import jit
from micronet.networks.kernels.layout import LEFT, TOP, Array
from micronet.networks.kernels.microkernels import LINEAR, SELU, SIGMOID
from micronet.networks.kernels.planes import (
    Line,
    add_strip_taps,
    add_taps,
    add_upsampled_taps,
    convolve,
    copy_strip,
    new_taps,
    rescale,
    start,
    upsample,
)

__all__ = ["AROUND", "decode"]

#: Rows that a strip is computed with on either side.
AROUND = 4


@jit
def decode(
    kernels: tuple[int, ...],
    x0: Array,
    x3: Array,
    mask: Array,
    line: Line,
    z0: int,
    z1: int,
    y0: int,
    y1: int,
    nearest: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    weights: tuple[Array, ...],
    biases: tuple[Array, ...],
    rings: tuple[Array, ...],
    probability: Array,
) -> None:
    """Compute the probability of rows y0 .. y1 - 1 of planes z0 .. z1 - 1.

    Inside the volume, a strip is computed with `AROUND` more rows on either side, one for each convolution, at whose
    ends the planes are reflected as at the volume's: what is wrong there does not reach the strip.

    Parameters
    ----------
    kernels : (int, int)
        Addresses of ``convolve_to_4`` and ``convolve_to_1``.
    x0, x3 : ndarray
        Stacks of Z x 4 and Z // 4 x 4 planes.
    mask : ndarray of shape (Z, Y, X), or (0, Y, X)
        Mask of µr-Net, normalised by `line`.
    nearest : three arrays of int64
        Which plane, row and column of x3 is shown at z, y, x.
    weights, biases : four arrays each
        Taps and biases of up0.0, up0.1, up0.3, up0.4.
    rings : ndarray
        Planes to work in, as high as the strip with what is around it: mask (3, 1), upsampled x3 (3, 4), results of
        the first three convolutions (at least (3, 4); with a slot for each plane of the part, and 6 more, they keep
        all that backward needs), probability (1, 1).
    probability : ndarray of shape (Z, Y, X)
    """
    depth, height, width = probability.shape
    to_4, to_1 = kernels
    masks, shown, first, second, third, last = rings
    coarse, ys, xs = nearest
    top = max(y0 - AROUND, 0)
    rows = min(y1 + AROUND, height) - top
    shown_rows = ys[top : top + rows]
    taps = new_taps()
    upsampled = coarse[max(z0 - 4, 0)] - 1
    copied = max(z0 - 4, 0) - 1
    for z in range(max(z0 - 3, 0), z1 + 3):
        if z < min(z1 + 3, depth):
            start(taps)
            if mask.shape[0]:
                while copied < min(z + 1, depth - 1):
                    copied += 1
                    copy_strip(mask, copied, top, rows, masks)
                    rescale(masks, copied % masks.shape[0], rows, width, line)
                add_taps(taps, masks, z, depth, weights[0])
            add_strip_taps(taps, x0, z, depth, top, weights[0])
            while upsampled < coarse[min(z + 1, depth - 1)]:
                upsampled += 1
                upsample(x3, upsampled, shown, upsampled % 3, shown_rows, xs)
            add_upsampled_taps(taps, shown, z, coarse, weights[0])
            convolve(to_4, taps, first, z % first.shape[0], rows, width, biases[0], LINEAR)
        if max(z0 - 2, 0) <= z - 1 < min(z1 + 2, depth):
            start(taps)
            add_taps(taps, first, z - 1, depth, weights[1])
            convolve(to_4, taps, second, (z - 1) % second.shape[0], rows, width, biases[1], SELU)
        if max(z0 - 1, 0) <= z - 2 < min(z1 + 1, depth):
            start(taps)
            add_taps(taps, second, z - 2, depth, weights[2])
            convolve(to_4, taps, third, (z - 2) % third.shape[0], rows, width, biases[2], LINEAR)
        if z0 <= z - 3:
            start(taps)
            add_taps(taps, third, z - 3, depth, weights[3])
            convolve(to_1, taps, last, z % 1, rows, width, biases[3], SIGMOID)
            for y in range(y0, y1):
                for x in range(width):
                    probability[z - 3, y, x] = last[0, 0, TOP + y - top, LEFT + x]
