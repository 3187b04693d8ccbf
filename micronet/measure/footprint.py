"""How much memory the measures of a mask take, by the mask: counted cheaply, before they are made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from micronet.core.volume import bounding_box, is_isotropic

__all__ = [
    "least_bytes",
    "mesh_bytes",
    "mesh_vertices",
    "scores_bytes",
    "surface_voxels",
    "vessels_bytes",
]

# All measured, with empty, full and noisy masks and vessels: benchmarks/memory.py.
# Of a page: coarse copies of the volume, pictures, and what draws them; in the end it grows no more.
_PAGE, _SHOWN = 180_000_000, 31
# Of a mesh: rows on their way to the file and what multiplies them; a slab as marching cubes takes it; what is kept and
# smoothed of each vertex.
_ROWS, _SLAB, _SLAB_VOXEL, _VERTEX = 8_000_000, 1 << 21, 7, 180
# Of the vessels: labels and distances of each voxel of the box, and what each voxel of the surface may leave behind:
# no skeleton has more voxels than that.
_LABELLED, _MEASURED, _SKELETON = 5, 80, 400
# Of a centreline on a grid of cubes: distances, paths and skeleton of each of them (`micronet.measure.isotropic`).
_CUBE = 125
# Of cleaning: labels and what they are drawn from, the worst case of noise included.
_CLEANED = 8
# Of the scores: distance maps and skeletons in the box, and the distances of the surfaces' voxels.
_SCORED, _APART = 24, 85


def mesh_bytes(mask: NDArray[np.bool_]) -> int:
    """Return about how many bytes the surface of a mask takes at most, until it is written."""
    return _ROWS + _SLAB_VOXEL * min(mask.size, _SLAB) + _VERTEX * mesh_vertices(mask)


def vessels_bytes(mask: NDArray[np.bool_], spacing: Sequence[float] = (1, 1, 1)) -> int:
    """Return about how many bytes the tables of the vessels take at most, until they are written.

    Where the spacing along (Z, Y, X) is not equal, centrelines are drawn on a grid of the finest one.
    """
    box = _box_voxels(mask)
    if is_isotropic(spacing):
        return _LABELLED * mask.size + _MEASURED * box + _SKELETON * surface_voxels(mask)
    cubes = math.prod(2 + (part.stop - part.start) * step / min(spacing) for part, step in _box(mask, spacing))
    return _LABELLED * mask.size + _MEASURED * box + int(_CUBE * cubes if box else 0)


def scores_bytes(predicted: NDArray[np.bool_], annotated: NDArray[np.bool_]) -> int:
    """Return about how many bytes `micronet.measure.scores.score_masks` takes at most."""
    box = max(_box_voxels(predicted), _box_voxels(annotated), _box_voxels(predicted | annotated))
    return 2 * predicted.size + _SCORED * box + _APART * max(surface_voxels(predicted), surface_voxels(annotated))


def least_bytes(voxels: int) -> dict[str, int]:
    """Return what each setting takes whatever the mask is, by its name: a label TIFF takes a plane.

    Cleaning decides what the mask is: this is all that it can take.
    """
    return {
        "mesh": _ROWS + _SLAB_VOXEL * min(voxels, _SLAB),
        "measures": _LABELLED * voxels,
        "report": min(_PAGE, _SHOWN * voxels),
        "label_tiff": 0,
        "clean": _CLEANED * voxels,
    }


def _box(mask: NDArray[np.bool_], spacing: Sequence[float]) -> Iterator[tuple[slice, float]]:
    return zip(bounding_box(mask), spacing, strict=True)


def _box_voxels(mask: NDArray[np.bool_]) -> int:
    return math.prod(part.stop - part.start for part in bounding_box(mask))


def mesh_vertices(mask: NDArray[np.bool_]) -> int:
    """Return how many vertices the surface of a mask has: one between every two neighbours of which one is inside.

    >>> mesh_vertices(np.ones((1, 1, 2), bool))
    10
    """
    shared = 0
    for z, plane in enumerate(mask):
        shared += int(np.count_nonzero(plane[1:] & plane[:-1])) + int(np.count_nonzero(plane[:, 1:] & plane[:, :-1]))
        shared += int(np.count_nonzero(plane & mask[z - 1])) if z else 0
    return 6 * int(np.count_nonzero(mask)) - 2 * shared  # a voxel has six faces


def surface_voxels(mask: NDArray[np.bool_]) -> int:
    """Return how many voxels of a mask have a face to the outside, or the end of the volume.

    >>> surface_voxels(np.ones((3, 3, 4), bool))
    34
    """
    count = 0
    for z in range(1, len(mask) - 1):
        inside = mask[z - 1] & mask[z] & mask[z + 1]
        inside[1:-1, 1:-1] &= (mask[z, :-2, 1:-1] & mask[z, 2:, 1:-1]) & (mask[z, 1:-1, :-2] & mask[z, 1:-1, 2:])
        count += int(np.count_nonzero(inside[1:-1, 1:-1]))
    return int(np.count_nonzero(mask)) - count
