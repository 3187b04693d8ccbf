"""The report of an evaluation: both contours on every slice, scores with their definitions, curves, histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from micronet.core.names import write_name
from micronet.core.provenance import versions
from micronet.io import Sources, files_of
from micronet.measure.pairs import Evaluation, MaskPair, Pair, Reading
from micronet.measure.scores import RESAMPLES, WORDS, Scoring, Summary, interval_name, score_text
from micronet.measure.tables import settings_of
from micronet.measure.thresholds_plot import sweep_figure
from micronet.report.page.grid import VOXELS, Grid
from micronet.report.page.html import Markup, Section, figure, note, table, write_page
from micronet.report.page.plots import Line, bins, data_uri, histogram, plot
from micronet.report.page.scroller import Movie, Shown
from micronet.report.panels import sampled

__all__ = ["EvaluationReport"]

#: Most volumes whose slices a page holds; with more each would be too coarse to be of use.
_MOST_SHOWN = 12
#: Most rows of the table of volumes.
_MOST_ROWS = 200
#: What the table of volumes shows: all scores would not fit a screen.
_MAIN_SCORES = ("dice", "precision", "recall", "cl_dice", "nsd", "hd95_um", "volume_ratio")
_DICE_BINS = np.linspace(0, 1, 21)
_PROBABILITY_BINS = np.linspace(0, 1, 52)


@dataclass(frozen=True)
class _Entry:
    """What is kept of a pair: small, whatever its volume is."""

    evaluation: Evaluation
    shown: Shown
    files: Mapping[str, Any]
    histograms: Sequence[Markup]


class EvaluationReport:
    """Collects what a report shows while pairs are scored, and writes it.

    Parameters
    ----------
    pairs : int
        How many there will be, at most; the more, the coarser each is shown.
    reading : Reading
        How the files were read.
    scoring : Scoring
        What was chosen about the scores.
    """

    def __init__(self, pairs: int, reading: Reading, scoring: Scoring) -> None:
        self._pairs, self._reading, self._scoring = pairs, reading, scoring
        self._entries: list[_Entry] = []
        self._notes: list[str] = []

    def add(self, masks: MaskPair, evaluation: Evaluation, sources: Sources) -> None:
        """Note a pair, whose files are open; FileError when one cannot be read."""
        voxels = VOXELS // min(self._pairs, _MOST_SHOWN)
        movie = Movie(Grid(masks.annotated.shape, masks.spacing_um, voxels))
        movie.add(masks.predicted.array, "prediction")
        name = write_name(masks.name)
        name = name if self._pairs == 1 else f"{name}: Dice {score_text(evaluation.scores.dice)}"
        shown = Shown(
            name,
            movie,
            None if masks.image is None else masks.image.array,
            masks.annotated.array,
            mask_name="prediction",
        )
        self._notes += [f"{masks.name}: {masks.drawn}"] if masks.drawn else []
        histograms = _histograms(masks) if self._pairs == 1 else []
        self._entries.append(_Entry(evaluation, shown, _files(evaluation.pair, sources), histograms))

    def write(self, path: Path, summaries: Sequence[Summary]) -> None:
        """Write the page of all pairs noted, of which there is at least one; FileError if that cannot be done."""
        evaluations = [entry.evaluation for entry in self._entries]
        definitions = self._scoring.definitions()
        entries = self._chosen()
        sections = [Section("Scores", _scores(evaluations, summaries, definitions))]
        if len(evaluations) > 1:
            sections.append(Section("Each volume", _each_volume(evaluations)))
        curves = [
            figure(
                data_uri(sweep_figure(sweep, self._reading.threshold, title=entry.evaluation.pair.name)),
                f"Precision and recall of {write_name(entry.evaluation.pair.name)} over all thresholds.",
            )
            for entry in entries
            if (sweep := entry.evaluation.sweep) is not None
        ]
        if curves:
            sections.append(Section("Precision and recall", curves))
        histograms = [part for entry in self._entries for part in entry.histograms]
        if len(evaluations) > 1:
            counts = np.histogram([one.scores.dice for one in evaluations], _DICE_BINS)[0]
            source = plot([Line("volumes", _DICE_BINS, counts, "steps")], "Dice", "volumes", whole_y=True)
            histograms.append(figure(source, "How many volumes have which Dice."))
        if histograms:
            sections.append(Section("Histograms", histograms))
        record = self._record(summaries)
        sections.append(Section("How it was made", [self._origin(record)]))
        one = len(evaluations) == 1
        write_page(
            path,
            write_name(evaluations[0].pair.name) if one else f"Scores of {len(evaluations)} volumes",
            self._facts(entries, record),
            [entry.shown for entry in entries],
            sections,
            record,
            warnings=self._notes,
        )

    def _chosen(self) -> list[_Entry]:
        """Return the pairs to show slices of: all, or of many some that are evenly spread over the ranks of Dice."""
        count = len(self._entries)
        if count <= _MOST_SHOWN:
            return self._entries
        ranked = sorted(range(count), key=lambda number: self._entries[number].evaluation.scores.dice)
        picked = {ranked[round(number * (count - 1) / (_MOST_SHOWN - 1))] for number in range(_MOST_SHOWN)}
        return [self._entries[number] for number in sorted(picked)]

    def _facts(self, entries: Sequence[_Entry], record: Mapping[str, Any]) -> list[str]:
        facts = [f"micronet {record['versions']['micronet']}, {record['created'][:16].replace('T', ' ')} UTC"]
        if len(self._entries) == 1:
            evaluation = entries[0].evaluation
            pair = evaluation.pair
            facts.insert(0, f"{write_name(pair.prediction.name)} against {write_name(pair.annotation.name)}")
            facts.insert(1, f"Dice {score_text(evaluation.scores.dice)}")
            if evaluation.spacing_um is None:
                facts.insert(2, "voxel size not known, so nothing in µm")
        elif len(entries) < len(self._entries):
            facts.append(f"slices of {len(entries)} volumes, from the lowest to the highest Dice")
        return facts

    def _record(self, summaries: Sequence[Summary]) -> dict[str, Any]:
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": {key: value for key, value in settings_of(self._reading).items() if value is not None},
            "scoring": asdict(self._scoring),
            "pairs": [
                {
                    "volume": write_name(entry.evaluation.pair.name),
                    **entry.files,
                    "spacing_um_zyx": entry.evaluation.spacing_um,
                    "scores": {name: _plain(value) for name, value in entry.evaluation.scores.values().items()},
                }
                for entry in self._entries
            ],
            "summary": [
                {key: _plain(value) for key, value in asdict(summary).items()}
                for summary in (summaries if len(self._entries) > 1 else ())
            ],
            "definitions": self._scoring.definitions(),
            "versions": versions(),
        }

    def _origin(self, record: Mapping[str, Any]) -> Markup:
        rows = []
        if len(self._entries) == 1:
            files = self._entries[0].files.items()
            rows += [(role, f"{file['path']}\nSHA-256 {file['sha256']}") for role, file in files]
        settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
        rows.append(("settings", settings or "all as by default"))
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
        return table(("", ""), rows)


def _files(pair: Pair, sources: Sources) -> dict[str, Any]:
    roles = {"prediction": pair.prediction, "annotation": pair.annotation, "image": pair.image}
    read = {role: sources.of(path) for role, path in roles.items() if path is not None}
    return {role: {"path": write_name(one.path), "sha256": one.sha256(files_of(one))} for role, one in read.items()}


def _scores(
    evaluations: Sequence[Evaluation], summaries: Sequence[Summary], definitions: Mapping[str, str]
) -> list[Markup]:
    if len(evaluations) == 1:
        values = evaluations[0].scores.values()
        rows = [(WORDS[name], score_text(value)) for name, value in values.items()]
        return [table(("score", "value"), rows, [definitions[name] for name in values])]
    body = [
        (
            WORDS[one.name],
            score_text(one.median),
            f"{score_text(one.low)} to {score_text(one.high)}" if one.count > 1 else "–",
            str(one.count),
        )
        for one in summaries
    ]
    named = interval_name(len(evaluations))
    intervals = (
        f"the range: of {len(evaluations)} volumes, a 95 % interval is no narrower"
        if named == "range"
        else f"their 95 % percentile bootstrap intervals ({RESAMPLES:,} resamples of volumes)"
    )
    return [
        table(("score", "median", named, "volumes"), body, [definitions[one.name] for one in summaries]),
        note(
            f"Medians over the volumes that have a value, with {intervals}. Volumes are taken as independent: two time "
            "points of one embryo are not."
        ),
    ]


def _each_volume(evaluations: Sequence[Evaluation]) -> list[Markup]:
    rows = [
        (write_name(one.pair.name), *(score_text(one.scores.values()[name]) for name in _MAIN_SCORES))
        for one in evaluations[:_MOST_ROWS]
    ]
    which = f"The first {_MOST_ROWS} of {len(evaluations)} volumes" if len(evaluations) > _MOST_ROWS else "Main scores"
    return [
        table(("volume", *(WORDS[name] for name in _MAIN_SCORES)), rows),
        note(f"{which}; all scores of all volumes are in scores.csv."),
    ]


def _histograms(masks: MaskPair) -> list[Markup]:
    predicted, annotated = masks.predicted.array, masks.annotated.array
    parts = []
    if masks.image is not None:
        image = masks.image.array
        edges = bins(image[sampled(image.shape, 128)])
        kinds = {
            "all voxels": None,
            "found and annotated": predicted & annotated,
            "found only": predicted & ~annotated,
            "annotated only: missed": annotated & ~predicted,
        }
        lines = []
        for name, inside in kinds.items():
            counts = histogram(image, edges, inside)
            if counts.sum():
                lines.append(Line(name, edges, 100 * counts / counts.sum(), "steps"))
        caption = "Intensities, each kind of voxel for itself; the first and the last bin also hold what lies beyond."
        parts.append(figure(plot(lines, "intensity", "share of the voxels (%)"), caption))
    if masks.probability is not None:
        probability = masks.probability.array
        edges = _PROBABILITY_BINS * (255 if probability.dtype == np.uint8 else 1)
        lines = [
            Line(name, _PROBABILITY_BINS, histogram(probability, edges, inside), "steps")
            for name, inside in (("annotated", annotated), ("not annotated", ~annotated))
        ]
        caption = "Probabilities of the voxels that are annotated, and of those that are not."
        parts.append(figure(plot(lines, "probability", "voxels", y_log=True), caption))
    return parts


def _plain(value: Any) -> Any:
    """Return a number as JSON can hold it: nothing for NaN, a word for infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
