"""The plexus of a phantom: vessels around islands of tissue, wider the more they feed, carved into the yolk sac."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import Voronoi

from micronet.data.phantom.sizes import Anatomy, Field, contraction, vox

__all__ = ["add_plexus"]


def add_plexus(inside: Field, dome: Field, rng: np.random.Generator, sizes: Anatomy, phase: float) -> Field:
    """Carve the plexus into the dome; return where (z, y, x) its trunk leaves the field of view."""
    nodes, edges = _mesh(dome.shape, rng, sizes)
    root = int(np.argmin(nodes[:, 1] + 0.5 * np.abs(nodes[:, 0] - nodes[:, 0].min())))
    radii = _murray_radii(nodes, edges, root, rng, sizes)
    radii *= 1 + sizes.vessel_pulse * contraction(phase, np.ones(1))  # with the outflow
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


def _mesh(shape: tuple[int, ...], rng: np.random.Generator, sizes: Anatomy) -> tuple[Field, NDArray[np.intp]]:
    """Return nodes (N, 2) over (Z, X) and segments (E, 2) around jittered islands: a Voronoi diagram."""
    z, x = shape
    step = vox(sizes.island_distance_um)
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


def _murray_radii(nodes: Field, edges: NDArray[np.intp], root: int, rng: np.random.Generator, sizes: Anatomy) -> Field:
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
    radii = vox(sizes.capillary_radius_um) * fed ** (1 / sizes.murray_exponent) * spread
    return np.asarray(np.clip(radii, 0.7 * vox(sizes.capillary_radius_um), vox(sizes.largest_radius_um)))


def _bent(begin: Field, end: Field, bend: float) -> Field:
    """Return points (N, 2) about one voxel apart from `begin` to `end`, bowed by `bend` of the length."""
    chord = end - begin
    along = np.linspace(0, 1, 2 + int(np.linalg.norm(chord)))[:, None]
    sideways = np.array([-chord[1], chord[0]])
    return np.asarray(begin + along * chord + bend * along * (1 - along) * sideways)


def _stamp_disc(half_squared: Field, centre: Field, radius: float, flatness: float) -> None:
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
