"""Procedural lumens of a mouse yolk sac with heart, about embryonic day 9.

Axes are (Z, Y, X), Y is depth with the medium above, and the voxel is 4.5 µm along every axis. A dome (the
yolk sac) fills the whole field of view; over the far part of Z it carries a plexus, and under its near part
lies the looped heart tube, as in the published volumes::

        x ->                            x ->
    y   .  medium    ____           z   heart tube: inflow at x = 0,
    |     ___--------    ---___     |   a loop, outflow out of z = 0
    v  --- o  OO  o   dome     --   v   - - - - - - - - - - - - - -
      (====== heart ====)               plexus: islands of tissue
            cavity                      between joined vessels
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import Voronoi

from micronet.core.errors import InputError

__all__ = ["SMALLEST_AXIS", "SPACING_UM", "Anatomy", "beating", "lumen_mask"]

#: The voxel size that all sizes are turned into, along every axis.
SPACING_UM = 4.5
#: Fewest voxels along an axis in which dome, plexus and heart have room.
SMALLEST_AXIS = 64
#: The axis lengths of a published volume after its crop, to which relative sizes refer.
_REFERENCE_AXIS = 218.0
_SMALLEST_HEART_UM = 34.0
# In cycles: how long a piece of the heart tube contracts, and how much later the outflow does than the inflow. They
# add up to less than 1, so that the whole tube is at rest when a cycle begins.
_CONTRACTION, _DELAY = 0.55, 0.35

_Field = NDArray[np.float64]


@dataclass(frozen=True)
class Anatomy:
    """Sizes of a phantom; lengths in µm, the others are fractions or counts.

    The defaults bring what docs/phantoms.md measures, from foreground fraction to loops, into the range of ten
    published annotations.

    Parameters
    ----------
    dome_top : float
        Depth of the top of the yolk sac, as a fraction of the Y axis.
    dome_drop : float
        How much deeper the dome lies at the farther corner of the field of view, as a fraction of the Y axis.
    dome_ripple_um : float
        Standard deviation of the smooth undulation of the dome.
    plexus_begin : float
        Where along Z the plexus begins, as a fraction of the Z axis.
    island_distance_um : float
        Mean distance between the centres of neighbouring tissue islands: the mesh width of the plexus.
    island_jitter : float
        How far an island strays from a hexagonal grid, as a fraction of `island_distance_um`.
    lost_edges : float
        Fraction of the vessel segments between two islands that are missing, so that islands merge.
    capillary_radius_um, largest_radius_um : float
        Half the depth of the thinnest segments, and the limit for the widest.
    radius_spread : float
        Relative standard deviation of the radius from segment to segment.
    murray_exponent : float
        A segment that feeds n others has n ** (1 / murray_exponent) times the radius (Murray 1926: 3).
    flatness : float
        Width of a plexus vessel over its depth.
    heart_radius_um : float
        Mean radius of the heart tube in a field of view of 981 µm; scales with the smallest axis, so that a small
        phantom shows a small heart, but never below 34.
    large_veins : int
        Number of veins that run from the plexus to the inflow of the heart; may be 0.
    vein_radius_um : float
        Mean radius of these where they join the heart; scales as the heart does.
    deep_vessels : int
        Number of vessels in the tissue under the plexus.
    roughness_um : float
        Standard deviation of the irregularity of every lumen's surface.
    beat_depth : float
        How much narrower the heart tube is where it is contracted, as a fraction of its radius at rest.
    beat_travel : float
        How far the middle of the tube moves aside and away from the yolk sac meanwhile, as a fraction of its
        mean radius; its ends stay where they are.
    vessel_pulse : float
        How much wider the plexus is when the heart has pumped, as a fraction of the radius.
    """

    dome_top: float = 0.225
    dome_drop: float = 0.54
    dome_ripple_um: float = 5.4
    plexus_begin: float = 0.46
    island_distance_um: float = 129.0
    island_jitter: float = 0.3
    lost_edges: float = 0.18
    capillary_radius_um: float = 9.9
    largest_radius_um: float = 22.5
    radius_spread: float = 0.3
    murray_exponent: float = 3.0
    flatness: float = 1.6
    heart_radius_um: float = 98.0
    large_veins: int = 2
    vein_radius_um: float = 50.0
    deep_vessels: int = 4
    roughness_um: float = 2.7
    beat_depth: float = 0.35
    beat_travel: float = 0.3
    vessel_pulse: float = 0.04


def lumen_mask(
    shape: tuple[int, int, int], rng: np.random.Generator, anatomy: Anatomy | None = None, *, phase: float = 0.0
) -> NDArray[np.bool_]:
    """Return the lumens (vessels and heart) of one random phantom.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (Z, Y, X), each at least `SMALLEST_AXIS`.
    rng : numpy.random.Generator
        Source of all variation: the same state gives the same volume.
    anatomy : Anatomy, optional
        Sizes; the defaults when not given.
    phase : float
        Where the heart is in its cycle: at rest at 0 and 1. It takes no random number, so that one state of
        `rng` gives one embryo at every phase.

    Returns
    -------
    ndarray of shape (Z, Y, X), bool
        True inside a lumen.

    Raises
    ------
    InputError
        If an axis is too short.

    Examples
    --------
    >>> mask = lumen_mask((64, 64, 64), np.random.default_rng(1))
    >>> mask.shape, bool(0.02 < mask.mean() < 0.2)
    ((64, 64, 64), True)
    """
    if len(shape) != 3 or min(shape) < SMALLEST_AXIS:
        raise InputError(f"a phantom needs (Z, Y, X) of at least {SMALLEST_AXIS} voxels each, not {shape}")
    sizes = Anatomy() if anatomy is None else anatomy
    dome = _dome(shape, rng, sizes)
    inside = np.full(shape, -math.inf)  # radius minus distance to the centre line: positive in a lumen
    root = _add_plexus(inside, dome, rng, sizes, phase)
    inflow = _add_heart(inside, dome, rng, sizes, phase)
    _add_vein(inside, root, inflow, rng, sizes)
    for number in range(sizes.large_veins):
        _add_large_vein(inside, dome, inflow, number, rng, sizes)
    for _ in range(sizes.deep_vessels):
        _add_deep_vessel(inside, dome, rng, sizes)
    inside += _vox(sizes.roughness_um) * _smooth_noise(shape, rng, 1.5)
    return np.asarray(inside > 0)


def beating(
    shape: tuple[int, int, int],
    seed: int,
    time_points: int,
    anatomy: Anatomy | None = None,
    *,
    beats: float = 1.0,
) -> Iterator[NDArray[np.bool_]]:
    """Yield the lumens of one embryo while its heart beats: a wave of contraction runs from inflow to outflow.

    Parameters
    ----------
    shape, anatomy
        As in `lumen_mask`.
    seed : int
        Names the embryo: the first time point is ``lumen_mask(shape, np.random.default_rng(seed), anatomy)``.
    time_points : int
        How many masks; time point t shows the phase ``beats * t / time_points``, so that the sequence repeats
        after the last where `beats` is whole.
    beats : float
        Heart cycles in the sequence.

    Yields
    ------
    ndarray of shape (Z, Y, X), bool
        True inside a lumen. Each is made when it is asked for: one at a time is in memory.

    Raises
    ------
    InputError
        If an axis is too short, or there is no time point.

    Notes
    -----
    An image of every time point has a speckle of its own: render each with another generator, such as
    ``np.random.default_rng([seed, t])``.

    Examples
    --------
    >>> rest, contracted = beating((64, 64, 64), 1, 2)
    >>> bool(rest.sum() > contracted.sum())
    True
    """
    if time_points < 1:
        raise InputError(f"a sequence needs at least 1 time point, not {time_points}")
    for number in range(time_points):
        yield lumen_mask(shape, np.random.default_rng(seed), anatomy, phase=beats * number / time_points)


def _contraction(phase: float, along: _Field) -> _Field:
    """Return how far the heart tube is contracted, 0 to 1, by how far along it a place is, 0 to 1."""
    since = phase % 1.0 - _DELAY * along  # cycles since the wave arrived
    running = (since > 0) & (since < _CONTRACTION)
    return np.where(running, 0.5 - 0.5 * np.cos(2 * math.pi * since / _CONTRACTION), 0.0)


def _vox(length_um: float) -> float:
    """Return a length in voxels."""
    return length_um / SPACING_UM


def _scale(shape: tuple[int, ...]) -> float:
    """Return how large heart and veins are, against those of a published field of view."""
    return min(1.0, 1.25 * min(shape) / _REFERENCE_AXIS)


def _smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, sigma_vox: float) -> _Field:
    """Return low-pass noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma_vox, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def _dome(shape: tuple[int, int, int], rng: np.random.Generator, sizes: Anatomy) -> _Field:
    """Return the depth (voxels) of the yolk sac over (Z, X)."""
    z, y, x = shape
    summit_z = z * (0.6 + 0.15 * rng.random())
    summit_x = x * (0.45 + 0.2 * rng.random())
    dz = (np.arange(z)[:, None] - summit_z) / z
    dx = (np.arange(x)[None, :] - summit_x) / x
    farthest = max(summit_z / z, 1 - summit_z / z) ** 2 + max(summit_x / x, 1 - summit_x / x) ** 2
    drop = y * sizes.dome_drop * (0.85 + 0.3 * rng.random())
    top = y * sizes.dome_top * (0.9 + 0.2 * rng.random())
    ripple = _vox(sizes.dome_ripple_um) * _smooth_noise((z, x), rng, 12.0)
    return np.asarray(top + drop * (dz**2 + dx**2) / farthest + ripple)


