"""The plot of a training: how the scores and the loss went."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from micronet.core.names import shortened, write_name
from micronet.report.figure import new_figure, tidy_axes, write_figure

__all__ = ["Curve", "write_curves"]

# 1 - F is shown no smaller than this: F 1 would lie at infinity.
_SMALLEST_ERROR = 1e-4
_SCORES_TICKED = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
_VALIDATION_COLOUR = "#D55E00"
_DPI = 130
_LONGEST_NAME = 40


@dataclass
class Curve:
    """Points of one volume, or of the validation: step, F in [0, 1] and loss."""

    steps: list[int] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def add(self, step: int, f: float, loss: float) -> None:
        """Append one point."""
        self.steps.append(step)
        self.f.append(f)
        self.loss.append(loss)


def write_curves(
    path: str | os.PathLike[str], training: Mapping[str, Curve], validation: Curve, *, title: str = ""
) -> None:
    """Write a PNG with -log10(1 - F) above and the loss below, per training volume and for the validation.

    Parameters
    ----------
    path : path
        It appears whole or not at all, and replaces an older one.
    training : mapping of str to Curve
        By name of the volume. May be empty.
    validation : Curve
        May be empty.
    title : str

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    figure = new_figure(10, 7, _DPI)
    axes: tuple[Axes, Axes] = figure.subplots(2, 1, sharex=True)
    colours = matplotlib.colormaps["viridis"]
    for number, (name, curve) in enumerate(training.items()):
        # The lightest part of the map is left out: it does not show on white.
        colour = colours(0.9 * number / max(1, len(training) - 1))
        label = f" {shortened(write_name(name), _LONGEST_NAME)}"
        _draw(axes, curve, color=colour, linewidth=0.9, alpha=0.85, label=label)
    _draw(axes, validation, color=_VALIDATION_COLOUR, linewidth=1.8, marker="o", markersize=3, label=" validation")
    score, loss = axes
    _scale_scores(score, [f for curve in (*training.values(), validation) for f in curve.f if math.isfinite(f)])
    loss.set_ylabel("loss")
    loss.set_xlabel("step")
    loss.set_ylim(bottom=0)
    for one in axes:
        tidy_axes(one)
    figure.suptitle(shortened(write_name(title), 2 * _LONGEST_NAME), parse_math=False)
    _add_legend(figure, score)
    write_figure(path, figure)


def _scale_scores(axes: Axes, shown: Sequence[float]) -> None:
    """Let -log10(1 - F) reach as high as what is shown; F itself stands on the right."""
    height = max(0.5, 1.08 * max(map(_error_digits, shown), default=1.0))
    axes.set_ylim(0, height)
    axes.set_ylabel("$-\\log_{10}(1 - F)$")
    right = axes.secondary_yaxis("right")
    right.set_ylabel("F")
    right.yaxis.set_major_locator(FixedLocator(_apart([_error_digits(f) for f in _SCORES_TICKED], height / 20)))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(FuncFormatter(lambda digits, _: f"{1 - 10**-digits:.3g}"))


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a volume's name may hold any character


def _draw(axes: Sequence[Axes], curve: Curve, **style: object) -> None:
    if not curve.steps:
        return
    if len(curve.steps) == 1:
        style.setdefault("marker", ".")
    score, loss = axes
    score.plot(curve.steps, [_error_digits(f) for f in curve.f], **style)  # type: ignore[arg-type]
    loss.plot(curve.steps, curve.loss, **style)  # type: ignore[arg-type]


def _error_digits(f: float) -> float:
    """Return -log10(1 - F): 1 is F 0.9, 2 is F 0.99.

    >>> [round(_error_digits(f), 3) for f in (0.0, 0.9, 0.99, 1.0)]
    [0.0, 1.0, 2.0, 4.0]
    """
    return -math.log10(max(1 - f, _SMALLEST_ERROR)) + 0.0


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """Leave out places that are nearer than a distance to the last one that stays.

    >>> _apart([0.0, 0.1, 0.4, 0.5], 0.3)
    [0.0, 0.4]
    """
    kept: list[float] = []
    for place in places:
        if not kept or place - kept[-1] >= distance:
            kept.append(place)
    return kept
