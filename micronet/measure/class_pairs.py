"""Predictions and annotations of several exclusive classes: read together, compared, and written into tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import BACKGROUND
from micronet.core.errors import InputError, setting
from micronet.core.names import listed, write_name
from micronet.core.ownership import Outputs
from micronet.core.provenance import versions
from micronet.core.table import number_cell, write_table
from micronet.core.volume import Volume, share_grid
from micronet.io import Sources, read_volume
from micronet.io.classes import read_classes
from micronet.io.volume_names import result_record
from micronet.measure.confusion import DEFINITIONS, Confusion, confusion
from micronet.measure.pairs import Pair, Reading
from micronet.measure.tables import CONFUSION, MADE_BY, PAGE, SCORES, SUMMARY, settings_of

__all__ = [
    "ClassEvaluation",
    "ClassPair",
    "ClassTables",
    "evaluate_classes",
    "planned_classes",
    "read_class_pair",
    "stated_classes",
    "together",
]

_SCORES_OF_A_CLASS = ("iou", "dice", "precision", "recall")
_MEANS = ("mean_iou", "mean_iou_of_classes", "mean_dice_of_classes")


@dataclass(frozen=True, eq=False)
class ClassPair:
    """What is compared, on one grid: arrays of uint8, 0 background, 1 the first class, ..; after any crop."""

    name: str
    names: tuple[str, ...]
    found: NDArray[np.uint8]
    annotated: NDArray[np.uint8]
    image: NDArray[Any] | None
    spacing_um: tuple[float, float, float] | None
    descriptions: tuple[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassEvaluation:
    """What became of one pair."""

    pair: Pair
    scores: Confusion
    spacing_um: tuple[float, float, float] | None = field(default=None)


def stated_classes(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return the classes that predictions tell apart by their records; none where any of them does not.

    InputError where they tell different ones apart.
    """
    found = [_stated(pair.prediction) for pair in pairs]
    if not all(found):
        return ()
    if len(set(found)) > 1:
        other = next(number for number, names in enumerate(found) if names != found[0])
        raise InputError(
            f"'{pairs[0].prediction}' tells {listed(found[0])} apart, '{pairs[other].prediction}' "
            f"{listed(found[other])}: name the classes to be scored {setting('classes')}"
        )
    return found[0]


def _stated(prediction: Path) -> tuple[str, ...]:
    """Return the classes that the record of a prediction names; it may hold anything."""
    record: Mapping[str, Any] = result_record(prediction) or {}
    asked = record.get("asked")
    for told in (record, asked if isinstance(asked, dict) else {}):
        named = told.get("classes")
        if told.get("exclusive") is True and isinstance(told.get("segments"), list):
            named = [one.get("name") if isinstance(one, dict) else None for one in told["segments"]]
        if isinstance(named, list) and len(named) > 1 and all(isinstance(name, str) for name in named):
            return tuple(named)
    return ()


def read_class_pair(pair: Pair, names: Sequence[str], reading: Reading, sources: Sources) -> ClassPair:
    """Read what the voxels of a pair are; errors as `micronet.measure.pairs.read_pair` and `read_classes`."""
    how: dict[str, Any] = {"axes": reading.axes, "spacing_um": reading.spacing_um, "flat": True}
    annotation = read_classes(sources.of(pair.annotation), names, **how)
    prediction = read_classes(sources.of(pair.prediction), names, **how)
    annotated, found, _ = share_grid(annotation.volume, prediction.volume, str(pair.annotation), str(pair.prediction))
    image = None
    if pair.image is not None:
        image = read_volume(sources.of(pair.image), **how)
        annotated, image, _ = share_grid(annotated, image, str(pair.annotation), str(pair.image))
    return ClassPair(
        pair.name,
        (BACKGROUND, *names),
        _cropped(found, reading),
        _cropped(annotated, reading),
        None if image is None else _cropped(image, reading),
        annotated.spacing_um or found.spacing_um,
        (prediction.description, annotation.description),
        tuple(dict.fromkeys(note for one in (annotated, found) for note in one.notes)),
    )


def _cropped(volume: Volume, reading: Reading) -> NDArray[Any]:
    return volume.array[:, : reading.y_crop]


def evaluate_classes(classes: ClassPair, pair: Pair) -> ClassEvaluation:
    """Count which class was taken for which."""
    return ClassEvaluation(pair, confusion(classes.found, classes.annotated, classes.names), classes.spacing_um)


def together(evaluations: Sequence[ClassEvaluation]) -> Confusion:
    """Return the counts of all pairs."""
    return reduce(add, (one.scores for one in evaluations))


