"""The surface of a mask as a triangle mesh in µm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from skimage.measure import marching_cubes

from micronet.errors import InputError
from micronet.metrics import bounding_box
from micronet.volume import MICROMETRES_PER, Volume

__all__ = ["Mesh", "lumen_surface"]

# Taubin 1995: a step that shrinks and one that swells, in turn.
_SHRINK, _SWELL, _ROUNDS = 0.5, -0.53, 10
# How far a vertex may go along an axis, in voxels. Vertices are made half a voxel apart along at least one axis, so
# that below a quarter no two meet, however thin the lumen.
_FARTHEST = 0.24


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles around a lumen.

    Parameters
    ----------
    vertices : ndarray of float64, shape (N, 3)
        Positions along the three world axes of the volume, in `unit`.
    triangles : ndarray of int32, shape (M, 3)
        Indices of vertices, anticlockwise seen from outside.
    space : str
        What the world axes mean: ``"left-posterior-superior"``, or what the volume states; ``""`` when that is nothing.
    unit : str
        ``"um"``, or ``"voxel"`` when the volume's spacing is not known.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int32]
    space: str
    unit: str


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
    padded = np.pad(mask.array[box], 1).astype(np.float32)
    found, triangles, _, _ = marching_cubes(padded, 0.5, method="lorensen")  # type: ignore[no-untyped-call]
    vertices = _smoothed(found.astype(np.float64), triangles) - 1 + [part.start for part in box]
    if np.linalg.det(mask.directions) > 0:
        triangles = triangles[:, ::-1]
    scale = MICROMETRES_PER.get(mask.units, 1.0)
    return Mesh(
        scale * (vertices @ mask.directions + mask.origin),
        np.ascontiguousarray(triangles, dtype=np.int32),
        mask.space,
        "voxel" if mask.units == "voxel" else "um",
    )


def _smoothed(vertices: NDArray[np.float64], triangles: NDArray[Any]) -> NDArray[np.float64]:
    start = np.concatenate([triangles[:, 0], triangles[:, 1], triangles[:, 2]])
    end = np.concatenate([triangles[:, 1], triangles[:, 2], triangles[:, 0]])
    # Every edge belongs to two triangles, which run along it in opposite directions.
    edges = sparse.csr_array((np.ones(len(start)), (start, end)), shape=(len(vertices), len(vertices)))
    mean = sparse.diags_array(1 / edges.sum(axis=1)) @ edges
    made = vertices
    for _ in range(_ROUNDS):
        for step in (_SHRINK, _SWELL):
            vertices = vertices + step * (mean @ vertices - vertices)
            vertices = np.clip(vertices, made - _FARTHEST, made + _FARTHEST)
    return vertices
