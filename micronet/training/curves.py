"""The plot of a training: how the scores and the loss went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from micronet.core.classes import colour
from micronet.core.names import shortened, write_name
from micronet.report.figure import new_figure, tidy_axes, write_figure

__all__ = ["Curve", "write_curves"]

# People with any colour vision tell them apart (Okabe & Ito 2008; Tol), and on white they are dark enough; a dash for
# each round through them.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA3377")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))
_VALIDATION_COLOUR, _MARK_COLOUR = "#000000", "0.35"
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
    path: str | os.PathLike[str],
    training: Mapping[str, Curve],
    validation: Curve,
    *,
    changes: Sequence[tuple[int, str]] = (),
    title: str = "",
    classes: Mapping[str, Curve] | None = None,
) -> None:
    """Write a PNG with the Dice above and the loss below, per training volume and for the validation.

    Of several classes the Dice is their mean, and that of each at validation is drawn beside it.

    Parameters
    ----------
    path : path
        It appears whole or not at all, and replaces an older one.
    training : mapping of str to Curve
        By name of the volume. May be empty.
    validation : Curve
        May be empty.
    changes : sequence of (int, str)
        From which step on something else was set, and what: marked by a line.
    title : str
    classes : mapping of str to Curve, optional
        Of the validation, by class.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    figure = new_figure(10, 7, _DPI)
    axes: tuple[Axes, Axes] = figure.subplots(2, 1, sharex=True)
    for number, (name, curve) in enumerate(training.items()):
        rounds, place = divmod(number, len(_COLOURS))
        style = {"color": _COLOURS[place], "linestyle": _DASHES[rounds % len(_DASHES)]}
        _draw(axes, curve, linewidth=1.1, label=f" {shortened(write_name(name), _LONGEST_NAME)}", **style)
    _draw(axes, validation, color=_VALIDATION_COLOUR, linewidth=2.0, marker="o", markersize=3.5, label=" validation")
    score, loss = axes
    for number, (name, curve) in enumerate((classes or {}).items(), 1):
        label = f" validation, {shortened(write_name(name), _LONGEST_NAME)}"
        score.plot(curve.steps, curve.f, color=colour(number), linewidth=1.6, marker="s", markersize=3, label=label)
    score.set_ylabel("mean Dice of the classes" if classes else "Dice (F)")
    score.set_ylim(0, 1.02)
    loss.set_ylabel("loss")
    loss.set_xlabel("step")
    loss.margins(y=0.08)
    loss.set_ylim(bottom=0)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True))  # there are no half steps
    for one in axes:
        tidy_axes(one)
    _mark(axes, changes)
    figure.suptitle(shortened(write_name(title), 2 * _LONGEST_NAME), parse_math=False)
    _add_legend(figure, score)
    write_figure(path, figure)


def _mark(axes: Sequence[Axes], changes: Sequence[tuple[int, str]]) -> None:
    """Draw a line through both plots where something was changed, and say above them what; nothing lies on a name."""
    places: dict[int, list[str]] = {}
    for step, what in changes:
        places.setdefault(step, []).append(what)
    for number, (step, several) in enumerate(sorted(places.items())):
        for one in axes:
            one.axvline(step, color=_MARK_COLOUR, linestyle=":", linewidth=1.2, zorder=1)
        height = 1.01 + 0.055 * (number % 3)  # neighbours stand at different heights
        axes[0].annotate(
            ", ".join(several),
            (step, height),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=_MARK_COLOUR,
            ha="left",
            va="bottom",
            parse_math=False,
        )


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
    score.plot(curve.steps, curve.f, **style)  # type: ignore[arg-type]
    loss.plot(curve.steps, curve.loss, **style)  # type: ignore[arg-type]
