"""The page of an evaluation of several classes: their contours on every slice, scores, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import ANNOTATION_COLOUR, colour
from micronet.core.names import write_name
from micronet.core.provenance import versions
from micronet.measure.class_pairs import ClassEvaluation, ClassPair
from micronet.measure.confusion import DEFINITIONS, Confusion
from micronet.measure.scores import score_text
from micronet.report.annotated import planes_annotated
from micronet.report.page.grid import VOXELS, Grid
from micronet.report.page.html import Markup, Section, note, table, write_page
from micronet.report.page.scroller import Movie, Outlined, Shown

__all__ = ["ClassReport"]

# Volumes whose slices a page holds, and rows of the table of volumes.
_MOST_SHOWN, _MOST_ROWS = 12, 200


class ClassReport:
    """Collects what a page shows while pairs are scored, and writes it.

    Parameters
    ----------
    pairs : int
        How many there will be, at most; the more, the coarser each is shown.
    """

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs
        self._evaluations: list[ClassEvaluation] = []
        self._shown: list[Shown] = []

    def add(self, classes: ClassPair, evaluation: ClassEvaluation) -> None:
        """Note a pair."""
        self._evaluations.append(evaluation)
        if len(self._shown) >= _MOST_SHOWN:
            return
        grid = Grid(classes.found.shape, classes.spacing_um, VOXELS // min(self._pairs, _MOST_SHOWN))
        movie = Movie(grid, colour(1))
        movie.add(classes.found == 1, "prediction")
        name = write_name(classes.name)
        if self._pairs > 1:
            name = f"{name}: mean IoU {score_text(evaluation.scores.mean_iou)}"
        first, *others = classes.names[1:]
        further = [Outlined(other, colour(k), classes.found == k) for k, other in enumerate(others, 2)]
        for k, other in enumerate(others, 2):
            annotated = _is(classes.annotated, k)
            known = planes_annotated(annotated)
            further.append(Outlined(f"{other}, annotated", ANNOTATION_COLOUR, annotated, known))
        self._shown.append(
            Shown(
                name,
                movie,
                classes.image,
                _is(classes.annotated, 1),
                mask_name=first,
                annotation_name=f"{first}, annotated",
                further=further,
            )
        )

    def write(self, path: Path, whole: Confusion) -> None:
        """Write the page of all pairs noted, of which there is at least one; FileError if that cannot be done."""
        one = len(self._evaluations) == 1
        sections = [Section("Scores", _scores(whole, one)), Section("Confusion matrix", _matrix(whole))]
        if not one:
            sections.append(Section("Each volume", _each_volume(self._evaluations)))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        record = {
            "created": created,
            "pairs": [{"volume": write_name(each.pair.name), **each.scores.record()} for each in self._evaluations],
            "together": whole.record(),
            "definitions": DEFINITIONS,
            "versions": versions(),
        }
        facts = [f"mean IoU {score_text(whole.mean_iou)}", f"classes {', '.join(whole.names[1:])}"]
        if len(self._shown) < len(self._evaluations):
            facts.append(f"slices of the first {len(self._shown)} volumes")
        facts.append(f"micronet {versions()['micronet']}, {created[:16].replace('T', ' ')} UTC")
        title = write_name(self._evaluations[0].pair.name) if one else f"Scores of {len(self._evaluations)} volumes"
        write_page(path, title, facts, self._shown, sections, record)


def _is(labels: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = labels == number
    return found


def _scores(whole: Confusion, one: bool) -> list[Markup]:
    rows = [
        (name, *map(score_text, (each.iou, each.f_score(), each.precision, each.recall)))
        for name, each in zip(whole.names, whole.overlaps, strict=True)
    ]
    rows.append(("mean, with background", score_text(whole.mean_iou), "–", "–", "–"))
    means = (whole.iou, whole.f_score(), whole.precision, whole.recall)
    rows.append(("mean, without background", *map(score_text, means)))
    told = "IoU: intersection over union. A class that is neither found nor annotated has the score 1."
    return [
        table(("class", "IoU", "Dice", "precision", "recall"), rows),
        note(told if one else f"Of the voxels of all volumes together. {told}"),
    ]


def _matrix(whole: Confusion) -> list[Markup]:
    rows = []
    for name, counts in zip(whole.names, whole.counts, strict=True):
        total = sum(counts)
        rows.append((name, *(f"{100 * count / total:.2f} %" if total else "–" for count in counts), f"{total:,}"))
    header = ("annotated as", *(f"found as {name}" for name in whole.names), "voxels")
    return [table(header, rows), note("Each row: what became of the voxels that are annotated as a class.")]


def _each_volume(evaluations: Sequence[ClassEvaluation]) -> list[Markup]:
    names = evaluations[0].scores.names
    rows = [
        (
            write_name(one.pair.name),
            score_text(one.scores.mean_iou),
            *(score_text(each.iou) for each in one.scores.overlaps),
        )
        for one in evaluations[:_MOST_ROWS]
    ]
    few = f"The first {_MOST_ROWS} of {len(evaluations)} volumes; all are in scores.csv."
    parts = [table(("volume", "mean IoU", *(f"IoU of {name}" for name in names)), rows)]
    return [*parts, note(few)] if len(rows) < len(evaluations) else parts
