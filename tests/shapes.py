"""Masks whose geometry and topology are known by hand."""

import numpy as np


def grid(shape, centre=None):
    """Return the coordinates of a grid's voxels from a centre (default: the middle), in voxels."""
    middle = [(n - 1) / 2 for n in shape] if centre is None else centre
    return np.ogrid[tuple(slice(-c, n - c) for n, c in zip(shape, middle, strict=True))]


def ball(radius, *, shape=None, centre=None):
    """Return the voxels at most `radius` from the centre, three empty ones around them unless a shape is given."""
    size = 2 * int(radius) + 7
    z, y, x = grid(shape or (size, size, size), centre)
    return z**2 + y**2 + x**2 <= radius**2


def shell(outer, inner):
    """Return a ball with a hollow."""
    whole = ball(outer)
    return whole & ~ball(inner, shape=whole.shape)


def torus(ring, tube):
    """Return a ring of radius `ring` around the first axis, of a tube of radius `tube`."""
    wide = 2 * int(ring + tube) + 7
    z, y, x = grid((2 * int(tube) + 7, wide, wide))
    return (np.hypot(y, x) - ring) ** 2 + z**2 <= tube**2


def hollow_torus(ring, tube, inner):
    """Return a torus whose tube has a wall and is empty inside."""
    whole = torus(ring, tube)
    wide = whole.shape[1]
    z, y, x = grid((whole.shape[0], wide, wide))
    return whole & ((np.hypot(y, x) - ring) ** 2 + z**2 > inner**2)


def moved(mask, *steps):
    """Return a mask moved by whole voxels along (Z, Y, X); it must not reach the rim."""
    result = np.roll(mask, steps, (0, 1, 2))
    assert not any(result[0].any() for result in (result, result.swapaxes(0, 1), result.swapaxes(0, 2)))
    return result
