"""A range test of the learning rate: steps at rates from small to large, a plot of their losses, a proposal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from micronet.core.names import write_name
from micronet.core.ownership import Outputs
from micronet.report.figure import new_figure, tidy_axes, write_figure
from micronet.training.run_files import Run
from micronet.training.trainer import StepReport, Trainer

__all__ = ["STEPS", "planned_search", "proposed", "smoothed", "try_rates", "write_search"]

#: Steps of a search, and the rates that they run through.
STEPS = 100
_LOWEST, _HIGHEST = 1e-6, 1.0
# Weight of the past in the loss that is looked at, and how much worse than the best it may get.
_PAST, _WORSE = 0.9, 4.0
# By which part it must fall to tell of a rate, below what it is after so many steps at rates that change nothing.
_FALL, _SETTLED = 0.05, 10
_DPI = 110


def try_rates(trainer: Trainer, on_step: Callable[[StepReport], bool]) -> list[tuple[float, float]]:
    """Return rates and losses of a search, in the order of the rates; the trainer is then as it was.

    `on_step` is told of every step, and ends the search by returning False. It ends by itself where the loss is no
    number any more, or its running mean far above its best (Smith 2017, arXiv:1506.01186).
    """
    tried: list[tuple[float, float]] = []

    def goes_on(report: StepReport) -> bool:
        if not math.isfinite(report.loss):
            return False
        tried.append((report.learning_rate, report.loss))
        losses = smoothed([loss for _, loss in tried])
        return on_step(report) and losses[-1] <= _WORSE * abs(min(losses)) + 1e-12

    trainer.rehearse(np.geomspace(_LOWEST, _HIGHEST, STEPS).tolist(), goes_on)
    return tried


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the running mean of losses, in which every step counts 0.9 of the next; without a start from 0.

    >>> [round(loss, 3) for loss in smoothed([1.0, 1.0, 0.0])]
    [1.0, 1.0, 0.631]
    """
    found, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = _PAST * mean + (1 - _PAST) * loss
        found.append(mean / (1 - _PAST**number))
    return found


def proposed(tried: Sequence[tuple[float, float]]) -> float | None:
    """Return a tenth of the rate at which the running mean of the loss is smallest; None where it does not fall.

    >>> proposed([(1e-4, 1.0), (1e-3, 0.9), (1e-2, 0.1), (1e-1, 0.05), (1.0, 3.0)])
    0.01
    """
    losses = smoothed([loss for _, loss in tried])
    if not losses or min(losses) > (1 - _FALL) * losses[min(_SETTLED, len(losses)) - 1]:
        return None
    return tried[int(np.argmin(losses))][0] / 10


def planned_search(run: Run) -> Outputs:
    """Return the plot of a search and its record, which replace those of an earlier search of the same run."""
    stem = f"{run.name}_find_lr"
    return Outputs(run.places.logs, f"{stem}.json", "training", [f"{stem}.png"])


def write_search(outputs: Outputs, tried: Sequence[tuple[float, float]], title: str) -> float | None:
    """Write the plot and the record, as `planned_search`; return what is proposed."""
    proposal = proposed(tried)
    figure = new_figure(7, 4.5, _DPI)
    axes = figure.subplots()
    rates, losses = [rate for rate, _ in tried], [loss for _, loss in tried]
    axes.semilogx(rates, losses, color="0.7", linewidth=0.8, label="loss of each step")
    axes.semilogx(rates, smoothed(losses), color="#0072B2", linewidth=1.8, label="running mean")
    if proposal is not None:
        axes.axvline(proposal, color="#D55E00", linewidth=1.4, label=f"proposed: {proposal:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    tidy_axes(axes)
    figure.suptitle(write_name(title), parse_math=False)
    with outputs.staged() as folder:
        write_figure(folder / outputs.paths[0].name, figure)
    outputs.finish({"run": title, "proposed": proposal, "rates": rates, "losses": losses})
    return proposal
