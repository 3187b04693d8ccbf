"""Topology of a mask: Betti numbers, skeleton, and clDice between two masks.

Foreground voxels touch by faces, edges and corners (26 neighbours), background voxels by faces (6); what lies beyond
the array is background.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from micronet.core.errors import InputError
from micronet.core.volume import bounding_box

__all__ = ["Betti", "ClDice", "betti_numbers", "cl_dice", "components", "skeleton"]

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


class Betti(NamedTuple):
    """What a mask consists of."""

    components: int  #: Betti-0: pieces
    tunnels: int  #: Betti-1: independent loops (a torus has 1)
    cavities: int  #: Betti-2: enclosed hollows (a shell has 1)


class ClDice(NamedTuple):
    """Topology precision and sensitivity, in [0, 1], and their harmonic mean."""

    precision: float  #: fraction of the predicted skeleton inside the annotation
    sensitivity: float  #: fraction of the annotation's skeleton inside the prediction
    score: float  #: clDice


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Label the pieces of a mask with numbers.

    Parameters
    ----------
    mask : ndarray of bool, shape (Z, Y, X)

    Returns
    -------
    labels : ndarray of int32, shape (Z, Y, X)
        0 outside, from 1 inside.
    count : int
    """
    _check(mask)
    labels = np.zeros(mask.shape, dtype=np.int32)
    return labels, int(ndimage.label(mask, _TOUCHING, output=labels))


def betti_numbers(mask: NDArray[np.bool_]) -> Betti:
    """Count the pieces, tunnels and cavities of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (Z, Y, X)

    Returns
    -------
    Betti

    Notes
    -----
    Tunnels follow from the Euler number of the union of the voxels as closed cubes (vertices - edges + faces -
    cubes), which is pieces - tunnels + cavities (Kong and Rosenfeld 1989).

    Examples
    --------
    >>> ring = np.ones((1, 3, 3), bool)
    >>> ring[0, 1, 1] = False
    >>> betti_numbers(ring)
    Betti(components=1, tunnels=1, cavities=0)
    """
    _check(mask)
    padded = np.pad(mask[bounding_box(mask)], 1)
    _, pieces = ndimage.label(padded, _TOUCHING)
    _, outsides = ndimage.label(~padded)
    cavities = int(outsides) - 1
    return Betti(int(pieces), int(pieces) + cavities - _euler_number(padded), cavities)


def _euler_number(padded: NDArray[np.bool_]) -> int:
    """Return the Euler number of a mask whose rim is empty.

    scikit-image's takes 16 bytes a voxel where this takes 2, and 7 times as long (400 x 400 x 400 voxels).
    """
    total = 0
    # A cell of the grid is a voxel seen along no axis, a face between two along one, an edge along two, a vertex
    # along three; it belongs to the mask when one of the voxels around it does.
    for dimensions in range(4):
        for axes in combinations(range(3), dimensions):
            cells = padded
            for axis in axes:
                low, high = [slice(None)] * 3, [slice(None)] * 3
                low[axis], high[axis] = slice(None, -1), slice(1, None)
                cells = cells[tuple(low)] | cells[tuple(high)]
            total += (-1) ** (3 - dimensions) * int(np.count_nonzero(cells))
    return total


def skeleton(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a mask to its centreline, one voxel wide.

    Parameters
    ----------
    mask : ndarray of bool, shape (Z, Y, X)

    Returns
    -------
    ndarray of bool, shape (Z, Y, X)
        Inside the mask. A piece that thinning removes altogether keeps its innermost voxel: the one farthest from the
        outside, in voxels; of several, the first in the order of the array.

    Notes
    -----
    Thinning: Lee, Kashyap and Chu 1994, by scikit-image. A mask and its mirror image may thin to centrelines that
    differ by a voxel.
    """
    _check(mask)
    box = bounding_box(mask)
    inside = mask[box]
    thinned = np.zeros_like(mask)
    if inside.size == 0:
        return thinned
    line: NDArray[np.bool_] = skeletonize(inside, method="lee") != 0  # type: ignore[no-untyped-call]
    labels, count = components(inside)
    survived = np.zeros(count + 1, dtype=bool)
    survived[labels[line]] = True
    for number, where in enumerate(ndimage.find_objects(labels), 1):
        if not survived[number]:
            line[where][_innermost(labels[where] == number)] = True
    thinned[box] = line
    return thinned


def _innermost(piece: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the voxel that is farthest from the outside, of several the first."""
    # Where the nearest voxel outside is takes a quarter of the memory of how far it is; that is taken plane by plane.
    nearest = ndimage.distance_transform_edt(np.pad(piece, 1), return_distances=False, return_indices=True)
    places = np.indices((1, *nearest.shape[2:]))
    farthest, best = -1, (0, 0, 0)
    for z in range(nearest.shape[1]):
        away = ((nearest[:, z] - places[:, 0] - np.array([z, 0, 0])[:, None, None]) ** 2).sum(axis=0)
        if away.max() > farthest:
            y, x = np.unravel_index(np.argmax(away), away.shape)
            farthest, best = int(away.max()), (z - 1, int(y) - 1, int(x) - 1)
    return best


def cl_dice(
    predicted: NDArray[np.bool_],
    annotated: NDArray[np.bool_],
    skeletons: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> ClDice:
    """Compare two masks by how far each covers the other's centreline.

    Parameters
    ----------
    predicted, annotated : ndarray of bool, of one shape (Z, Y, X)
    skeletons : pair of ndarray of bool, optional
        Of the two masks, where they are known already: `skeleton` takes the longest part of the time.

    Returns
    -------
    ClDice
        Both masks empty give 1, only one of them 0.

    Raises
    ------
    InputError
        If a mask is not bool or the shapes differ.

    Notes
    -----
    Source: Shit et al. 2021, equations 1 and 2. Skeleton voxels are counted, whatever their spacing.
    """
    _check(predicted)
    _check(annotated)
    if predicted.shape != annotated.shape:
        raise InputError(f"masks differ in shape: {predicted.shape} and {annotated.shape}")
    of_predicted, of_annotated = skeletons or (skeleton(predicted), skeleton(annotated))
    lengths = int(np.count_nonzero(of_predicted)), int(np.count_nonzero(of_annotated))
    if 0 in lengths:
        both_empty = float(lengths == (0, 0))
        return ClDice(both_empty, both_empty, both_empty)
    precision = int(np.count_nonzero(of_predicted & annotated)) / lengths[0]
    sensitivity = int(np.count_nonzero(of_annotated & predicted)) / lengths[1]
    total = precision + sensitivity
    return ClDice(precision, sensitivity, 2 * precision * sensitivity / total if total else 0.0)


def _check(mask: NDArray[Any]) -> None:
    if mask.dtype != np.bool_ or mask.ndim != 3:
        raise InputError(f"topology is that of a bool mask (Z, Y, X), found {mask.dtype} {mask.shape}")