def _add_plexus(inside: _Field, dome: _Field, rng: np.random.Generator, sizes: Anatomy, phase: float) -> _Field:
    """Carve the plexus into the dome; return where (z, y, x) its trunk leaves the field of view."""
    nodes, edges = _mesh(dome.shape, rng, sizes)
    root = int(np.argmin(nodes[:, 1] + 0.5 * np.abs(nodes[:, 0] - nodes[:, 0].min())))
    radii = _murray_radii(nodes, edges, root, rng, sizes)
    radii *= 1 + sizes.vessel_pulse * _contraction(phase, np.ones(1))  # with the outflow
    # Half the depth of the vessel over each point of the dome: an ellipse across every segment.
    half_squared = np.zeros(dome.shape)
    for (first, second), radius in zip(edges, radii, strict=True):
        bend = 0.4 * rng.standard_normal()
        line = _bent(nodes[first], nodes[second], bend)
        for centre in line:
            _stamp_disc(half_squared, centre, radius, sizes.flatness)
    half_squared = ndimage.gaussian_filter(half_squared, 1.2)  # islands of tissue are round
    slope = np.hypot(*np.gradient(dome))
    half = np.sqrt(half_squared) * np.sqrt(1 + slope**2)
    carved = half > 1.0
    depth = np.arange(inside.shape[1])[None, :, None]
    vessel = half[:, None, :] - np.abs(depth - dome[:, None, :])
    np.maximum(inside, np.where(carved[:, None, :], vessel, -math.inf), out=inside)
    z, x = np.clip(np.rint(nodes[root]).astype(int), 0, np.array(dome.shape) - 1)
    return np.array([z, dome[z, x], x], dtype=float)


