"""Full-resolution sweep down: image -> down0 -> x0, and the mean of x0 over 4x4x4 voxels.

One pass over z; the intermediate plane of the pair of convolutions lives in a ring of three planes.
"""

from __future__ import annotations

from micronet.networks.kernels.jit import jit
from micronet.networks.kernels.layout import Array
from micronet.networks.kernels.microkernels import LINEAR, SELU
from micronet.networks.kernels.planes import (
    Line,
    add_strip_taps,
    add_taps,
    convolve,
    convolve_rows,
    copy_plane,
    copy_strip,
    new_taps,
    pool_plane,
    pool_strip,
    reflect_border,
    rescale,
    start,
)

__all__ = ["encode", "pool_mask"]


@jit
def encode(
    kernel: int,
    image: Array,
    z0: int,
    z1: int,
    y0: int,
    y1: int,
    weights: tuple[Array, ...],
    biases: tuple[Array, ...],
    rings: tuple[Array, ...],
    x0: Array,
    pooled: Array,
) -> None:
    """Compute x0 and pooled x0 for rows y0 .. y1 - 1 of planes z0 .. z1 - 1; z0 is a multiple of 4.

    Strips come in order of y and start where `strips` (layout.py) says: each may write scratch into the
    rows of the next, and the last completes the borders.

    Parameters
    ----------
    kernel : int
        Address of ``convolve_to_4``.
    image : ndarray of shape (Z, Y, X)
    weights, biases : two arrays each
        Taps and biases of down0.0 and down0.1.
    rings : two arrays
        Planes to work in, as high as the strip and two rows at either side: image (3, 1), first convolution (3, 4).
    x0 : ndarray
        Stack of Z x 4 planes; written with borders.
    pooled : ndarray
        Stack of Z // 4 x 4 planes.
    """
    depth, height, width = image.shape
    images, middle = rings
    top = max(y0 - 2, 0)
    rows = min(y1 + 2, height) - top
    taps = new_taps()
    for step in range(max(z0 - 2, 0), z1 + 2):
        if step < depth:
            copy_strip(image, step, top, rows, images)
        z = step - 1
        if max(z0 - 1, 0) <= z < min(z1 + 1, depth):
            start(taps)
            add_taps(taps, images, z, depth, weights[0])
            convolve(kernel, taps, middle, z % 3, rows, width, biases[0], LINEAR)
        z = step - 2
        if z0 <= z < z1:
            start(taps)
            add_strip_taps(taps, middle, z, depth, y0 - top, weights[1])
            convolve_rows(kernel, taps, x0, z, y0, y1 - y0, width, biases[1], SELU)
            if z < depth // 4 * 4:
                pool_strip(x0, z, y0, y1, pooled, width)
                if z % 4 == 3 and y1 == height:
                    reflect_border(pooled, z // 4, height // 4, width // 4)
            if y1 == height:
                reflect_border(x0, z, height, width)


@jit
def pool_mask(mask: Array, z0: int, z1: int, ring: Array, target: Array, line: Line) -> None:
    """Average the mask over 4x4x4 voxels into `target`, coarse planes z0 .. z1 - 1; `ring` is (1, 1) planes."""
    _, height, width = mask.shape
    for z in range(4 * z0, 4 * z1):
        copy_plane(mask, z, ring)
        rescale(ring, z % 1, height, width, line)
        pool_plane(ring, z, target, height, width)
