"""From a volume on a disk to the probability that a taught network finds in it: to the bit what it finds in memory."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from micronet.networks.evening import Evening
from micronet.networks.normalize import statistics_of
from micronet.networks.taught import Taught
from micronet.segment.box_plan import BoxPlan
from micronet.segment.box_work import BoxWork
from micronet.segment.light_work import Light, LightWork
from micronet.segment.plane_work import Runner, statistics
from micronet.segment.refine import Change, Iteration, Refinement
from micronet.segment.shelf import Shelf
from micronet.segment.tiles import Progress, refine_in_tiles, run_here

__all__ = ["light_of", "look_in_boxes", "predict_in_boxes"]


def predict_in_boxes(
    shelf: Shelf,
    model: Taught,
    plan: BoxPlan,
    spacing_um: Sequence[float],
    on_box: Callable[[], None] = lambda: None,
) -> Iteration:
    """Put on the shelf, as ``probability.1``, what `Taught.predict` says of its ``image``; return what the pass did.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X), of which the rows are looked at that `plan` has.
    model : Taught
    plan : BoxPlan
    spacing_um : (z, y, x)
    on_box : callable
        Called after every box and tile, `plan.count` times.

    Raises
    ------
    InputError
        If the image is constant or not finite.
    """
    work, progress = BoxWork(shelf, plan, model, spacing_um, alone=True), Progress()
    look_in_boxes(work, run_here(work, on_box), progress)
    return progress.iterations[0]


def look_in_boxes(work: BoxWork, run: Runner, progress: Progress) -> int:
    """Do what is left to do until there is a probability; return the number of the pass that it is after, 1.

    Parameters
    ----------
    work : BoxWork
        Makes the arrays; its steps are done by `run`, in this process or others.
    run : Runner
    progress : Progress
        What is done is noted in it.
    """
    began, plan = time.perf_counter(), work.plan
    if progress.iterations:
        return 1
    light = light_of(work, run, progress, {work.grid_member(g).around_um for g in range(len(plan.grids))})
    change = Change()
    if plan.pixels:
        progress.once("look.made", work.make_looked)
        if "look" not in progress.stages:
            change = Change.joined(run("look", work.boxes, light, ticks=True))
            progress.once("look", lambda: True)
    if plan.grids:
        lasts = [_in_tiles(work, run, progress, light, g) for g in range(len(plan.grids))]
        work.make_mixed()
        change = Change.joined(run("mix", work.boxes, lasts, ticks=True))
    progress.iterations.append(change.iteration(1, time.perf_counter() - began))
    progress.note()
    return 1


def light_of(work: LightWork, run: Runner, progress: Progress, normalized: Collection[float]) -> Light:
    """Return what is known of the image; what it is evened by is on the shelf then.

    Evened over the surroundings `normalized`, in µm, it is normalised again.
    """
    if progress.statistics is None:
        progress.statistics = statistics(work, run)
        progress.note()
    light = Light(*progress.statistics)
    for k, around_um in enumerate(work.around_um):
        light = _evened(work, run, progress, light, k)
        if around_um in normalized:
            light = replace(light, evened=(*light.evened[:k], _normalized(work, run, progress, light, k)))
    return light


def _evened(work: LightWork, run: Runner, progress: Progress, light: Light, k: int) -> Light:
    """Return what is known of the image with the `k`-th of its surroundings, which is on the shelf then."""

    def sampled() -> dict[str, Any]:
        seen = np.concatenate(run("sample", work.planes, light))
        return asdict(Evening.of_samples(seen, work.spacing_um, work.around_um[k]))

    told = progress.once(f"evening.{k}", sampled)
    evening = Evening(told["dark"], told["floor"], tuple(told["widths"]))
    light = replace(light, evenings=(*light.evenings, evening), evened=(*light.evened, None))

    def averaged() -> None:
        work.make_surroundings(k, light)
        run("within", work.planes, light, k)
        if evening.crosses_planes:
            run("across", work.columns, light, k)
            work.shelf.drop(f"within.{k}")

    progress.once(f"around.{k}", averaged)
    return light


def _normalized(work: LightWork, run: Runner, progress: Progress, light: Light, k: int) -> tuple[float, float]:
    """Return mean and standard deviation of the image evened over the `k`-th of its surroundings."""

    def told() -> tuple[float, float]:
        sums = [plane for several in run("sums_evened", work.planes, light, k) for plane in several]

        def squares(mean: float) -> list[tuple[float, int]]:
            return [plane for several in run("squares_evened", work.planes, mean, light, k) for plane in several]

        return statistics_of(math.prod(work.size), sums, squares, lambda: "as bright as what lies around it")

    mean, sd = progress.once(f"evened.{k}", told)
    return mean, sd


def _in_tiles(work: BoxWork, run: Runner, progress: Progress, light: Light, g: int) -> int:
    """Have the member of a grid look at it; return the number of the pass that its probability is after."""
    name, grid = f"grid.{g}", work.plan.grids[g]

    def regridded() -> None:
        work.make_grid(g)
        run("regrid", work.regrids(g), g, light)

    progress.once(f"{name}.image", regridded)
    told = progress.stages.get(name, {"encoded": False, "iterations": []})
    within = Progress(
        statistics=(0.0, 1.0), encoded=told["encoded"], iterations=[Iteration(**one) for one in told["iterations"]]
    )

    def note() -> None:
        done = [asdict(one) for one in within.iterations]
        progress.stages[name] = {"encoded": within.encoded, "iterations": done}
        progress.note()

    within.note = note
    tiles = functools.partial(_tile, run, g)
    last = refine_in_tiles(work.tiles_of(g), tiles, grid.passes, Refinement(grid.passes), within)
    work.forget_grid(g, last)
    return last


def _tile(run: Runner, g: int, step: str, count: int, *arguments: Any, ticks: bool = False) -> list[Any]:
    return run("tile", count, g, step, *arguments, ticks=ticks)
