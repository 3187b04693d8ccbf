"""Precision and recall of a probability over all thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.measure.overlap import Overlap

__all__ = ["LEVELS", "Sweep", "mask_above", "threshold_sweep"]

#: Thresholds of a sweep: k / 255 for k from 0 to 254, which are all that an 8-bit probability has.
LEVELS = 255


@dataclass(frozen=True)
class Sweep:
    """Counts of voxels at each threshold, from 0 up; lumen is above it."""

    thresholds: tuple[float, ...]
    counts: tuple[Overlap, ...]

    @property
    def best(self) -> int:
        """Index of the threshold with the highest Dice; of several, the lowest."""
        return int(np.argmax([counts.f_score() for counts in self.counts]))

    @property
    def average_precision(self) -> float:
        """Area under the precision-recall curve, as the sum of precision times gain in recall.

        Without interpolation, from the highest threshold down; recall below that of the lowest threshold counts
        nothing. Nothing annotated gives 1 where nothing is predicted either, else 0.
        """
        if self.counts[0].true_positives + self.counts[0].false_negatives == 0:
            return 0.0 if any(counts.false_positives for counts in self.counts) else 1.0
        recall = np.array([counts.recall for counts in reversed(self.counts)])
        precision = np.array([counts.precision for counts in reversed(self.counts)])
        return float((np.diff(recall, prepend=0.0) * precision).sum())


def threshold_sweep(probability: NDArray[Any], annotated: NDArray[np.bool_]) -> Sweep:
    """Count agreement at every threshold.

    Parameters
    ----------
    probability : ndarray of uint8 or float, shape (Z, Y, X)
        255 times the probability, or the probability in [0, 1].
    annotated : ndarray of bool, of the same shape

    Returns
    -------
    Sweep

    Raises
    ------
    InputError
        If the shapes differ, or the numbers are no probabilities.
    """
    if annotated.dtype != np.bool_ or probability.shape != annotated.shape:
        raise InputError(
            f"a sweep takes a probability and a bool mask of one shape, "
            f"found {probability.dtype} {probability.shape}, {annotated.dtype} {annotated.shape}"
        )
    _check(probability)
    thresholds = np.arange(LEVELS) / 255
    # How many thresholds a voxel exceeds: v / 255 lies above those from 0 to (v - 1) / 255.
    counted = np.zeros((2, LEVELS + 1), np.int64)
    for plane, true in zip(probability, annotated, strict=True):  # numbers of 64 bits are made of each voxel
        exceeded = plane if plane.dtype == np.uint8 else np.searchsorted(thresholds, plane, side="left")
        counted[0] += np.bincount(exceeded[true], minlength=LEVELS + 1)
        counted[1] += np.bincount(exceeded.ravel(), minlength=LEVELS + 1)
    # Voxels above threshold k exceeded at least k + 1 of them.
    inside, anywhere = counted[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    total = int(np.count_nonzero(annotated))
    counts = [Overlap(int(tp), int(all_) - int(tp), total - int(tp)) for tp, all_ in zip(inside, anywhere, strict=True)]
    return Sweep(tuple(thresholds.tolist()), tuple(counts))


def mask_above(probability: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Return where a probability, of uint8 or floating-point as `threshold_sweep` takes it, is above a threshold.

    >>> mask_above(np.array([0, 127, 128, 255], np.uint8), 0.5).tolist()
    [False, False, True, True]
    """
    _check(probability)
    if probability.dtype == np.uint8:
        mask: NDArray[np.bool_] = (np.arange(256) / 255 > threshold)[probability]
        return mask
    return np.asarray(probability > threshold)


def _check(probability: NDArray[Any]) -> None:
    fits = probability.dtype.kind == "f" and all(((plane >= 0) & (plane <= 1)).all() for plane in probability)
    if probability.dtype != np.uint8 and not fits:
        raise InputError(
            f"no probabilities: {probability.dtype} from {probability.min():g} to {probability.max():g}, "
            "expected uint8 (0 to 255) or floating-point numbers in [0, 1]"
        )
