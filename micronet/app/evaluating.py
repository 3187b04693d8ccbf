"""What ``evaluate.py`` does: predictions put together with annotations, each pair scored, then all of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from micronet.app.batch import run_batch
from micronet.app.evaluating_classes import classes_to_score, score_classes
from micronet.app.inputs import check_only, figure_wish, inputs_from
from micronet.app.options import settings_of
from micronet.app.progress import pass_bar
from micronet.app.terminal import tell
from micronet.core import ram
from micronet.core.errors import FileError, InputError
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs, check_outputs
from micronet.io import Sources
from micronet.measure.lumen_files import write_vessels
from micronet.measure.pairs import (
    Evaluation,
    MaskPair,
    Pair,
    Reading,
    check_reading,
    check_scoring,
    evaluate_pair,
    files_of_pairs,
    find_pairs,
    read_pair,
    with_images,
)
from micronet.measure.report import EvaluationReport
from micronet.measure.scores import Scoring, summarise
from micronet.measure.slab_scores import LEFT_OUT, evaluate_in_slabs, lies_in_stores
from micronet.measure.tables import ScoreTables, figure_of, planned_scores, summary_lines
from micronet.report.preview import Scene, write_paper_figure
from micronet.report.wish import FigureWish

__all__ = ["evaluate"]

# Of the bootstrap: the same volumes always give the same intervals.
_SEED = 20261121


def evaluate(arguments: argparse.Namespace) -> int:
    """Score each pair; a bad one never stops the others. Returns the exit code."""
    reading = settings_of(Reading, arguments, probability=arguments.sweep)
    scoring = Scoring(arguments.beta, arguments.tolerance_um)
    figure = figure_wish(arguments)
    pairs = _pairs(arguments)
    if classes := classes_to_score(arguments, pairs):
        return score_classes(arguments, pairs, classes, reading)
    outputs = planned_scores(
        arguments.output,
        pairs,
        reading,
        report=arguments.report,
        measures=arguments.measures,
        figure=None if figure is None else figure.name,
    )
    check_outputs([outputs], files_of_pairs(pairs))
    outputs.check_room()
    figures = (
        {}
        if figure is None
        else {pair: replace(figure, name=figure_of(pair, figure.name, len(pairs))) for pair in pairs}
    )
    report = EvaluationReport(len(pairs), reading, scoring) if arguments.report else None
    tables = ScoreTables(outputs, scoring, reading)
    scorer = _Scorer(reading, scoring, outputs, tables, report, arguments.max_ram, arguments.measures, figures)
    code = run_batch(pairs, scorer.score, lambda pair: pair.prediction, debug=arguments.debug)
    if tables.evaluations:
        summaries = summarise([one.scores for one in tables.evaluations], np.random.default_rng(_SEED))
        files = tables.finish(summaries, report)
        tell("\n".join(summary_lines(tables.evaluations, summaries)))
        drawn = [figures[one.pair].name for one in tables.evaluations if figures]
        names = [*(file.name for file in files), *(name for name in drawn if (arguments.output / name).exists())]
        tell(f"wrote {arguments.output}/: {', '.join(names)}")
    return code


def _pairs(arguments: argparse.Namespace) -> list[Pair]:
    """Return what is scored; nothing is where there are scores already, or images without a page to show them."""
    table = arguments.output / "scores.csv"
    if table.exists() and not arguments.force:
        raise FileError(f"'{table}' exists; --force replaces it, -o DIR writes elsewhere")
    check_only(arguments.predictions, "PREDICTION")
    pairs, notes = find_pairs(arguments.predictions, arguments.annotations, probability=arguments.sweep)
    for note in notes:
        tell(f"note: {note}")
    if not arguments.images:
        return pairs
    if not (arguments.report or arguments.figure):
        raise InputError("--image is for --report and --figure: add one, or leave the images out")
    return with_images(pairs, inputs_from(arguments.images, raw=False, flat=True))


@dataclass(frozen=True)
class _Scorer:
    """Scores a pair into the tables, and into the page where one is made."""

    reading: Reading
    scoring: Scoring
    outputs: Outputs
    tables: ScoreTables
    report: EvaluationReport | None
    max_ram: int | None
    measures: bool
    figures: Mapping[Pair, FigureWish]

    def score(self, pair: Pair) -> Outcome:
        """Read, compare, write."""
        with Sources() as sources:
            return self._score(pair, sources)

    def _score(self, pair: Pair, sources: Sources) -> Outcome:
        allowance = ram.Allowance.of(self.max_ram, ram.SCORING)
        try:
            evaluation = self._whole(pair, sources, allowance)
        except ram.MemoryLimitError:
            if not lies_in_stores(pair) or self.measures or self.figures or self.report is not None:
                raise
            evaluation = self._in_slabs(pair, allowance)
        self.tables.add(evaluation)
        return Outcome(pair.prediction, "done", evaluation.scores.headline())

    def _in_slabs(self, pair: Pair, allowance: ram.Allowance) -> Evaluation:
        with pass_bar(1) as bar:
            evaluation = evaluate_in_slabs(pair, self.reading, self.scoring, allowance, tell, bar.tiles)
        tell(f"  note: {LEFT_OUT}")
        return evaluation

    def _whole(self, pair: Pair, sources: Sources, allowance: ram.Allowance) -> Evaluation:
        check_reading(pair, self.reading, sources, allowance)
        masks = read_pair(pair, self.reading, sources)
        tell(f"  {masks.descriptions[0]} against {masks.descriptions[1]}")
        for note in masks.notes:
            tell(f"  note: {note}")
        if masks.spacing_um is None:
            tell("  note: no spacing stated, so nothing in µm; give --spacing")
        wish = self._figure(pair, masks)
        check_scoring(pair, masks, allowance, measures=self.measures, report=self.report is not None)
        evaluation = evaluate_pair(masks, pair, self.scoring)
        if self.measures:
            with self.outputs.staged() as folder:
                for role, mask in (("predicted", masks.predicted), ("annotated", masks.annotated)):
                    write_vessels(folder, f"{pair.name}_{role}", mask, lambda line: tell(f"  WARNING     {line}"))
        if wish is not None:
            with self.outputs.staged() as folder:
                write_paper_figure(folder / wish.name, _scene(masks), wish)
        if self.report is not None:
            self.report.add(masks, evaluation, sources)
        return evaluation

    def _figure(self, pair: Pair, masks: MaskPair) -> FigureWish | None:
        """Return what is to be shown of a pair; of several pairs, one that lacks it is scored and not shown."""
        wish = self.figures.get(pair)
        try:
            if wish is not None:
                wish.check(masks.annotated.shape, f"'{pair.name}'")
        except InputError as error:
            if len(self.figures) == 1:
                raise
            tell(f"  note: no figure: {error}")
            return None
        return wish


def _scene(masks: MaskPair) -> Scene:
    """Return what a figure shows of a pair, on plain grey where there is no image."""
    predicted, annotated = masks.predicted.array, masks.annotated.array
    image = np.broadcast_to(np.uint8(0), annotated.shape) if masks.image is None else masks.image.array
    return Scene(image, predicted, masks.spacing_um, annotated, mask_name="prediction")
