"""The surface of a mask as a triangle mesh in µm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from skimage.measure import marching_cubes

from micronet.core.errors import InputError
from micronet.core.volume import MICROMETRES_PER, Volume, bounding_box
from micronet.io.mesh import Mesh

__all__ = ["lumen_surface"]

# Taubin 1995: a step that shrinks and one that swells, in turn.
_SHRINK, _SWELL, _ROUNDS = 0.5, -0.53, 10
# How far a vertex may go along an axis, in voxels. Vertices are made half a voxel apart along at least one axis, so
# that below a quarter no two meet, however thin the lumen.
_FARTHEST = 0.24
#: Voxels of a slab that marching cubes looks at; what it takes grows with them.
_SLAB_VOXELS = 1 << 21


def lumen_surface(mask: Volume) -> Mesh:
    """Return the smoothed surface of a mask.

    Parameters
    ----------
    mask : Volume
        Array of bool. A lumen that leaves the volume is closed where the volume ends.

    Returns
    -------
    Mesh
        Watertight. It separates the centres of the voxels inside from those outside as the mask does: smoothing moves
        no vertex by more than 0.24 voxels along an axis.

    Raises
    ------
    InputError
        If the mask is not bool, or empty.

    Notes
    -----
    Marching cubes (Lorensen and Cline 1987, by scikit-image), which puts a vertex half-way between every two neighbours
    of which one is inside, then ten rounds of smoothing that keeps the volume (Taubin 1995). Voxels that touch only
    along an edge or at a corner get surfaces of their own; the newer variant (Lewiner et al. 2003) joins them by edges
    that four triangles share, which is not watertight.
    """
    if mask.array.dtype != np.bool_:
        raise InputError(f"a surface is that of a bool mask, found {mask.array.dtype}")
    if not mask.array.any():
        raise InputError("an empty mask has no surface")
    if mask.space.startswith(("left-", "right-")):
        mask = mask.in_space("left-posterior-superior")
    box = bounding_box(mask.array)
    found, triangles = _marched(mask.array[box])
    vertices = _smoothed(found, triangles)
    vertices -= 1
    vertices += [part.start for part in box]
    if np.linalg.det(mask.directions) > 0:
        triangles = triangles[:, ::-1]
    scale = MICROMETRES_PER.get(mask.units, 1.0)
    return Mesh(
        scale * (vertices @ mask.directions + mask.origin),
        np.ascontiguousarray(triangles, dtype=np.int32),
        mask.space,
        "voxel" if mask.units == "voxel" else "um",
    )


def _marched(inside: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return vertices and triangles of a mask, in voxels of the mask with a rim of one voxel around it.

    Slab by slab, neighbours sharing a plane: marching cubes makes vertices in the order of the cells, so that the mesh
    is that of the whole mask once the second slab's vertices in that plane are taken for those of the first.
    """
    planes = max(1, _SLAB_VOXELS // (inside.shape[1] * inside.shape[2]))
    corners: list[NDArray[np.float32]] = []
    faces: list[NDArray[np.int32]] = []
    count = 0
    seam = np.empty(0, np.int64), np.empty(0, np.int64)  # places in the shared plane, and the vertices there
    for first in range(-1, len(inside), planes):
        rim = max(-first, 0), max(first + planes + 1 - len(inside), 0)
        slab = np.pad(inside[max(first, 0) : first + planes + 1], (rim, (1, 1), (1, 1)))
        if not slab.any() or slab.all():
            continue
        found, triangles, _, _ = marching_cubes(slab.astype(np.float32), 0.5, method="lorensen")  # type: ignore[no-untyped-call]
        places = _places(found, slab.shape[2])
        known = found[:, 0] == 0
        numbers = np.empty(len(found), np.int64)
        numbers[known] = seam[1][np.searchsorted(seam[0], places[known])]
        numbers[~known] = np.arange(count, count + np.count_nonzero(~known))
        last = found[:, 0] == len(slab) - 1
        order = np.argsort(places[last])
        seam = places[last][order], numbers[last][order]
        found = found[~known] + np.array([first + 1, 0, 0], np.float32)
        count += len(found)
        corners.append(found)
        faces.append(numbers[triangles].astype(np.int32))
    return np.concatenate(corners).astype(np.float64), np.concatenate(faces)


def _places(vertices: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Return a number for the place of each vertex in its plane; places are half a voxel apart."""
    _, y, x = np.rint(2 * vertices.T).astype(np.int64)
    return np.asarray(y * (2 * width) + x)


def _smoothed(vertices: NDArray[np.float64], triangles: NDArray[np.int32]) -> NDArray[np.float64]:
    mean = _mean_of_neighbours(len(vertices), triangles)
    made = vertices
    vertices = made.copy()
    for _ in range(_ROUNDS):
        for step in (_SHRINK, _SWELL):
            moved = mean @ vertices
            moved -= vertices
            moved *= step
            vertices += moved
            del moved
            np.maximum(vertices, made - _FARTHEST, out=vertices)
            np.minimum(vertices, made + _FARTHEST, out=vertices)
    return vertices


def _mean_of_neighbours(count: int, triangles: NDArray[np.int32]) -> sparse.csr_array:
    start = np.concatenate([triangles[:, 0], triangles[:, 1], triangles[:, 2]])
    end = np.concatenate([triangles[:, 1], triangles[:, 2], triangles[:, 0]])
    # Every edge belongs to two triangles, which run along it in opposite directions.
    edges = sparse.csr_array((np.ones(len(start), np.int8), (start, end)), shape=(count, count))
    del start, end
    neighbours = np.diff(edges.indptr)
    share = np.repeat(1 / neighbours, neighbours)
    return sparse.csr_array((share, edges.indices, edges.indptr), shape=(count, count))
