"""The report of a segmentation: slices to scroll through, the mask after each iteration, scores, histograms, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.names import write_name
from micronet.core.planes import Planes
from micronet.core.volume import Volume
from micronet.core.words import counted
from micronet.measure.scores import DEFINITIONS, WORDS
from micronet.report.annotated import drawn_only_in
from micronet.report.page.grid import Grid
from micronet.report.page.html import Markup, Section, figure, note, table, write_page
from micronet.report.page.plots import Line, bins, histogram, plot
from micronet.report.page.scroller import Movie, Shown
from micronet.report.panels import sampled
from micronet.segment.refine import Iteration

__all__ = ["PROBABILITY_BINS", "SegmentReport", "origin_table", "refinement_parts", "scores_parts"]

# By name: where the record has it, and what it is.
_DEFINITIONS = {
    WORDS["dice"]: ("f1", DEFINITIONS["dice"]),
    "precision": ("precision", DEFINITIONS["precision"]),
    "recall": ("recall", DEFINITIONS["recall"]),
    "true positives, TP": ("true_positives", "voxels found and annotated"),
    "false positives, FP": ("false_positives", "voxels found and not annotated"),
    "false negatives, FN": ("false_negatives", "voxels annotated and not found"),
}
_ALONE = "This page was made later: above is the last mask, those of the iterations before are not kept."
#: Of a histogram of probabilities.
PROBABILITY_BINS = np.linspace(0, 1, 52)


class SegmentReport:
    """Collects what a report shows while a volume is segmented, and writes it.

    Parameters
    ----------
    volume : Volume
        What the network looks at.
    threshold : float
        Lumen is above it.
    y_crop : int, optional
        How deep (Y) the network looks.
    """

    def __init__(self, volume: Volume, threshold: float, y_crop: int | None = None) -> None:
        self._volume, self._threshold, self._y_crop = volume, threshold, y_crop
        self._movie = Movie(Grid(volume.shape, volume.spacing_um))
        self._cleaned: NDArray[np.bool_] | None = None
        self._alone = False

    def start(self, mask: NDArray[Any]) -> None:
        """Note the mask that refinement starts from, bool or a probability of the volume's shape."""
        self._movie.add(mask, "the mask it started from")

    def add(self, probability: Planes, iteration: Iteration) -> None:
        """Note the probability after a pass; a small copy is kept."""
        label = f"after iteration {iteration.number}: {iteration.flipped:,} voxels crossed 0.5"
        self._movie.add(probability, label, self._threshold)

    def found(self, mask: NDArray[np.bool_]) -> None:
        """Note the mask of a result of which nothing else is kept."""
        self._movie.add(mask, "as it was found")
        self._cleaned, self._alone = mask, True

    def cleaned(self, mask: NDArray[np.bool_]) -> None:
        """Note the mask after cleaning."""
        self._movie.add(mask, "after cleaning")
        self._cleaned = mask

    def write(
        self,
        path: Path,
        probability: Planes,
        record: Mapping[str, Any],
        *,
        annotation: NDArray[np.bool_] | None = None,
    ) -> None:
        """Write the page.

        Parameters
        ----------
        path : Path
            The HTML file.
        probability : ndarray of the volume's shape, float32
            The result, in memory or in a scratch file.
        record : mapping
            What ``<stem>.json`` holds.
        annotation : ndarray of the volume's shape, bool, optional

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        sections = []
        if record["scores"] is not None:
            drawn = "" if annotation is None else drawn_only_in(annotation[:, : self._y_crop])
            sections.append(Section("Scores", [*scores_parts(record["scores"]), *([note(drawn)] if drawn else [])]))
        if len(record["iterations"]) > 1:
            alone = [note(_ALONE)] if self._alone else []
            sections.append(Section("Refinement", [*alone, *refinement_parts(record["iterations"])]))
        sections.append(Section("Histograms", self._histograms(probability, annotation)))
        files = {"volume": record["input"], "weights": record["weights"], **record["masks"]}
        sections.append(Section("How it was made", [origin_table(record, files)]))
        name = write_name(path.stem.removesuffix("_report"))
        shown = Shown(name, self._movie, self._volume.array, annotation, y_crop=self._y_crop)
        write_page(
            path,
            name,
            self._facts(record),
            [shown],
            sections,
            record,
            warnings=record["result"]["warnings"],
        )

    def _facts(self, record: Mapping[str, Any]) -> list[str]:
        result, weights = record["result"], record["weights"]
        shape = " × ".join(str(n) for n in self._volume.shape)
        spacing = self._volume.spacing_um
        size = "voxel size not known" if spacing is None else " × ".join(f"{step:.4g}" for step in spacing) + " µm"
        lumen = f"lumen {result['voxels']:,} voxels ({100 * result['fraction']:.2f} %)"
        if result["um3"] is not None:
            lumen += f", {result['um3']:,.0f} µm³"
        return [
            f"{shape} voxels (z × y × x), {size}",
            lumen,
            f"{weights['network']}, weights {Path(weights['path']).name}",
            f"micronet {record['versions']['micronet']}, {record['created'][:16].replace('T', ' ')} UTC",
        ]

    def _histograms(self, probability: Planes, annotation: NDArray[np.bool_] | None) -> list[Markup]:
        image = self._volume.array
        edges = bins(image[sampled(image.shape, 128)])
        found = probability if self._cleaned is None else self._cleaned
        masks: dict[str, Planes | None] = {"all voxels": None, "segmentation": found}
        if annotation is not None:
            masks["annotation"] = annotation
        lines = []
        for name, mask in masks.items():
            counts = histogram(image, edges, mask, self._threshold if name == "segmentation" else 0.5)
            if counts.sum():
                lines.append(Line(name, edges, 100 * counts / counts.sum(), "steps"))
        sure = histogram(probability, PROBABILITY_BINS)
        return [
            figure(
                plot(lines, "intensity", "share of the voxels (%)"),
                "Intensities of all voxels and of those inside; the first and the last bin also hold what lies beyond.",
            ),
            figure(
                plot(
                    [Line("voxels", PROBABILITY_BINS, sure, "steps")],
                    "probability of lumen",
                    "voxels",
                    mark=(self._threshold, f"threshold {self._threshold:g}"),
                    y_log=True,
                ),
                "How sure the network is: few voxels between the ends mean a clear decision.",
            ),
        ]


def scores_parts(scores: Mapping[str, Any]) -> list[Markup]:
    """Return what a page says of the scores of a record."""
    rows = []
    for name, (key, definition) in _DEFINITIONS.items():
        value = scores[key]
        rows.append((name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}", definition))
    parts = [table(("score", "value", "definition"), rows)]
    outside = scores["annotated_outside_y_crop"]
    if outside:
        parts.append(note(f"{outside:,} annotated voxels lie deeper than what was looked at and are not counted."))
    return parts


def refinement_parts(iterations: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Return what a page says of the passes of a record."""
    numbers = [iteration["number"] for iteration in iterations]
    lines = [
        Line("voxels above 0.5", numbers, [iteration["foreground"] for iteration in iterations], "points"),
        Line("voxels that crossed 0.5", numbers, [iteration["flipped"] for iteration in iterations], "points"),
    ]
    rows = [
        (
            str(iteration["number"]),
            f"{iteration['foreground']:,}",
            f"{iteration['flipped']:,}",
            f"{iteration['largest_change']:.4f}",
            f"{iteration['mean_change']:.2e}",
        )
        for iteration in iterations
    ]
    return [
        figure(
            plot(lines, "iteration", "voxels", whole_x=True, whole_y=True),
            "The network sees its own mask again in each iteration; the second line tells when it has settled.",
        ),
        table(("iteration", "above 0.5", "crossed 0.5", "largest change of p", "mean change of p"), rows),
    ]


def origin_table(record: Mapping[str, Any], files: Mapping[str, Any]) -> Markup:
    """Return the table of files (by role, as a record has them), settings and versions."""
    rows = [(role.replace("_", " "), f"{file['path']}\nSHA-256 {file['sha256']}") for role, file in files.items()]
    chosen = {
        key.replace("_", " "): value
        for key, value in record["parameters"].items()
        if key not in files and value is not None and value is not False
    }
    rows.append(("settings", ", ".join(f"{name} {value}" for name, value in chosen.items())))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
    seconds = ", ".join(f"{step} {value:.1f} s" for step, value in record["seconds"].items())
    rows.append(("time", f"{seconds}; {record['device']}, {counted(record['threads'], 'thread')}"))
    return table(("", ""), rows)
