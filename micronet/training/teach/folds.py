"""Which annotated voxels to hold out, so that learners are chosen by what they were not taught.

Voxels beside each other tell the same: what is held out must lie apart from what is learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.training.teach.prevalence import annotates_slices

__all__ = ["Fold", "Folds", "hold_out"]

#: Share of a slice's annotated box that is annotated, from which on it counts as a slice, not as strokes.
_DENSE = 0.5
#: Share of the annotation that may be held out at once. A slice and some strokes of correction cannot be divided: what
#: is learned from the strokes alone says nothing, and these lie where one of the learners was wrong.
_MOST_HELD = 0.7
#: What separates a held-out part of a slice from the rest, in units of the finest spacing.
_GAP = 8


@dataclass(frozen=True)
class Fold:
    """One way to divide the annotated voxels: bool of shape (voxels,), in the order of the array.

    Some may belong to neither: those too near to the held-out ones.
    """

    learned: NDArray[np.bool_]
    held: NDArray[np.bool_]


@dataclass(frozen=True)
class Folds:
    """All of them, and what is held out in turn: "slices", "strokes" or "parts of the slice".

    Whole slices decide between learners. Strokes, and parts of one slice, are no sample of the volume: what learners
    score there is told, and says little of which is best elsewhere (docs/teach.md).
    """

    what: str
    folds: tuple[Fold, ...]
    decide: bool = False


def hold_out(labels: NDArray[np.uint8], spacing_um: Sequence[float], count: int = 4) -> Folds:
    """Divide an annotation for cross-validation.

    Parameters
    ----------
    labels : ndarray of uint8, shape (Z, Y, X)
        0 not annotated, 1 lumen, 2 background.
    spacing_um : (z, y, x)
    count : int
        Folds, if the annotation allows.

    Returns
    -------
    Folds
        Annotated slices in turn, where there are at least three along some axis; else strokes (pieces that touch by
        faces, edges or corners); a single slice that is annotated densely in parts, with a gap around the held-out one,
        along that side which shares out lumen and background the more evenly. Every fold learns from both classes.
        There is none where the annotation is too small to be divided, or most of it lies in one piece.

    Raises
    ------
    InputError
        If a class is missing.
    """
    annotated = labels > 0
    lumen = labels[annotated] == 1
    if not lumen.any() or lumen.all():
        missing = "background" if lumen.any() else "lumen"
        raise InputError(f"no voxel is annotated as {missing}; lumen and background are needed")
    places = np.argwhere(annotated)
    used = [np.unique(column) for column in places.T]
    axis = int(np.argmin([len(found) / length for found, length in zip(used, labels.shape, strict=True)]))
    if len(used[axis]) >= 3:
        groups = _shared_out(np.searchsorted(used[axis], places[:, axis]), len(used[axis]), count)
        found = _folds("slices", groups, np.zeros(len(places)), lumen, 0.0)
        return replace(found, decide=annotates_slices(labels))
    box = np.prod([np.ptp(column) + 1 for column in places.T], dtype=np.float64)
    if len(places) >= _DENSE * box:
        lengths = places * np.asarray(spacing_um)
        axes = [int(one) for one in np.argsort(-np.ptp(lengths, axis=0), kind="stable")][:2]
        gap = _GAP * min(spacing_um)
        return max((_parts(lengths[:, one], lumen, count, gap) for one in axes), key=lambda parts: _least(parts, lumen))
    pieces, number = ndimage.label(annotated, np.ones((3, 3, 3)))
    groups = _strokes(np.asarray(pieces)[annotated] - 1, int(number), lumen, count)
    return _folds("strokes", groups, np.zeros(len(places)), lumen, 0.0)


def _shared_out(ranks: NDArray[np.integer], number: int, count: int) -> NDArray[np.integer]:
    """Return the group of each voxel: neighbouring slices in one group, groups of about as many slices."""
    return np.asarray(ranks * min(count, number) // number)


def _parts(along: NDArray[np.floating], lumen: NDArray[np.bool_], count: int, gap: float) -> Folds:
    cuts = np.quantile(along, np.arange(1, count) / count)
    return _folds("parts of the slice", np.searchsorted(cuts, along, side="right"), along, lumen, gap)


def _least(parts: Folds, lumen: NDArray[np.bool_]) -> int:
    """Return the fewest voxels of a class that a fold learns from or is asked for: with none it says nothing."""
    shares = [lumen[share] for fold in parts.folds for share in (fold.learned, fold.held)]
    return min((min(int(share.sum()), int((~share).sum())) for share in shares), default=-1)


def _strokes(pieces: NDArray[np.integer], number: int, lumen: NDArray[np.bool_], count: int) -> NDArray[np.integer]:
    """Return the group of each voxel; pieces of each class are dealt out, the largest first."""
    size = np.bincount(pieces, minlength=number)
    share = np.bincount(pieces, weights=lumen, minlength=number) / size
    group = np.zeros(number, np.int64)
    for of_class in (share >= 0.5, share < 0.5):
        members = np.flatnonzero(of_class)
        order = members[np.argsort(-size[members], kind="stable")]
        group[order] = np.arange(len(order)) % count
    return np.asarray(group[pieces])


def _folds(
    what: str, groups: NDArray[np.integer], along: NDArray[np.floating], lumen: NDArray[np.bool_], gap: float
) -> Folds:
    found = []
    for number in np.unique(groups):
        held = groups == number
        if np.count_nonzero(held) > _MOST_HELD * len(held):
            return Folds(what, ())
        learned = ~held
        if gap:
            low, high = along[held].min(), along[held].max()
            learned &= (along < low - gap) | (along > high + gap)
        if lumen[learned].any() and not lumen[learned].all():
            found.append(Fold(learned, held))
    return Folds(what, tuple(found) if len(found) > 1 else ())
