"""Tables of scores: CSV with the definitions and versions in its header."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Protocol

from micronet.core.names import write_name
from micronet.core.ownership import Outputs
from micronet.core.provenance import versions
from micronet.core.table import number_cell, write_table
from micronet.measure.lumen_files import vessel_paths
from micronet.measure.pairs import Evaluation, Pair, Reading
from micronet.measure.scores import RESAMPLES, WORDS, Scores, Scoring, Summary, interval_name, score_text
from micronet.measure.thresholds import Sweep
from micronet.measure.thresholds_plot import write_sweep_plot

__all__ = [
    "CONFUSION",
    "MADE_BY",
    "PAGE",
    "SCORES",
    "SUMMARY",
    "ScoreTables",
    "figure_of",
    "planned_scores",
    "settings_of",
    "summary_lines",
    "write_scores",
    "write_summary",
    "write_sweep",
]

#: What the record of scores says that made them.
MADE_BY = "evaluate.py"
#: Files of an evaluation; one of them is of several classes only.
SCORES, SUMMARY, PAGE, CONFUSION = "scores.csv", "summary.csv", "scores_report.html", "confusion.csv"
_SCORE_NAMES = [field.name for field in fields(Scores)]


def planned_scores(
    folder: Path,
    pairs: Sequence[Pair],
    reading: Reading,
    *,
    report: bool = False,
    measures: bool = False,
    figure: str | None = None,
) -> Outputs:
    """Return the files that the scores of some pairs consist of; the record is ``scores.json``.

    `figure` is the name of what shows a pair, as `figure_of` has it.
    """
    names = [SCORES]
    for pair in pairs:
        if figure is not None:
            names.append(figure_of(pair, figure, len(pairs)))
        if reading.probability:
            names += [f"{pair.name}_sweep.{kind}" for kind in ("csv", "png")]
        if measures:
            roles = (vessel_paths(folder, f"{pair.name}_{role}") for role in ("predicted", "annotated"))
            names += [path.name for paths in roles for path in paths.values()]
    whole = {SUMMARY: len(pairs) > 1, PAGE: report, CONFUSION: False}
    names += [name for name, wanted in whole.items() if wanted]
    return Outputs(folder, "scores.json", MADE_BY, names, outdated=[name for name in whole if name not in names])


def figure_of(pair: Pair, name: str, pairs: int) -> str:
    """Return the file that shows a pair: the name that a person gave it, of several pairs behind the volume's."""
    return name if pairs == 1 else f"{pair.name}_{name}"


class Page(Protocol):
    """A page about the pairs."""

    def write(self, path: Path, summaries: Sequence[Summary]) -> None:
        """Write it."""


class ScoreTables:
    """The tables of an evaluation, each row on disk as soon as it is made.

    ``scores.csv`` with a row for each pair, ``<volume>_sweep.csv`` and ``.png`` of each probability, and in the end
    ``summary.csv`` where there are several pairs.

    Parameters
    ----------
    outputs : Outputs
        As `planned_scores` gives them.
    scoring : Scoring
    reading : Reading
    """

    def __init__(self, outputs: Outputs, scoring: Scoring, reading: Reading) -> None:
        self.evaluations: list[Evaluation] = []
        self._outputs, self._scoring, self._reading = outputs, scoring, reading
        self._settings = settings_of(reading)
        self._sweeps: list[str] = []

    def add(self, evaluation: Evaluation) -> None:
        """Write the sweep of a pair, and ``scores.csv`` with its row; FileError if that cannot be done.

        With the first row whatever of ours tells of earlier scores is removed.
        """
        if not self.evaluations:
            self._outputs.remove((PAGE, SUMMARY))
        rows = [(_told(one), one.scores) for one in (*self.evaluations, evaluation)]
        with self._outputs.staged() as folder:
            if evaluation.sweep is not None:
                table, plot = (f"{evaluation.pair.name}_sweep.{kind}" for kind in ("csv", "png"))
                write_sweep(folder / table, evaluation.sweep, self._settings)
                write_sweep_plot(folder / plot, evaluation.sweep, self._reading.threshold, title=evaluation.pair.name)
                self._sweeps += [table, plot]
            write_scores(folder / SCORES, rows, self._scoring, self._settings)
        self.evaluations.append(evaluation)

    def finish(self, summaries: Sequence[Summary], page: Page | None = None) -> list[Path]:
        """Write the medians where there are several pairs, the page, and the record; return the paths of all files."""
        files = [SCORES, *self._sweeps]
        with self._outputs.staged() as folder:
            if len(self.evaluations) > 1:
                files.insert(1, SUMMARY)
                write_summary(folder / SUMMARY, summaries, self._scoring, self._settings)
            if page is not None:
                files.append(PAGE)
                page.write(folder / PAGE, summaries)
        self._outputs.finish({"pairs": [one.pair.name for one in self.evaluations], "versions": versions()})
        return [self._outputs.folder / name for name in files]


