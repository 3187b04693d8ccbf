"""Plots for a page: pictures of lines and histograms as data URIs, legible on their own."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from micronet.core.planes import Planes
from micronet.report.figure import figure_bytes, new_figure, tidy_axes
from micronet.report.page.grid import slabs

__all__ = ["Line", "bins", "data_uri", "histogram", "plot"]

# Okabe & Ito (2008), and a dash of its own for each: told apart in any colour vision, and in grey.
_STYLES: tuple[tuple[str, Any], ...] = (
    ("#000000", "-"),
    ("#D55E00", (0, (6, 2))),
    ("#0072B2", (0, (2, 1.5))),
    ("#009E73", (0, (6, 2, 1, 2))),
)
_MARK_COLOUR = "0.35"


@dataclass(frozen=True)
class Line:
    """One line of a plot; `kind` ``"steps"`` takes one edge more than values."""

    name: str
    x: ArrayLike
    y: ArrayLike
    kind: Literal["line", "points", "steps"] = "line"


def plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    mark: tuple[float, str] | None = None,
    y_log: bool = False,
    whole_x: bool = False,
    whole_y: bool = False,
) -> str:
    """Return a plot as a data URI (SVG).

    Parameters
    ----------
    lines : sequence of Line
        At most four; named in a legend where there are several.
    x_label, y_label : str
    mark : (x, name), optional
        A vertical line.
    y_log : bool
        Logarithmic; else the y axis begins at 0.
    whole_x, whole_y : bool
        Label whole numbers only.
    """
    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    for line, (colour, dash) in zip(lines, _STYLES, strict=False):
        style = {"color": colour, "linestyle": dash, "linewidth": 1.6, "label": f" {line.name}"}
        if line.kind == "steps":
            axes.stairs(np.asarray(line.y), np.asarray(line.x), **style)
        else:
            axes.plot(line.x, line.y, marker="o" if line.kind == "points" else None, markersize=4, **style)
    if mark is not None:
        place, name = mark
        axes.axvline(place, color=_MARK_COLOUR, linestyle=":", linewidth=1.4, label=f" {name}")
    axes.set_xlabel(x_label, parse_math=False)
    axes.set_ylabel(y_label, parse_math=False)
    if y_log:
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if whole_y:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy_axes(axes)
    if len(lines) + (mark is not None) > 1:
        legend = figure.legend(loc="outside upper left", fontsize=9, frameon=False, ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return data_uri(figure)


def data_uri(figure: Figure) -> str:
    """Return a figure as a data URI (SVG); letters are outlines, so that it looks the same everywhere."""
    picture = figure_bytes(figure, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(picture).decode("ascii")


def bins(values: NDArray[Any], most: int = 100) -> NDArray[np.float64]:
    """Return edges of equal bins from the 0.1th to the 99.9th percentile of some values.

    Whole numbers get bins that hold equally many of them.
    """
    low, high = (float(value) for value in np.nanpercentile(values.astype(np.float64), (0.1, 99.9)))
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = 0.0, 1.0
    if values.dtype.kind in "bui":
        width = max(1, int(np.ceil((high - low + 1) / most)))
        count = int((high - low) // width) + 1
        return np.asarray(np.floor(low) - 0.5 + width * np.arange(count + 1))
    return np.linspace(low, high if high > low else low + 1, most + 1)


def histogram(
    array: Planes,
    edges: NDArray[np.float64],
    inside: Planes | None = None,
    threshold: float = 0.5,
) -> NDArray[np.int64]:
    """Count the voxels of a volume in each bin, only where `inside` is above the threshold; read in slabs along Z.

    What lies beyond the edges is counted in the first and the last bin.
    """
    counts = np.zeros(len(edges) - 1, np.int64)
    for slab in slabs(array.shape):
        values = np.asarray(array[slab])
        values = values.ravel() if inside is None else values[np.asarray(inside[slab]) > threshold]
        counts += np.histogram(np.clip(values.astype(np.float32), edges[0], edges[-1]), edges)[0]
    return counts
