"""What a network in training found, against what is annotated: lumen above a threshold, or several classes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from micronet.core.exclusive import most_probable
from micronet.core.planes import Planes
from micronet.measure.confusion import Confusion, confusion
from micronet.measure.overlap import Overlap, overlap
from micronet.segment.outputs import above

__all__ = [
    "Scored",
    "batch_scores",
    "classes_record",
    "compared",
    "found_in",
    "numbers_of",
    "pooled",
    "with_numbers",
]

#: Of lumen, or of several classes, which has the same scores, as means over the classes.
Scored = Overlap | Confusion


def found_in(probability: Sequence[Planes] | NDArray[np.float32], threshold: float) -> NDArray[Any]:
    """Return where the one probability (Z, Y, X) is above a threshold, or the most probable of several, uint8."""
    return above(probability[0], threshold) if len(probability) == 1 else most_probable(probability)


def compared(
    found: NDArray[Any], target: NDArray[Any], weight: NDArray[np.bool_] | None, names: Sequence[str]
) -> Scored:
    """Return the counts of what was found, as `found_in` has it.

    Parameters
    ----------
    found, target : ndarray of shape (Z, Y, X), bool, or the numbers of classes, uint8
    weight : ndarray of that shape, bool, or None
        Voxels that count.
    names : sequence of str
        Of background and classes.
    """
    if target.dtype == np.bool_:
        return overlap(found, target, weight)
    return confusion(found, target, names, weight)


def batch_scores(probability: Tensor, target: Tensor, weight: Tensor | None, names: Sequence[str]) -> Scored:
    """Return the counts of a batch: probability (N, classes, D, H, W), target and weight (N, 1, D, H, W)."""
    of_classes = np.moveaxis(probability.detach().cpu().numpy(), 1, 0)
    whole = of_classes.reshape(len(of_classes), -1, *of_classes.shape[3:])  # the volumes of the batch in a row
    found = found_in(whole, 0.5)
    return compared(found, _in_a_row(target), None if weight is None else _in_a_row(weight) > 0, names)


def _in_a_row(one: Tensor) -> NDArray[Any]:
    return one.numpy().reshape(-1, *one.shape[3:])


def pooled(scores: Sequence[Scored]) -> Scored:
    """Return the counts of several volumes together."""
    together: Scored = functools.reduce(operator.add, scores)
    return together


def numbers_of(scores: Scored) -> list[int]:
    """Return the counts in a row."""
    return list(astuple(scores)) if isinstance(scores, Overlap) else [count for row in scores.counts for count in row]


def with_numbers(scores: Scored, numbers: Sequence[int]) -> Scored:
    """Return counts of the same kind with other `numbers_of`."""
    if isinstance(scores, Overlap):
        return Overlap(*numbers)
    return Confusion.of(scores.names, np.reshape(numbers, (len(scores.names), -1)))


def classes_record(scores: Scored) -> dict[str, Any]:
    """Return what a record says of the scores of several classes; nothing of lumen alone."""
    return {"scores": scores.record()} if isinstance(scores, Confusion) else {}
