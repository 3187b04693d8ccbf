"""What `val` and `test` leave of images of which is told what they hold: a table, a line an image or a part of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from micronet.core.ownership import Outputs
from micronet.core.table import number_cell, write_table
from micronet.data.image_samples import ImageSample
from micronet.measure.presence import ClassScore
from micronet.training.run_files import Run

__all__ = ["class_lines", "planned_presence", "told_of", "write_presence"]

_BOX = ("z_first", "z_end", "y_first", "y_end", "x_first", "x_end")
_LABELS = {1: "1", 0: "0", -1: ""}


def planned_presence(run: Run, step: int, split: str) -> Outputs:
    """Return the table of the images of a split, and its record."""
    stem = f"{run.name}_{step}_{split}_classes"
    return Outputs(run.places.predictions, f"{stem}.json", "training", [f"{stem}.csv"])


def write_presence(
    outputs: Outputs,
    classes: Sequence[str],
    found: Sequence[tuple[ImageSample, Sequence[NDArray[np.float32]]]],
    about: dict[str, object],
) -> None:
    """Write the table: of each part its image and box, and of each class its probability and its label.

    Parameters
    ----------
    outputs : Outputs
        As `planned_presence` gives them.
    classes : sequence of str
    found : sequence of (ImageSample, sequence of ndarray)
        Probabilities by part, shaped as its labels; of blocks a line each.
    about : dict
        What the record tells beside: run, step and scores.
    """
    columns = ["name", *_BOX, *classes, *(f"label of {name}" for name in classes)]
    rows = [row for sample, probabilities in found for row in _rows(sample, probabilities)]
    with outputs.staged() as folder:
        comments = ["probability of each class in each part of an image (voxels from first to before end)"]
        write_table(folder / outputs.paths[0].name, "micronet: which classes images hold", comments, columns, rows)
    outputs.finish(about)


def _rows(sample: ImageSample, probabilities: Sequence[NDArray[np.float32]]) -> list[list[object]]:
    rows = []
    for part, probability in zip(sample.parts, probabilities, strict=True):
        grid = part.labels.shape[1:] or (1, 1, 1)
        told = probability.reshape(len(probability), *grid)
        labels = part.labels.reshape(told.shape)
        for place in np.ndindex(*grid):
            box: list[object] = []
            for (first, end), number in zip(part.box, place, strict=True):
                edge = sample.block or end - first
                box += [first + number * edge, min(first + (number + 1) * edge, end)]
            numbers = [number_cell(float(value)) for value in told[(slice(None), *place)]]
            given = [_LABELS[int(value)] for value in labels[(slice(None), *place)]]
            rows.append([sample.entry.name, *box, *numbers, *given])
    return rows


def told_of(scores: Sequence[ClassScore]) -> dict[str, object]:
    """Return scores of classes as a record has them; null where there is no average precision."""
    return {
        "classes": {
            one.name: {
                "precision": one.precision,
                "recall": one.recall,
                "f1": one.f1,
                "average_precision": None if math.isnan(one.average_precision) else one.average_precision,
                "with": one.positives,
                "without": one.negatives,
            }
            for one in scores
        }
    }


def class_lines(scores: Sequence[ClassScore]) -> list[str]:
    """Return a line for each class: F1, precision, recall, average precision, and of how many images."""
    width = max((len(one.name) for one in scores), default=0)
    return [
        f"{one.name:<{width}}  F1 {one.f1:.4f}  precision {one.precision:.4f}  recall "
        f"{one.recall:.4f}  average precision {one.average_precision:.4f}  "
        f"({one.positives:,} with, {one.negatives:,} without)"
        for one in scores
    ]
