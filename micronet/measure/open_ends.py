"""Radii along a thinned line, and where it ends, on a grid that was made from coarse planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.measure.isotropic import IsotropicGrid
from micronet.measure.topology import components

__all__ = ["ended", "least_around"]

# A vessel near its end is sampled so many times a radius, and a distance of planes; along it more often.
_A_RADIUS, _A_PLANE, _ALONG = 5, 6, 3

# Its direction there is that of a parabola over so many planes, or radii where that is more: two planes do not tell a
# bend from a step, and a half ring that ended across them was taken to go on 20 degrees aside.
_PLANES, _RADII = 3, 2


def least_around(points: NDArray[np.float64], values: NDArray[np.float64], grid: IsotropicGrid) -> NDArray[np.float64]:
    """Return the distance to the wall at each point of a line, from those to the nearest voxel outside.

    Between two coarse planes that voxel is farther off than the wall: the least within half a coarse step along the
    line counts. The least of many lies at the wall, as such voxels lie anywhere up to a step beyond it. Where one plane
    cuts a lumen that runs along an axis all are alike, and half a step is taken off.

    Parameters
    ----------
    points : ndarray of float64, shape (N, 3)
        In voxels of the grid; a closed line ends where it begins.
    values : ndarray of float64, shape (N,)
        In voxels too.
    grid : IsotropicGrid
    """
    along = _along(points)
    if len(points) > 1 and np.array_equal(points[0], points[-1]):
        round_twice = np.concatenate([along[:-1] - along[-1], along, along[1:] + along[-1]])
        values = np.concatenate([values[:-1], values, values[1:]])
    else:
        round_twice = along
    first = np.searchsorted(round_twice, along - grid.planes_apart / 2)
    last = np.searchsorted(round_twice, along + grid.planes_apart / 2, side="right")
    near = [values[i:j] for i, j in zip(first, last, strict=True)]
    least, most = (np.array([of(some) for some in near]) for of in (np.min, np.max))
    return least - np.where(grid.cut_once(points) & (most == least), 0.5, 0)


def ended(
    points: NDArray[np.float64], radii: NDArray[np.float64], open_ends: tuple[bool, bool], grid: IsotropicGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a line whose open ends lie a radius before the wall, and its radii.

    Parameters
    ----------
    points : ndarray of float64, shape (N, 3)
        In voxels of the grid.
    radii : ndarray of float64, shape (N,)
        In voxels too.
    open_ends : pair of bool
        Whether the lumen ends at the first point, and at the last.
    grid : IsotropicGrid

    Notes
    -----
    Near a flat end a thinned line stops early or runs into the rim, whichever the planes make of it. What lies within a
    radius of its end is taken off, and it goes straight on from there. How far the lumen goes on is told by all voxels
    beyond: twice their mean depth, so that neither a slanting end nor the direction matters to the first order. A lumen
    that leaves the array is taken to go on, and the line with it as far as the array does. Lines that are too short for
    that stay as they are.
    """
    for is_open in open_ends:
        if is_open:
            points, radii = _ended(points, radii, grid)
        points, radii = points[::-1], radii[::-1]
    return points, radii


def _ended(
    points: NDArray[np.float64], radii: NDArray[np.float64], grid: IsotropicGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """End a line at its first point."""
    along = _along(points)
    ahead = np.searchsorted(along, along + grid.planes_apart, side="right") - 1
    widest = np.maximum.accumulate(radii)[ahead]
    free = np.flatnonzero(along >= widest)  # none where nothing bounds the lumen: NaN
    if not len(free):
        return points, radii
    base, radius = int(free[0]), float(widest[free[0]])
    on = along[base:] - along[base]
    straight = on <= max(_RADII * radius, _PLANES * grid.planes_apart)
    if on[straight][-1] < radius or np.count_nonzero(straight) < 3:
        return points, radii
    start, inward, bend = np.polynomial.polynomial.polyfit(on[straight], points[base:][straight], 2)
    outward = -inward / np.linalg.norm(inward)
    beyond = grid.leaves(start, outward)
    if beyond is None:
        depth = _depth(start, outward, radius, along[base], grid)
        if depth is None:
            return points, radii
        curvature = 2 * float(np.linalg.norm(bend - (bend @ outward) * outward) / (inward @ inward))
        beyond = depth * (1 + (curvature * depth) ** 2 / 12) - radius  # an arc is longer than it is deep
    kept = base + int(np.searchsorted(on, max(0.0, -beyond)))
    kept = min(kept, len(points) - 1)
    more = start + np.linspace(beyond, 0, max(0, int(np.ceil(beyond))), endpoint=False)[:, None] * outward
    return np.concatenate([more, points[kept:]]), np.concatenate([np.full(len(more), radius), radii[kept:]])


def _depth(
    start: NDArray[np.float64], outward: NDArray[np.float64], radius: float, reached: float, grid: IsotropicGrid
) -> float | None:
    """Return how far the lumen goes on from a point, of which the line reached so much; None if that is outside."""
    step = max(1.0, radius / _A_RADIUS, grid.planes_apart / _A_PLANE)
    half = int(np.ceil((2 * radius + grid.planes_apart / 2) / step))
    beside = np.arange(-half, half + 1) * step
    fine = step / _ALONG
    depth = np.arange(0.5, (reached + 2 * radius + grid.planes_apart) / fine) * fine
    one, other = np.linalg.svd(outward[None])[2][1:]
    inside = grid.holds(
        start + depth[:, None, None, None] * outward + beside[:, None, None] * one + beside[:, None] * other
    )
    labels, _ = components(inside)
    own = labels[0, half, half]
    if not own:
        return None
    area = np.count_nonzero(labels == own, axis=(1, 2))
    return 2 * float(np.average(depth, weights=area))


def _along(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