def _mesh(shape: tuple[int, ...], rng: np.random.Generator, sizes: Anatomy) -> tuple[_Field, NDArray[np.intp]]:
    """Return nodes (N, 2) over (Z, X) and segments (E, 2) around jittered islands: a Voronoi diagram."""
    z, x = shape
    step = _vox(sizes.island_distance_um)
    rows = np.arange(-2 * step, z + 2 * step, step * math.sqrt(0.75))
    columns = np.arange(-2 * step, x + 2 * step, step)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    grid[1::2, :, 1] += step / 2
    islands = grid.reshape(-1, 2) + step * sizes.island_jitter * (2 * rng.random((grid.size // 2, 2)) - 1)
    diagram = Voronoi(islands)
    nodes = diagram.vertices
    begin = z * (sizes.plexus_begin + 0.06 * (2 * rng.random() - 1))
    # The border of the plexus is a slow wave, not a straight line.
    wave = 0.04 * z * np.sin(2 * math.pi * (nodes[:, 1] / x + rng.random()))
    known = (nodes > -step).all(axis=1) & (nodes < np.array(shape) + step).all(axis=1)
    known &= nodes[:, 0] > begin + wave
    ridges = np.asarray(diagram.ridge_vertices, dtype=np.intp)
    ridges = ridges[(ridges >= 0).all(axis=1)]
    ridges = ridges[known[ridges].all(axis=1)]
    ridges = ridges[np.lexsort((ridges.max(axis=1), ridges.min(axis=1)))]  # not Qhull's order
    ridges = ridges[rng.random(len(ridges)) >= sizes.lost_edges]
    used, compact = np.unique(ridges, return_inverse=True)
    return nodes[used], compact.reshape(-1, 2)


def _murray_radii(
    nodes: _Field, edges: NDArray[np.intp], root: int, rng: np.random.Generator, sizes: Anatomy
) -> _Field:
    """Return a radius for every segment: the more nodes are reached through it, the wider."""
    count = len(nodes)
    length = np.linalg.norm(nodes[edges[:, 0]] - nodes[edges[:, 1]], axis=1)
    graph = coo_array((length * (1 + rng.random(len(edges))), (edges[:, 0], edges[:, 1])), shape=(count, count))
    distances, parents = dijkstra(graph.tocsr(), directed=False, indices=[root], return_predecessors=True)
    distance, parent = distances[0], parents[0]
    reached = np.ones(count)
    for node in np.argsort(-np.where(np.isfinite(distance), distance, -1.0), kind="stable"):
        if parent[node] >= 0:
            reached[parent[node]] += reached[node]
    in_tree = (parent[edges[:, 0]] == edges[:, 1]) | (parent[edges[:, 1]] == edges[:, 0])
    farther = np.where(parent[edges[:, 0]] == edges[:, 1], edges[:, 0], edges[:, 1])
    fed = np.where(in_tree, reached[farther], 1.0)
    spread = np.clip(1 + sizes.radius_spread * rng.standard_normal(len(edges)), 0.6, 1.6)
    radii = _vox(sizes.capillary_radius_um) * fed ** (1 / sizes.murray_exponent) * spread
    return np.asarray(np.clip(radii, 0.7 * _vox(sizes.capillary_radius_um), _vox(sizes.largest_radius_um)))


def _bent(begin: _Field, end: _Field, bend: float) -> _Field:
    """Return points (N, 2) about one voxel apart from `begin` to `end`, bowed by `bend` of the length."""
    chord = end - begin
    along = np.linspace(0, 1, 2 + int(np.linalg.norm(chord)))[:, None]
    sideways = np.array([-chord[1], chord[0]])
    return np.asarray(begin + along * chord + bend * along * (1 - along) * sideways)


def _stamp_disc(half_squared: _Field, centre: _Field, radius: float, flatness: float) -> None:
    """Raise the squared half depth to that of an ellipsoid of half depth `radius` at `centre` (z, x)."""
    reach = radius * flatness
    low = np.maximum(np.ceil(centre - reach), 0).astype(int)
    high = np.minimum(np.floor(centre + reach) + 1, half_squared.shape).astype(int)
    if (low >= high).any():
        return
    window = half_squared[low[0] : high[0], low[1] : high[1]]
    dz = (np.arange(low[0], high[0]) - centre[0])[:, None]
    dx = (np.arange(low[1], high[1]) - centre[1])[None, :]
    np.maximum(window, radius**2 - (dz**2 + dx**2) / flatness**2, out=window)


def _stamp_tube(inside: _Field, points: _Field, radii: _Field) -> None:
    """Raise `inside` to radius minus distance, near a chain of balls; points (N, 3), radii (N,)."""
    margin = 4.0  # beyond the surface, so that roughness can move it
    for centre, radius in zip(points, radii, strict=True):
        low = np.maximum(np.ceil(centre - radius - margin), 0).astype(int)
        high = np.minimum(np.floor(centre + radius + margin) + 1, inside.shape).astype(int)
        if (low >= high).any():
            continue
        window = inside[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        dz, dy, dx = (
            (np.arange(first, last) - position) ** 2 for first, last, position in zip(low, high, centre, strict=True)
        )
        distance = np.sqrt(dz[:, None, None] + dy[None, :, None] + dx[None, None, :])
        np.maximum(window, radius - distance, out=window)


def _curve(knots: _Field, spacing_vox: float) -> _Field:
    """Return points on the Catmull-Rom spline through the knots (N, 4): z, y, x and radius.

    Source: Catmull & Rom 1974; the end knots are repeated.
    """
    padded = np.concatenate([knots[:1], knots, knots[-1:]])
    pieces = []
    for first, second, third, fourth in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        steps = max(2, math.ceil(float(np.linalg.norm(third[:3] - second[:3])) / spacing_vox))
        t = np.linspace(0, 1, steps, endpoint=False)[:, None]
        pieces.append(
            second
            + 0.5 * t * (third - first)
            + t**2 * (first - 2.5 * second + 2 * third - 0.5 * fourth)
            + t**3 * (1.5 * (second - third) + 0.5 * (fourth - first))
        )
    return np.concatenate([*pieces, knots[-1:]])


def _add_heart(inside: _Field, dome: _Field, rng: np.random.Generator, sizes: Anatomy, phase: float) -> _Field:
    """Add the looped heart tube; return its inflow end (z, y, x)."""
    shape = inside.shape
    radius = _vox(max(_SMALLEST_HEART_UM, sizes.heart_radius_um * _scale(shape) * (0.85 + 0.3 * rng.random())))
    # Fractions of (Z, Y, X), and of the mean radius: inflow, atrium, canal, ventricle, bulb, outflow.
    plan = np.array(
        [
            [0.62, 0.62, -0.05, 0.60],
            [0.52, 0.60, 0.12, 1.10],
            [0.45, 0.57, 0.32, 0.55],
            [0.33, 0.60, 0.50, 1.30],
            [0.18, 0.56, 0.34, 0.90],
            [0.02, 0.50, 0.22, 0.60],
            [-0.15, 0.46, 0.20, 0.55],
        ]
    )
    knots = plan * np.array([*shape, radius], dtype=float)
    knots[:, :3] += 0.035 * np.array(shape) * rng.standard_normal((len(plan), 3))
    if rng.random() < 0.5:
        knots[1:4, 1] += 0.08 * shape[1]  # the ventricle hangs lower in some
    # Nowhere does the heart touch the yolk sac: keep a wall's room under the dome.
    where = np.clip(np.rint(knots[:, [0, 2]]).astype(int), 0, np.array(dome.shape) - 1)
    knots[:, 1] = np.maximum(knots[:, 1], dome[where[:, 0], where[:, 1]] + knots[:, 3] + 6.0)
    knots[:, 1] = np.minimum(knots[:, 1], shape[1] - 0.5 * knots[:, 3])
    line = _curve(knots, 1.5)
    swelling = 1 + 0.08 * _smooth_noise((len(line),), rng, 6.0)
    along = np.linspace(0, 1, len(line))
    # Down and aside by the contraction of the middle, the ends held.
    aside = sizes.beat_travel * radius * _contraction(phase, np.full(1, 0.5)) * np.sin(math.pi * along)
    line[:, 1:3] += aside[:, None] * np.array([0.8, 0.6])
    swelling *= 1 - sizes.beat_depth * _contraction(phase, along)
    _stamp_tube(inside, line[:, :3], line[:, 3] * swelling)
    return np.asarray(knots[0, :3])


def _add_vein(inside: _Field, root: _Field, inflow: _Field, rng: np.random.Generator, sizes: Anatomy) -> None:
    """Join the trunk of the plexus to the inflow of the heart."""
    radius = _vox(sizes.largest_radius_um) * (0.8 + 0.3 * rng.random())
    middle = 0.5 * (root + inflow) + 3.0 * rng.standard_normal(3)
    knots = np.column_stack([np.stack([root, middle, inflow]), [0.8 * radius, radius, 1.1 * radius]])
    line = _curve(knots, 1.0)
    _stamp_tube(inside, line[:, :3], line[:, 3])


def _add_large_vein(
    inside: _Field, dome: _Field, inflow: _Field, number: int, rng: np.random.Generator, sizes: Anatomy
) -> None:
    """Add one large vein: from the inflow of the heart up to the dome, then along it into the plexus."""
    z, x = dome.shape
    radius = _vox(sizes.vein_radius_um * _scale(inside.shape) * (0.85 + 0.3 * rng.random()))
    end = np.array([z * (0.8 + 0.25 * rng.random()), x * (number + 0.2 + 0.6 * rng.random()) / sizes.large_veins])
    rise = np.array([max(inflow[0], z * sizes.plexus_begin), x * (0.06 + 0.08 * rng.random())])
    along = np.array([0.0, 0.35, 0.7, 1.0])[:, None]
    places = rise + along * (end - rise) + 0.03 * np.array([z, x]) * rng.standard_normal((4, 2))
    where = np.clip(np.rint(places).astype(int), 0, np.array(dome.shape) - 1)
    knots = np.column_stack([places[:, 0], dome[where[:, 0], where[:, 1]], places[:, 1]])
    line = _curve(np.column_stack([np.vstack([inflow, knots]), radius * np.array([1.1, 1.0, 1.0, 0.85, 0.65])]), 1.0)
    _stamp_tube(inside, line[:, :3], line[:, 3])


def _add_deep_vessel(inside: _Field, dome: _Field, rng: np.random.Generator, sizes: Anatomy) -> None:
    """Add one winding vessel in the tissue under the far part of the dome, leaving at a side."""
    z, y, x = inside.shape
    start = np.array([z * (0.55 + 0.4 * rng.random()), 0.0, x * (0.35 + 0.6 * rng.random())])
    heading = np.array([0.5 * rng.standard_normal(), 0.25 * rng.standard_normal(), 1.0])
    radius = _vox(sizes.capillary_radius_um) * (1.0 + rng.random())
    column = dome[int(start[0]), int(start[2])]
    start[1] = column + (y - column) * (0.3 + 0.4 * rng.random())
    steps = np.arange(4)[:, None] * (0.14 * min(z, x))
    knots = start + steps * heading + 3.0 * rng.standard_normal((4, 3))
    line = _curve(np.column_stack([knots, np.full(4, radius)]), 1.0)
    _stamp_tube(inside, line[:, :3], line[:, 3])
