"""How well classes of images are told: precision, recall, F1 and average precision of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micronet.measure.overlap import Overlap

__all__ = ["ClassScore", "average_precision", "class_scores"]


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class: of how many images that hold it, `positives`, and that do not, `negatives`.

    `average_precision` is nan where no image holds it.
    """

    name: str
    overlap: Overlap
    average_precision: float
    positives: int
    negatives: int

    @property
    def precision(self) -> float:
        """Of those that are said to hold it, the part that does."""
        return self.overlap.precision

    @property
    def recall(self) -> float:
        """Of those that hold it, the part that is said to."""
        return self.overlap.recall

    @property
    def f1(self) -> float:
        """F1 at the threshold."""
        return self.overlap.f_score()


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the average precision: the precision at each recall that is reached, weighted by the rise of the recall.

    Parameters
    ----------
    labels : ndarray of shape (N,), bool
    scores : ndarray of shape (N,)
        Higher where the label is more likely; equal scores are ranked together.

    Returns
    -------
    float
        In [0, 1]; nan where no label is True.

    Notes
    -----
    sum over n of (R_n - R_(n-1)) P_n, without interpolation, as scikit-learn's ``average_precision_score``.

    Examples
    --------
    >>> round(average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7])), 4)  # 1/2 + 1/2 * 2/3
    0.8333
    """
    if not labels.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of those with equal scores
    precision, recall = found[last] / (last + 1), found[last] / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def class_scores(
    names: Sequence[str], labels: NDArray[np.int8], probability: NDArray[np.floating], threshold: float = 0.5
) -> tuple[ClassScore, ...]:
    """Return the scores of each class.

    Parameters
    ----------
    names : sequence of str
        Of the K classes.
    labels : ndarray of shape (N, K), int8
        1 where an image holds a class, 0 where it does not; others do not count.
    probability : ndarray of shape (N, K)
    threshold : float
        What lies above it is taken for there.
    """
    found = []
    for number, name in enumerate(names):
        known = labels[:, number] >= 0
        there, told = labels[known, number] == 1, probability[known, number]
        said = told > threshold
        counts = Overlap(int((said & there).sum()), int((said & ~there).sum()), int((~said & there).sum()))
        positives = int(there.sum())
        found.append(ClassScore(name, counts, average_precision(there, told), positives, len(there) - positives))
    return tuple(found)
