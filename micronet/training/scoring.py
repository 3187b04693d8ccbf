"""What a network in training found, against what is annotated: lumen above a threshold, or several classes."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.core.exclusive import most_probable
from micronet.measure.confusion import Confusion, confusion
from micronet.measure.overlap import Overlap, overlap
from micronet.segment.refine import Change, Iteration

__all__ = [
    "Scored",
    "batch_scores",
    "classes_record",
    "compared",
    "found_in",
    "look_for_classes",
    "numbers_of",
    "pooled",
    "with_numbers",
]

#: Of lumen, or of several classes, which has the same scores, as means over the classes.
Scored = Overlap | Confusion


def found_in(probability: NDArray[np.float32], threshold: float) -> NDArray[Any]:
    """Return where a probability (Z, Y, X) is above a threshold, or the most probable of (classes, Z, Y, X), uint8."""
    return probability > threshold if probability.ndim == 3 else most_probable(probability)


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
    found = found_in(whole[0] if len(whole) == 1 else whole, 0.5)
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


def look_for_classes(
    image: NDArray[np.float32], model: nn.Module, on_iteration: Callable[[Iteration], None] | None
) -> NDArray[np.float32]:
    """Return the probability (classes, Z, Y, X) of a normalised image (Z, Y, X); `on_iteration` as of `refine`."""
    began = time.perf_counter()
    first = next(model.parameters())
    x = torch.from_numpy(image)[None, None].to(first.device, first.dtype)
    with torch.inference_mode():
        probability: NDArray[np.float32] = model(x)[0].float().cpu().numpy()
    if on_iteration is not None:
        change = Change()
        change.add(np.broadcast_to(np.float32(0), image.shape), probability.sum(0))
        on_iteration(change.iteration(1, time.perf_counter() - began))
    return probability
