"""Corrections: strokes beside slices that were annotated whole.

A person who corrects paints errors alone: hard voxels, of one class in large pieces, and nothing of all that is right
around them. A learner that takes them for a sample of the volume unlearns what the slices taught it. So the rest of the
corrected slices is learned too, as it is seen by who was taught the whole slices alone: who corrects a slice agrees
with most of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.training.teach.prevalence import annotated_slices

__all__ = ["AGREED", "Corrections", "corrections"]

#: What a voxel of a corrected slice counts that the person left as it was.
AGREED = 0.3
#: Planes, and voxels in them, of which that is asked, at most.
_PLANES, _VOXELS = 12, 40_000


class Corrections(NamedTuple):
    """What corrections change in a lesson.

    Parameters
    ----------
    whole : ndarray of bool, shape (voxels,)
        Annotated voxels, in the order of the array, that lie in whole slices.
    agreed : ndarray of bool, shape (Z, Y, X)
        A sample of the voxels of corrected slices that are not annotated.
    agreed_weight : float
        What each of these counts, an annotated voxel 1: together, `AGREED` of all of which they are a sample.
    """

    whole: NDArray[np.bool_]
    agreed: NDArray[np.bool_]
    agreed_weight: float


def corrections(labels: NDArray[np.uint8]) -> Corrections | None:
    """Return what is a correction in an annotation; None where nothing is, or there is no whole slice of both classes.

    Parameters
    ----------
    labels : ndarray of uint8, shape (Z, Y, X)
        0 not annotated, 1 lumen, 2 background.
    """
    found = annotated_slices(labels)
    if found is None:
        return None
    axis, dense = found
    annotated = labels > 0
    whole = annotated & np.expand_dims(dense, [other for other in range(3) if other != axis])
    beside = annotated & ~whole
    classes = labels[whole]
    if not beside.any() or (classes == 1).all() or (classes == 2).all():
        return None
    agreed, of = _agreed(annotated, beside, axis)
    share = AGREED * of / max(int(np.count_nonzero(agreed)), 1)
    return Corrections(whole[annotated], agreed, share)


def _agreed(annotated: NDArray[np.bool_], beside: NDArray[np.bool_], axis: int) -> tuple[NDArray[np.bool_], int]:
    """Return voxels of corrected slices that are not annotated, and of how many they are a sample."""
    found = ~annotated & beside.any(axis=tuple(other for other in range(3) if other != axis), keepdims=True)
    of = int(np.count_nonzero(found))
    planes = np.flatnonzero(found.any(axis=(1, 2)))
    if len(planes) > _PLANES:
        kept = planes[np.linspace(0, len(planes) - 1, _PLANES).round().astype(np.intp)]
        found[np.setdiff1d(planes, kept)] = False
    places = np.flatnonzero(found)
    if len(places) > _VOXELS:
        found[...] = False
        found.flat[np.random.default_rng(5).choice(places, _VOXELS, replace=False)] = True
    return found, of
