"""What ``evaluate.py`` does where several exclusive classes are scored."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from micronet.app.batch import run_batch
from micronet.app.terminal import option_of, tell
from micronet.core import ram
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.ownership import check_outputs
from micronet.io import Sources
from micronet.measure.class_pairs import (
    ClassTables,
    evaluate_classes,
    planned_classes,
    read_class_pair,
    stated_classes,
    together,
)
from micronet.measure.class_report import ClassReport
from micronet.measure.confusion import confusion_lines
from micronet.measure.pairs import Pair, Reading, check_reading, files_of_pairs

__all__ = ["classes_to_score", "score_classes"]

# What is of one mask, by destination, and what it is when nobody asked for it.
_OF_ONE_MASK = {"sweep": False, "measures": False, "figure": None, "tolerance_um": None}
_CHOICES = ("segment", "prediction_segment")


def classes_to_score(arguments: argparse.Namespace, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return the classes that were asked for, or that the predictions tell apart; none where masks are scored.

    InputError where something else was asked for that is of one mask.
    """
    asked: tuple[str, ...] = arguments.classes or ()
    chosen = [name for name in _CHOICES if getattr(arguments, name) is not None]
    if chosen and not asked:
        return ()
    classes = asked or (() if arguments.sweep else stated_classes(pairs))
    given = [*chosen, *(name for name, usual in _OF_ONE_MASK.items() if getattr(arguments, name) != usual)]
    if classes and given:
        raise InputError(
            f"{option_of(given[0])} is of one mask, and the classes {', '.join(classes)} are scored: one of them "
            f"alone is --segment {classes[0]} --prediction-segment {classes[0]}, without --classes"
        )
    if classes:
        one = "--segment and --prediction-segment take one"
        whose = "as asked for" if asked else f"as the records of the predictions say; {one}"
        tell(f"classes {', '.join(classes)} ({whose})")
    return classes


def score_classes(arguments: argparse.Namespace, pairs: Sequence[Pair], names: Sequence[str], reading: Reading) -> int:
    """Score each pair; a bad one never stops the others. Returns the exit code."""
    outputs = planned_classes(arguments.output, len(pairs), report=arguments.report)
    check_outputs([outputs], files_of_pairs(pairs))
    outputs.check_room()
    tables = ClassTables(outputs, reading)
    report = ClassReport(len(pairs)) if arguments.report else None
    scorer = _Scorer(tuple(names), reading, tables, report, arguments.max_ram)
    code = run_batch(pairs, scorer.score, lambda pair: pair.prediction, debug=arguments.debug)
    if tables.evaluations:
        files = tables.finish(report)
        if len(tables.evaluations) > 1:
            tell(f"the voxels of {len(tables.evaluations)} volumes together:")
        tell("\n".join(confusion_lines(together(tables.evaluations))))
        tell(f"wrote {arguments.output}/: {', '.join(file.name for file in files)}")
    return code


@dataclass(frozen=True)
class _Scorer:
    """Scores a pair into the tables, and into the page where one is made."""

    names: tuple[str, ...]
    reading: Reading
    tables: ClassTables
    report: ClassReport | None
    max_ram: int | None

    def score(self, pair: Pair) -> Outcome:
        """Read, compare, write."""
        with Sources() as sources:
            check_reading(pair, self.reading, sources, ram.Allowance.of(self.max_ram, ram.SCORING))
            classes = read_class_pair(pair, self.names, self.reading, sources)
        tell(f"  {classes.descriptions[0]} against {classes.descriptions[1]}")
        for note in classes.notes:
            tell(f"  note: {note}")
        evaluation = evaluate_classes(classes, pair)
        if self.report is not None:
            self.report.add(classes, evaluation)
        self.tables.add(evaluation)
        scores = evaluation.scores
        each = zip(scores.names[1:], scores.overlaps[1:], strict=True)
        told = ", ".join(f"{name} {one.iou:.4f}" for name, one in each)
        return Outcome(pair.prediction, "done", f"mean IoU {scores.mean_iou:.4f} ({told})")
