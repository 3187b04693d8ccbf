"""Full-resolution sweep down: image -> down0 -> x0, and the mean of x0 over 4x4x4 voxels.

One pass over z; the intermediate plane of the pair of convolutions lives in a ring of three planes.
"""

from __future__ import annotations

from micronet.kernels.jit import jit
from micronet.kernels.layout import Array
from micronet.kernels.microkernels import LINEAR, SELU
from micronet.kernels.planes import add_taps, convolve, copy_plane, new_taps, pool_plane, start

__all__ = ["encode", "pool_mask"]


@jit
def encode(
    kernel: int,
    image: Array,
    z0: int,
    z1: int,
    weights: tuple[Array, ...],
    biases: tuple[Array, ...],
    rings: tuple[Array, ...],
    x0: Array,
    pooled: Array,
) -> None:
    """Compute x0 and pooled x0 for planes z0 .. z1 - 1; z0 is a multiple of 4.

    Parameters
    ----------
    kernel : int
        Address of ``convolve_to_4``.
    image : ndarray of shape (Z, Y, X)
    weights, biases : two arrays each
        Taps and biases of down0.0 and down0.1.
    rings : two arrays
        Planes to work in: image (3, 1), first convolution (3, 4).
    x0 : ndarray
        Stack of Z x 4 planes; written with borders.
    pooled : ndarray
        Stack of Z // 4 x 4 planes.
    """
    depth, height, width = image.shape
    images, middle = rings
    taps = new_taps()
    for step in range(max(z0 - 2, 0), z1 + 2):
        if step < depth:
            copy_plane(image, step, images)
        z = step - 1
        if max(z0 - 1, 0) <= z < min(z1 + 1, depth):
            start(taps)
            add_taps(taps, images, z, depth, weights[0])
            convolve(kernel, taps, middle, z % 3, height, width, biases[0], LINEAR)
        z = step - 2
        if z0 <= z < z1:
            start(taps)
            add_taps(taps, middle, z, depth, weights[1])
            convolve(kernel, taps, x0, z, height, width, biases[1], SELU)
            if z < depth // 4 * 4:
                pool_plane(x0, z, pooled, height, width)


@jit
def pool_mask(mask: Array, z0: int, z1: int, ring: Array, target: Array) -> None:
    """Average the mask over 4x4x4 voxels into `target`, coarse planes z0 .. z1 - 1; `ring` is (1, 1) planes."""
    _, height, width = mask.shape
    for z in range(4 * z0, 4 * z1):
        copy_plane(mask, z, ring)
        pool_plane(ring, z, target, height, width)
