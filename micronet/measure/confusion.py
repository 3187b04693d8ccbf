"""Which class was taken for which: the confusion matrix of several exclusive classes, and the scores it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.names import shortened, write_name
from micronet.measure.overlap import Overlap

__all__ = ["DEFINITIONS", "Confusion", "confusion", "confusion_lines"]

#: What the scores of classes are, by their names in tables.
DEFINITIONS = {
    "iou": "intersection over union of the voxels of a class, TP / (TP + FP + FN); neither found nor annotated: 1",
    "dice": "2 TP / (2 TP + FP + FN); neither found nor annotated: 1",
    "precision": "TP / (TP + FP)",
    "recall": "TP / (TP + FN)",
    "mean_iou": "mean of the IoU of all classes, background among them",
    "mean_iou_of_classes": "the same without background",
    "mean_dice_of_classes": "mean of the Dice of all classes but background",
}
_LONGEST_NAME = 20


@dataclass(frozen=True)
class Confusion:
    """Counts of voxels by what they are annotated as and what they were found to be; two of them add up.

    Parameters
    ----------
    names : tuple of str
        Of background and classes, in the order of their numbers.
    counts : tuple of tuples of int
        Rows are what was annotated, columns what was found.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str], counts: Any) -> Confusion:
        """Return counts that come from a file; InputError where they are none of these classes."""
        table = np.array(counts)
        if table.dtype.kind not in "iu" or table.shape != (len(names), len(names)) or table.min() < 0:
            raise InputError(f"counts of shape {table.shape} are none of {len(names)} classes")
        return cls(tuple(names), _as_tuples(table))

    def __add__(self, other: Confusion) -> Confusion:
        if self.names != other.names:
            raise InputError(f"classes {', '.join(other.names)} do not add to {', '.join(self.names)}")
        return Confusion(self.names, _as_tuples(np.array(self.counts) + np.array(other.counts)))

    def overlap(self, number: int) -> Overlap:
        """Return the counts of one class against all others."""
        table = np.array(self.counts)
        right = int(table[number, number])
        return Overlap(right, int(table[:, number].sum()) - right, int(table[number].sum()) - right)

    @property
    def overlaps(self) -> tuple[Overlap, ...]:
        """Those of background and of every class."""
        return tuple(self.overlap(number) for number in range(len(self.names)))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of all classes, background among them."""
        return float(np.mean([one.iou for one in self.overlaps]))

    # As of `Overlap`, but means over the classes.

    @property
    def iou(self) -> float:
        """Mean IoU of all classes but background."""
        return float(np.mean([one.iou for one in self.overlaps[1:]]))

    @property
    def precision(self) -> float:
        """Mean precision of all classes but background."""
        return float(np.mean([one.precision for one in self.overlaps[1:]]))

    @property
    def recall(self) -> float:
        """Mean recall of all classes but background."""
        return float(np.mean([one.recall for one in self.overlaps[1:]]))

    def f_score(self, beta_squared: float = 1.0) -> float:
        """Mean F-beta of all classes but background; with `beta_squared` 1 their mean Dice."""
        return float(np.mean([one.f_score(beta_squared) for one in self.overlaps[1:]]))

    def record(self) -> dict[str, Any]:
        """Return counts and scores as a record has them."""
        each = {
            name: {"iou": one.iou, "dice": one.f_score(), "precision": one.precision, "recall": one.recall}
            for name, one in zip(self.names, self.overlaps, strict=True)
        }
        return {
            "mean_iou": self.mean_iou,
            "mean_iou_of_classes": self.iou,
            "mean_dice_of_classes": self.f_score(),
            "classes": each,
            "confusion": {"rows": "annotated", "columns": "found", "names": [*self.names], "voxels": self.counts},
        }


def confusion(
    found: NDArray[np.uint8], annotated: NDArray[np.uint8], names: Sequence[str], counted: NDArray[Any] | None = None
) -> Confusion:
    """Count which class was taken for which.

    Parameters
    ----------
    found, annotated : ndarray of one shape (Z, Y, X), uint8
        0 background, 1 the first class, ..
    names : sequence of str
        Of background and classes.
    counted : ndarray of bool, of that shape, optional
        Voxels that count; the others are not annotated.

    Raises
    ------
    InputError
        If shapes differ, or a number is of no class.

    Examples
    --------
    >>> one = confusion(np.array([[[0, 1, 1]]]), np.array([[[0, 1, 2]]]), ("background", "lumen", "wall"))
    >>> one.counts
    ((1, 0, 0), (0, 1, 0), (0, 1, 0))
    >>> one.overlap(1).iou, one.mean_iou
    (0.5, 0.5)
    """
    if found.shape != annotated.shape or (counted is not None and counted.shape != found.shape):
        raise InputError(f"labels of shapes {found.shape} and {annotated.shape} are compared")
    size = len(names)
    counts = np.zeros(size * size, np.int64)
    for z, (here, there) in enumerate(zip(found, annotated, strict=True)):  # no temporary of the volume's size
        if counted is not None:
            here, there = here[counted[z]], there[counted[z]]
        if here.size and max(int(here.max()), int(there.max())) >= size:
            raise InputError(f"labels up to {max(int(here.max()), int(there.max()))}, of {size - 1} classes")
        counts += np.bincount(there.ravel().astype(np.intp) * size + here.ravel(), minlength=size * size)
    return Confusion(tuple(names), _as_tuples(counts.reshape(size, size)))


def confusion_lines(scores: Confusion) -> list[str]:
    """Return the scores of every class and the matrix, in parts of what was annotated, as lines of a small table."""
    names = [shortened(write_name(name), _LONGEST_NAME) for name in scores.names]
    width = max(map(len, names))
    columns = [max(len(name), 7) for name in names]  # as "100.0 %"
    head = "  ".join(f"{name:>{length}}" for name, length in zip(names, columns, strict=True))
    lines = [f"{'':<{width}}     IoU    Dice  precision  recall   found as {head}"]
    for name, one, row in zip(names, scores.overlaps, scores.counts, strict=True):
        total = sum(row)
        shares = [f"{100 * count / total:.1f} %" if total else "-" for count in row]
        parts = "  ".join(f"{share:>{length}}" for share, length in zip(shares, columns, strict=True))
        lines.append(
            f"{name:<{width}}  {one.iou:.4f}  {one.f_score():.4f}     {one.precision:.4f}  {one.recall:.4f}            "
            f"{parts}"
        )
    means = f"{scores.mean_iou:.4f}  with background; {scores.iou:.4f} without, Dice {scores.f_score():.4f}"
    return [*lines, f"{'mean':<{width}}  {means}"]


def _as_tuples(table: NDArray[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(count) for count in row) for row in table)