def planned_classes(folder: Path, count: int, *, report: bool) -> Outputs:
    """Return the files that the scores of so many pairs consist of; the record is ``scores.json``."""
    whole = {SUMMARY: count > 1, PAGE: report}
    names = [SCORES, CONFUSION, *(name for name, wanted in whole.items() if wanted)]
    return Outputs(folder, "scores.json", MADE_BY, names, outdated=[name for name in whole if name not in names])


class Page(Protocol):
    """A page about the pairs."""

    def write(self, path: Path, whole: Confusion) -> None:
        """Write it."""


class ClassTables:
    """The tables of an evaluation, written anew with each pair.

    ``scores.csv`` has a row for each class of each pair, and its means; ``confusion.csv`` a row for what was annotated
    as each class; ``summary.csv`` the scores of the voxels of all pairs together, where there are several.

    Parameters
    ----------
    outputs : Outputs
        As `planned_classes` gives them.
    reading : Reading
    """

    def __init__(self, outputs: Outputs, reading: Reading) -> None:
        self.evaluations: list[ClassEvaluation] = []
        self._outputs = outputs
        told = settings_of(replace(reading, probability=False))
        self._settings = {name: value for name, value in told.items() if value is not None}

    def add(self, evaluation: ClassEvaluation) -> None:
        """Write the rows of a pair; FileError if that cannot be done."""
        if not self.evaluations:
            self._outputs.remove((PAGE, SUMMARY))
        self.evaluations.append(evaluation)
        scores = [row for one in self.evaluations for row in _score_rows(_told(one.pair), one.scores)]
        counts = [row for one in self.evaluations for row in _count_rows(_told(one.pair), one.scores)]
        names = [write_name(name) for name in evaluation.scores.names]
        with self._outputs.staged() as folder:
            told = ["volume", "prediction", "annotation"]
            self._write(folder / SCORES, "scores of several classes", [*told, *_SCORE_COLUMNS], scores)
            columns = [*told, "annotated_as", *(f"found_as {name}" for name in names)]
            self._write(folder / CONFUSION, "voxels by what they are annotated as and were found", columns, counts)

    def finish(self, page: Page | None = None) -> list[Path]:
        """Write what is of all pairs, the page, and the record; return the paths of all files."""
        files, whole = [SCORES, CONFUSION], together(self.evaluations)
        with self._outputs.staged() as folder:
            if len(self.evaluations) > 1:
                files.append(SUMMARY)
                title = f"scores of several classes, of all voxels of {len(self.evaluations)} volumes together"
                self._write(folder / SUMMARY, title, _SCORE_COLUMNS, _score_rows((), whole))
            if page is not None:
                files.append(PAGE)
                page.write(folder / PAGE, whole)
        self._outputs.finish(self.record())
        return [self._outputs.folder / name for name in files]

    def record(self) -> dict[str, Any]:
        """Return what the record says."""
        return {
            "settings": self._settings,
            "pairs": [
                {"volume": write_name(one.pair.name), **_files(one.pair), **one.scores.record()}
                for one in self.evaluations
            ],
            "together": together(self.evaluations).record(),
            "definitions": DEFINITIONS,
            "versions": versions(),
        }

    def _write(self, path: Path, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        comments = [f"setting {name}: {value}" for name, value in self._settings.items()]
        comments += [f"{name}: {text}" for name, text in DEFINITIONS.items() if name in columns]
        write_table(path, title, comments, columns, rows)


_SCORE_COLUMNS = ("class", *_SCORES_OF_A_CLASS, "annotated_voxels", "found_voxels", *_MEANS)


def _told(pair: Pair) -> tuple[object, ...]:
    return (pair.name, str(pair.prediction), str(pair.annotation))


def _files(pair: Pair) -> dict[str, str]:
    return {"prediction": write_name(pair.prediction), "annotation": write_name(pair.annotation)}


def _score_rows(told: Sequence[object], scores: Confusion) -> list[list[object]]:
    """Return a row for each class, and one with their means."""
    rows: list[list[object]] = []
    for name, one in zip(scores.names, scores.overlaps, strict=True):
        values = map(number_cell, (one.iou, one.f_score(), one.precision, one.recall))
        voxels = [one.true_positives + one.false_negatives, one.true_positives + one.false_positives]
        rows.append([*told, name, *values, *voxels, "", "", ""])
    means = map(number_cell, (scores.mean_iou, scores.iou, scores.f_score()))
    return [*rows, [*told, "all", "", "", "", "", "", "", *means]]


def _count_rows(told: Sequence[object], scores: Confusion) -> list[list[object]]:
    return [[*told, name, *row] for name, row in zip(scores.names, scores.counts, strict=True)]
