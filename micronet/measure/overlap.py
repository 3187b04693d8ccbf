"""Scores of a predicted mask against an annotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError

__all__ = ["Overlap", "overlap"]


@dataclass(frozen=True)
class Overlap:
    """Counts of voxels and the scores they give.

    Empty cases: with nothing annotated and nothing predicted every score is 1; otherwise a score whose
    denominator is empty is 0.
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    def _ratio(self, part: float, whole: float) -> float:
        if self.true_positives + self.false_positives + self.false_negatives == 0:
            return 1.0
        return part / whole if whole else 0.0

    @property
    def precision(self) -> float:
        """Fraction of the predicted voxels that are annotated."""
        return self._ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Fraction of the annotated voxels that are predicted."""
        return self._ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def iou(self) -> float:
        """Intersection over union, also called Jaccard index."""
        return self._ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)

    def f_score(self, beta_squared: float = 1.0) -> float:
        """F-beta score; with `beta_squared` 1 the harmonic mean of precision and recall, which is Dice.

        >>> scores = Overlap(true_positives=3, false_positives=1, false_negatives=2)
        >>> [round(scores.f_score(b), 3) for b in (0.25, 1, 4)]
        [0.714, 0.667, 0.625]
        """
        part = (1 + beta_squared) * self.true_positives
        return self._ratio(part, part + beta_squared * self.false_negatives + self.false_positives)


def overlap(predicted: NDArray[Any], annotated: NDArray[Any], counted: NDArray[Any] | None = None) -> Overlap:
    """Count where a predicted mask and an annotation agree.

    Parameters
    ----------
    predicted, annotated : ndarray of bool, of one shape
        The two masks; a probability must be thresholded first.
    counted : ndarray of bool, optional
        Voxels that count; the others are not annotated.

    Returns
    -------
    Overlap

    Raises
    ------
    InputError
        If the shapes differ or a mask is not bool.
    """
    masks = [predicted, annotated] if counted is None else [predicted, annotated, counted]
    if any(mask.dtype != np.bool_ or mask.shape != predicted.shape for mask in masks):
        found = ", ".join(f"{mask.dtype} {mask.shape}" for mask in masks)
        raise InputError(f"overlap takes bool masks of one shape, found {found}")
    if counted is not None:
        predicted, annotated = predicted & counted, annotated & counted
    true_positives = int(np.count_nonzero(predicted & annotated))
    return Overlap(
        true_positives,
        int(np.count_nonzero(predicted)) - true_positives,
        int(np.count_nonzero(annotated)) - true_positives,
    )