def settings_of(reading: Reading) -> dict[str, object]:
    """Return what was chosen about the reading, by the names in `Reading`."""
    settings: dict[str, object] = {name: value for name, value in asdict(reading).items() if name != "probability"}
    if not reading.probability:
        del settings["threshold"]
    if not reading.level:
        del settings["level"]
    return settings


def _told(evaluation: Evaluation) -> dict[str, str]:
    spacing = evaluation.spacing_um
    return {
        "volume": evaluation.pair.name,
        "prediction": str(evaluation.pair.prediction),
        "annotation": str(evaluation.pair.annotation),
        "spacing_um_zyx": "" if spacing is None else " ".join(f"{step:.6g}" for step in spacing),
    }


def summary_lines(evaluations: Sequence[Evaluation], summaries: Sequence[Summary]) -> list[str]:
    """Return the scores for a person: those of one pair, or the medians over several with their intervals."""
    if len(evaluations) == 1:
        return [f"{WORDS[name]:<24}{score_text(value)}" for name, value in evaluations[0].scores.values().items()]
    count = len(evaluations)
    told = "their range: of so few, the bootstrap interval is no narrower"
    lines = [f"median of {count} volumes [{told if interval_name(count) == 'range' else '95 % bootstrap interval'}]"]
    for one in summaries:
        interval = f"  [{score_text(one.low)}, {score_text(one.high)}]" if one.count > 1 else ""
        lines.append(f"{WORDS[one.name]:<24}{score_text(one.median)}{interval}")
    return lines


def write_scores(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[Mapping[str, str], Scores]],
    scoring: Scoring,
    settings: Mapping[str, object],
) -> None:
    """Write the scores of each pair, a row each.

    Parameters
    ----------
    path : path
        It appears whole or not at all, and replaces an older one.
    rows : sequence of (mapping, Scores)
        What tells the pair (the same keys in each row: name, files, spacing), and its scores.
    scoring : Scoring
        What was chosen about the scores.
    settings : mapping
        What else was chosen, for the header.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    told = list(rows[0][0]) if rows else ["volume"]
    body = [[*(about[key] for key in told), *map(number_cell, scores.values().values())] for about, scores in rows]
    comments = [*_settings(settings), *(f"{name}: {text}" for name, text in scoring.definitions().items())]
    write_table(path, "scores of predicted masks against annotations", comments, [*told, *_SCORE_NAMES], body)


def write_summary(
    path: str | os.PathLike[str], summaries: Sequence[Summary], scoring: Scoring, settings: Mapping[str, object]
) -> None:
    """Write the median and interval of each score over volumes, a row each; as `write_scores`."""
    definitions = scoring.definitions()
    body = [
        [
            one.name,
            one.count,
            number_cell(one.median),
            number_cell(one.low),
            number_cell(one.high),
            definitions[one.name],
        ]
        for one in summaries
    ]
    comments = [
        *_settings(settings),
        "median: over volumes that have a value, which `volumes` counts",
        f"low, high: 95 % percentile bootstrap interval of the median ({RESAMPLES:,} resamples of volumes, which are "
        "taken as independent: two time points of one embryo are not)",
    ]
    columns = ["score", "volumes", "median", "low", "high", "definition"]
    write_table(path, "medians of scores over volumes", comments, columns, body)


def write_sweep(path: str | os.PathLike[str], sweep: Sweep, settings: Mapping[str, object]) -> None:
    """Write precision, recall and Dice at each threshold, a row each; as `write_scores`."""
    comments = [
        *_settings(settings),
        "threshold: lumen is where the probability is above it",
        "precision, recall, dice, iou: in voxels, as in scores.csv",
        f"average precision {sweep.average_precision:.6g}: sum over thresholds, from the highest down, of precision "
        "times gain in recall",
        f"highest Dice {sweep.counts[sweep.best].f_score():.6g} above {sweep.thresholds[sweep.best]:.6g}; a threshold "
        "chosen on the volumes that it is scored on is optimistic",
    ]
    body = [
        [
            f"{threshold:.6f}",
            *map(number_cell, (counts.precision, counts.recall, counts.f_score(), counts.iou, *astuple(counts))),
        ]
        for threshold, counts in zip(sweep.thresholds, sweep.counts, strict=True)
    ]
    columns = [
        "threshold",
        "precision",
        "recall",
        "dice",
        "iou",
        "true_positives",
        "false_positives",
        "false_negatives",
    ]
    write_table(path, "threshold sweep of a probability against an annotation", comments, columns, body)


def _settings(settings: Mapping[str, object]) -> list[str]:
    return [
        f"setting {name}: {write_name(value) if isinstance(value, str) else value}"
        for name, value in settings.items()
        if value is not None
    ]
