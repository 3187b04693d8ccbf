"""The page of several segments: all of them on the slices, each with its passes and scores, histograms, the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import colour
from micronet.core.names import write_name
from micronet.core.planes import Planes
from micronet.core.volume import Volume
from micronet.report.page.grid import VOXELS, Grid
from micronet.report.page.html import Markup, Section, figure, table, write_page
from micronet.report.page.plots import Line, histogram, plot
from micronet.report.page.scroller import Movie, Outlined, Shown
from micronet.segment.refine import Iteration
from micronet.segment.report import PROBABILITY_BINS, origin_table, refinement_parts, scores_parts
from micronet.segment.results import Measured

__all__ = ["SegmentsPage"]

# A plot tells four lines apart.
_LINES = 4

Mask = NDArray[np.bool_]


class SegmentsPage:
    """Collects what a page shows while segments are found, and writes it.

    Parameters
    ----------
    names : sequence of str
        Of the segments, in the order of their numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._movies: dict[str, Movie] = {}
        self._sure: dict[str, NDArray[np.int64]] = {}

    def listener(self, name: str, volume: Volume, threshold: float) -> Callable[[Planes, Iteration], None]:
        """Return what receives the probability of a segment after each pass; small copies are kept."""
        movie = self._movies[name] = Movie(self._grid(volume), colour(self._names.index(name) + 1))

        def note(probability: Planes, iteration: Iteration) -> None:
            label = f"after iteration {iteration.number}: {iteration.flipped:,} voxels crossed 0.5"
            movie.add(probability, label, threshold)

        return note

    def kept(self, name: str, volume: Volume, levels: NDArray[np.uint8], mask: Mask) -> None:
        """Note a segment that was found before: its probability (0 to 255), and its mask, as only the last is kept."""
        counts = np.bincount(levels.ravel(), minlength=256)
        self._sure[name] = np.histogram(np.arange(256) / 255, PROBABILITY_BINS, weights=counts)[0].astype(np.int64)
        self._movies[name] = Movie(self._grid(volume), colour(self._names.index(name) + 1))
        self._movies[name].add(mask, "the segmentation")

    def found(self, name: str, probability: Planes, measured: Measured) -> None:
        """Note what a segment is in the end."""
        self._sure[name] = histogram(probability, PROBABILITY_BINS)
        if measured.cleaned is not None:
            self._movies[name].add(measured.mask, "after cleaning")

    def _grid(self, volume: Volume) -> Grid:
        """Return the grid of each volume shown: all segments together, and each by itself."""
        return Grid(volume.shape, volume.spacing_um, VOXELS // (len(self._names) + 1))

    def write(
        self, path: Path, volume: Volume, masks: Sequence[tuple[Mask, Mask | None]], record: Mapping[str, Any]
    ) -> None:
        """Write the page.

        Parameters
        ----------
        path : Path
            The HTML file.
        volume : Volume
        masks : sequence of (ndarray, ndarray or None), bool, of the volume's shape
            Of each segment its mask and its annotation.
        record : mapping
            What ``<stem>.json`` holds.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        name, crop, segments = write_name(path.stem.removesuffix("_report")), record["parameters"]["y_crop"], []
        shown = [self._together(name, volume, [mask for mask, _ in masks], crop)]
        for one, (_, annotation) in zip(record["segments"], masks, strict=True):
            segments.append(_facts_of(one))
            movie = self._movies[one["name"]]
            if len(movie) > 1 or annotation is not None:
                title = f"{name}: {write_name(one['name'])}"
                shown.append(Shown(title, movie, volume.array, annotation, mask_name=one["name"], y_crop=crop))
        sections = [Section("Segments", [_table(record["segments"])])]
        for one in record["segments"]:
            if one["scores"] is not None:
                sections.append(Section(f"Scores of {one['name']}", scores_parts(one["scores"])))
            if len(one["iterations"]) > 1:
                sections.append(Section(f"Refinement of {one['name']}", refinement_parts(one["iterations"])))
        sections.append(Section("Histograms", self._histograms()))
        weights = {f"weights of {one['name']}": one["weights"] for one in record["segments"]}
        files = {"volume": record["input"], **weights, **record["masks"]}
        sections.append(Section("How it was made", [origin_table(record, files)]))
        warnings = [f"{one['name']}: {words}" for one in record["segments"] for words in one["result"]["warnings"]]
        write_page(path, name, [*_facts(volume, record), *segments], shown, sections, record, warnings=warnings)

    def _together(self, name: str, volume: Volume, masks: Sequence[Mask], y_crop: int | None) -> Shown:
        """Return the volume with the contours of all segments."""
        movie = Movie(self._grid(volume), colour(1))
        movie.add(masks[0], "")
        further = [
            Outlined(other, colour(number), mask)
            for number, (other, mask) in enumerate(zip(self._names[1:], masks[1:], strict=True), 2)
        ]
        first = self._names[0]
        return Shown(name, movie, volume.array, mask_name=first, y_crop=y_crop, further=further)

    def _histograms(self) -> list[Markup]:
        parts = []
        for first in range(0, len(self._names), _LINES):
            some = self._names[first : first + _LINES]
            lines = [Line(name, PROBABILITY_BINS, self._sure[name], "steps") for name in some]
            caption = "How sure the networks are: few voxels between the ends mean a clear decision."
            parts.append(figure(plot(lines, "probability", "voxels", y_log=True), caption))
        return parts


def _facts(volume: Volume, record: Mapping[str, Any]) -> list[str]:
    shape, spacing = " × ".join(str(n) for n in volume.shape), volume.spacing_um
    size = "voxel size not known" if spacing is None else " × ".join(f"{step:.4g}" for step in spacing) + " µm"
    made = record["created"][:16].replace("T", " ")
    return [f"{shape} voxels (z × y × x), {size}", f"micronet {record['versions']['micronet']}, {made} UTC"]


def _facts_of(one: Mapping[str, Any]) -> str:
    result = one["result"]
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    return f"{one['name']} {result['voxels']:,} voxels ({100 * result['fraction']:.2f} %){um3}"


def _table(segments: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        (
            one["name"],
            str(one["number"]),
            f"{one['result']['voxels']:,}",
            "–" if one["result"]["um3"] is None else f"{one['result']['um3']:,.0f}",
            "–" if one["scores"] is None else f"{one['scores']['f1']:.4f}",
            f"{one['weights']['network']}, {Path(one['weights']['path']).name}",
        )
        for one in segments
    ]
    return table(("segment", "number", "voxels", "µm³", "Dice", "network"), rows)
