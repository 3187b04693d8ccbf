"""The plot of a training: how the scores and the loss went."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from micronet.core.files import atomic_path
from micronet.core.names import shortened, write_name

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
    figure = Figure(figsize=(10, 7), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes: tuple[Axes, Axes] = figure.subplots(2, 1, sharex=True)
    colours = matplotlib.colormaps["viridis"]
    names = list(training)
    for number, name in enumerate(names):
        # The lightest part of the map is left out: it does not show on white.
        colour = colours(0.9 * number / max(1, len(names) - 1))
        _draw(
            axes,
            training[name],
            color=colour,
            linewidth=0.9,
            alpha=0.85,
            label=f" {shortened(write_name(name), _LONGEST_NAME)}",
        )
    _draw(axes, validation, color=_VALIDATION_COLOUR, linewidth=1.8, marker="o", markersize=3, label=" validation")

    score, loss = axes
    shown = [f for curve in (*training.values(), validation) for f in curve.f if math.isfinite(f)]
    top = max((_error_digits(f) for f in shown), default=1.0)
    height = max(0.5, 1.08 * top)
    score.set_ylim(0, height)
    score.set_ylabel("$-\\log_{10}(1 - F)$")
    right = score.secondary_yaxis("right")
    right.set_ylabel("F")
    right.yaxis.set_major_locator(FixedLocator(_apart([_error_digits(f) for f in _SCORES_TICKED], height / 20)))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(FuncFormatter(lambda digits, _: f"{1 - 10**-digits:.3g}"))
    loss.set_ylabel("loss")
    loss.set_xlabel("step")
    loss.set_ylim(bottom=0)
    for one in axes:
        one.grid(color="0.9")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    figure.suptitle(shortened(write_name(title), 2 * _LONGEST_NAME), parse_math=False)
    handles, labels = score.get_legend_handles_labels()
    if handles:
        legend = figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a volume's name may hold any character
        figure.savefig(temporary)


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
