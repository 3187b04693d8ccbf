"""The plot of a threshold sweep: precision against recall."""

from __future__ import annotations

import math
import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from micronet.core.names import shortened, write_name
from micronet.measure.thresholds import Sweep
from micronet.report.figure import new_figure, write_figure
from micronet.report.panels import ANNOTATION_COLOUR, MASK_COLOUR

__all__ = ["sweep_figure", "write_sweep_plot"]

_DPI = 160
_DICES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
_CURVE_COLOUR = "#0072B2"
# Thresholds named on the curve, where they stand apart.
_NAMED = (0.1, 0.25, 0.5, 0.75, 0.9)
_LONGEST_TITLE = 60
_APART = 0.06  # of the axis


def write_sweep_plot(path: str | os.PathLike[str], sweep: Sweep, threshold: float, *, title: str = "") -> None:
    """Write `sweep_figure` as a PNG, which appears whole or not at all; FileError if it cannot be written."""
    figure = sweep_figure(sweep, threshold, title=title)
    write_figure(path, figure, format="png")


def sweep_figure(sweep: Sweep, threshold: float, *, title: str = "") -> Figure:
    """Draw the precision-recall curve, lines of equal Dice, the threshold in use and the best one.

    Parameters
    ----------
    sweep : Sweep
    threshold : float
        The one in use; the nearest of the sweep is marked.
    title : str
        The name of what was scored.
    """
    figure = new_figure(5.6, 5.4, _DPI)
    axes = figure.subplots()
    shown = [k for k, counts in enumerate(sweep.counts) if counts.true_positives + counts.false_positives]
    recall = np.array([sweep.counts[k].recall for k in shown])
    precision = np.array([sweep.counts[k].precision for k in shown])
    low = _lowest([*recall, *precision])
    _draw_dice_lines(axes, low)
    axes.plot(recall, precision, color=_CURVE_COLOUR, linewidth=2.0, solid_joinstyle="round")
    _name_thresholds(axes, sweep, shown, low)
    in_use = int(np.argmin(np.abs(np.array(sweep.thresholds) - threshold)))
    for index, colour, marker, size, name in (
        (sweep.best, ANNOTATION_COLOUR, "D", 9, "best Dice"),
        (in_use, MASK_COLOUR, "o", 7, "in use"),
    ):
        if index in shown:
            counts = sweep.counts[index]
            axes.plot(
                counts.recall,
                counts.precision,
                marker=marker,
                markersize=size,
                color=colour,
                markeredgecolor="black",
                markeredgewidth=0.8,
                linestyle="none",
                label=f"{name}: above {sweep.thresholds[index]:.2f}, Dice {counts.f_score():.3f}",
                zorder=3,
            )
    margin = 0.01 * (1 - low)
    axes.set_xlim(low - margin, 1 + margin)
    axes.set_ylim(low - margin, 1 + margin)
    axes.set_aspect("equal")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=True, edgecolor="none", framealpha=0.9, fontsize=8.5)
    average = f"average precision {sweep.average_precision:.3f}"
    title = shortened(write_name(title), _LONGEST_TITLE)
    axes.set_title(f"{title}\n{average}" if title else average, fontsize=10, parse_math=False)
    axes.locator_params(nbins=5)
    return figure


def _lowest(shares: list[float]) -> float:
    """Return where the axes begin: a tenth below all shares.

    >>> _lowest([0.93, 0.78]), _lowest([0.01, 0.9]), _lowest([])
    (0.7, 0.0, 0.0)
    """
    return max(0.0, math.floor(10 * min(shares, default=0.0) - 0.2) / 10)


def _draw_dice_lines(axes: Axes, low: float) -> None:
    last = low
    for dice in _DICES:
        end = dice / (2 - dice)  # precision at recall 1
        if end - last < _APART * (1 - low):
            continue
        recall = np.linspace(end, 1, 200)
        axes.plot(recall, dice * recall / (2 * recall - dice), color="0.82", linewidth=0.9, zorder=0)
        axes.annotate(
            f"Dice {dice:g}", (1, end), (8, 0), textcoords="offset points", color="0.4", fontsize=7.5, va="center"
        )
        last = end


def _name_thresholds(axes: Axes, sweep: Sweep, shown: list[int], low: float) -> None:
    """Put thresholds beside the curve, leaving out those that would touch the one before."""
    last = (math.inf, math.inf)
    for wanted in _NAMED:
        index = int(np.argmin(np.abs(np.array(sweep.thresholds) - wanted)))
        here = (sweep.counts[index].recall, sweep.counts[index].precision)
        if index not in shown or max(abs(a - b) for a, b in zip(here, last, strict=True)) < _APART * (1 - low):
            continue
        axes.plot(*here, marker=".", color=_CURVE_COLOUR, markersize=6)
        inward = here[0] < low + 0.1 * (1 - low)  # where the curve begins there is no room on its left
        text = axes.annotate(
            f"{wanted:g}",
            here,
            (6 if inward else -6, -6),
            textcoords="offset points",
            fontsize=8,
            ha="left" if inward else "right",
            va="top",
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        last = here
