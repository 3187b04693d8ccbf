"""The plot of a time-lapse: lumen volume, overlap and drift over time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from micronet.core.names import shortened, write_name
from micronet.report.figure import new_figure, tidy_axes, write_figure

__all__ = ["write_time_plot"]

_DPI = 160
_LONGEST_TITLE = 80
# Okabe & Ito 2008: people with any colour vision tell them apart; markers differ as well.
_BLACK, _BLUE, _ORANGE, _GREEN = "#000000", "#0072B2", "#E69F00", "#009E73"
_UNITS = ((1e9, "µL"), (1e6, "nL"), (1e3, "pL"), (1.0, "µm³"))


def write_time_plot(
    path: str | os.PathLike[str],
    times: Sequence[float],
    volumes: Sequence[float],
    overlaps: Sequence[float],
    drifts: Sequence[tuple[float, float, float]],
    *,
    in_um: bool,
    in_seconds: bool,
    title: str = "",
) -> None:
    """Write a PNG with three curves over time; NaN where a time point has no value.

    Parameters
    ----------
    path : path
        It appears whole or not at all, and replaces an older one.
    times : sequence of float
        Seconds or numbers of the time points.
    volumes : sequence of float
        Lumen volume in µm³, or in voxels.
    overlaps : sequence of float
        Dice with the mask of the time point before, 0 to 1.
    drifts : sequence of (Z, Y, X)
        How far the picture has moved since the time point before, in µm or voxels.
    in_um, in_seconds : bool
        Which of the units they are.
    title : str
        The name of the recording.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    figure = new_figure(7.5, 6.5, _DPI)
    panels: tuple[Axes, Axes, Axes] = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    volume, overlap, drift = panels
    _draw_volumes(volume, times, volumes, in_um)
    _draw(overlap, times, overlaps, _BLACK, "o")
    overlap.set_ylabel("overlap with the\nmask before (Dice)")
    overlap.set_ylim(0, 1.02)
    _draw_drifts(drift, times, drifts, in_um)
    drift.set_xlabel("time (s)" if in_seconds else "time point")
    if not in_seconds:
        drift.xaxis.set_major_locator(MaxNLocator(integer=True))
    for one in panels:
        tidy_axes(one)
    figure.align_ylabels()
    figure.suptitle(shortened(write_name(title), _LONGEST_TITLE), parse_math=False, fontsize=11, weight="bold")
    write_figure(path, figure, format="png")


def _draw_volumes(axes: Axes, times: Sequence[float], volumes: Sequence[float], in_um: bool) -> None:
    largest = max((volume for volume in volumes if math.isfinite(volume)), default=0.0)
    per_unit, unit = next(((size, name) for size, name in _UNITS if largest >= size), _UNITS[-1])
    if not in_um:
        per_unit, unit = 1.0, "voxels"
    _draw(axes, times, [value / per_unit for value in volumes], _BLACK, "o")
    axes.set_ylabel(f"lumen volume ({unit})")
    axes.set_ylim(bottom=0)


def _draw_drifts(axes: Axes, times: Sequence[float], drifts: Sequence[tuple[float, float, float]], in_um: bool) -> None:
    for axis, (name, colour, marker) in enumerate((("z", _BLUE, "s"), ("y", _ORANGE, "^"), ("x", _GREEN, "D"))):
        _draw(axes, times, [step[axis] for step in drifts], colour, marker, name)
    axes.set_ylabel(f"drift since the\none before ({'µm' if in_um else 'voxels'})")
    low, high = axes.get_ylim()
    least = 1.0 if in_um else 0.25  # noise of a still volume does not fill the panel
    axes.set_ylim(min(low, -least), max(high, least))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="along")


def _draw(
    axes: Axes, times: Sequence[float], values: Sequence[float], colour: str, marker: str, name: str | None = None
) -> None:
    axes.plot(times, values, color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=name)
