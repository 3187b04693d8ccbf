"""The plot of a threshold sweep: precision against recall."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from micronet.core.names import shortened, write_name
from micronet.measure.thresholds import Sweep
from micronet.report.figure import new_figure, write_figure
from micronet.report.panels import ANNOTATION_COLOUR, MASK_COLOUR

__all__ = ["sweep_figure", "write_sweep_plot"]

_DPI = 160
_DICES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
_CURVE_COLOUR = "#0072B2"
# Thresholds named along the curve, those before first where two would touch.
_NAMED = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8, 0.05, 0.95, 0.02, 0.98)
_LONGEST_TITLE = 60
# Of the axes: how far apart names are, and how much room is around the curve.
_APART, _AROUND = 0.075, 0.12
_NARROWEST = 0.02  # of either axis: noise of a perfect curve does not fill it


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
    axes.set_xlim(_around(recall))
    axes.set_ylim(_around(precision))
    _draw_dice_lines(axes)
    axes.plot(recall, precision, color=_CURVE_COLOUR, linewidth=2.0, solid_joinstyle="round")
    in_use = int(np.argmin(np.abs(np.array(sweep.thresholds) - threshold)))
    for index, colour, marker, size, name in (
        (sweep.best, ANNOTATION_COLOUR, "D", 9, f"best Dice: above {sweep.thresholds[sweep.best]:.3f}"),
        (in_use, MASK_COLOUR, "o", 7, f"in use: above {threshold:g}"),
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
                label=f"{name}, Dice {counts.f_score():.3f}",
                zorder=3,
            )
    _name_thresholds(axes, sweep, shown)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", frameon=False, fontsize=8.5)
    average = f"average precision {sweep.average_precision:.3f}"
    title = shortened(write_name(title), _LONGEST_TITLE)
    axes.set_title(f"{title}\n{average}" if title else average, fontsize=10, parse_math=False)
    axes.locator_params(nbins=5)
    return figure


def _around(shares: NDArray[np.float64]) -> tuple[float, float]:
    """Return where an axis begins and ends: around all shares, and not far below 0 or above 1.

    >>> _around(np.array([0.5, 0.75]))
    (0.47, 0.78)
    >>> _around(np.array([]))
    (-0.02, 1.02)
    """
    if not len(shares):
        return -_NARROWEST, 1 + _NARROWEST
    low, high = float(shares.min()), float(shares.max())
    room = _AROUND * max(high - low, _NARROWEST)
    short = max(0.0, _NARROWEST - (high - low)) / 2
    beyond = room / 3
    return max(low - room - short, -beyond), min(high + room + short, 1 + beyond)


def _draw_dice_lines(axes: Axes) -> None:
    """Draw lines of equal Dice, named where they leave the axes on the right or below."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    last: tuple[float, float] | None = None
    for dice in _DICES:
        recall = np.linspace(max(left, dice / 2 + 1e-6), min(right, 1), 400)
        precision = dice * recall / (2 * recall - dice)
        inside = (precision >= bottom) & (precision <= min(top, 1)) & (recall <= 1)
        if not inside.any():
            continue
        recall, precision = recall[inside], precision[inside]
        x, y = float(recall[-1]), float(precision[-1])
        here = (x - left) / (right - left), (y - bottom) / (top - bottom)
        if last is not None and max(abs(a - b) for a, b in zip(here, last, strict=True)) < _APART:
            continue
        axes.plot(recall, precision, color="0.82", linewidth=0.9, zorder=0)
        below = here[1] < 0.02  # it leaves the axes below
        axes.annotate(
            f"Dice {dice:g}",
            (x, y),
            (0, 3) if below else (6, 0),
            textcoords="offset points",
            color="0.4",
            fontsize=7.5,
            ha="right" if below else "left",
            va="bottom" if below else "center",
        )
        last = here


def _name_thresholds(axes: Axes, sweep: Sweep, shown: list[int]) -> None:
    """Put thresholds beside the curve, on its inner side, leaving out those that would touch one that is there."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    size = np.array([right - left, top - bottom])
    taken: list[NDArray[np.float64]] = []
    for wanted in _NAMED:
        index = int(np.argmin(np.abs(np.array(sweep.thresholds) - wanted)))
        if index not in shown:
            continue
        counts = sweep.counts[index]
        here = np.array([counts.recall, counts.precision])
        place = (here - [left, bottom]) / size
        if any(np.hypot(*(place - other)) < _APART for other in taken):
            continue
        axes.plot(*here, marker=".", color=_CURVE_COLOUR, markersize=6)
        inward = place[0] < 0.1  # where the curve begins there is no room on its left
        text = axes.annotate(
            f"{wanted:g}",
            (float(here[0]), float(here[1])),
            (9 if inward else -9, -4),
            textcoords="offset points",
            fontsize=8,
            ha="left" if inward else "right",
            va="top",
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        taken.append(place)
