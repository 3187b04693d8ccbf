"""The steps with which several processes look at a volume on a disk in windows: the bits of one process.

What a window says lies on the disk until boxes of the result are averaged, each of the windows that reach into it, in
their order; so no step waits for the sums of another. With a border nothing is averaged, and a window writes what it
decides. ::

    image -> sums, squares                  of planes, for mean and standard deviation
    image -> look -> windows                or, where one window decides, probability.1
    windows -> blend -> probability.1
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from micronet.core.volume import shared_part
from micronet.networks.normalize import standardize
from micronet.segment.plane_work import PlaneWork, Runner, statistics
from micronet.segment.refine import Change
from micronet.segment.shelf import Shelf
from micronet.segment.tiles import Progress
from micronet.segment.window_plan import WindowsPlan
from micronet.segment.windows import window_weights

__all__ = ["WindowWork", "look_in_windows"]

Array = NDArray[np.float32]


class WindowWork(PlaneWork):
    """What a process needs to do any step.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X).
    plan : WindowsPlan
        Of what is looked at.
    model : torch.nn.Module
        Of one class.
    """

    def __init__(self, shelf: Shelf, plan: WindowsPlan, model: nn.Module) -> None:
        super().__init__(shelf)
        self.plan, self._model = plan, model
        self._cuts = plan.windows.cuts
        self._boxes = plan.boxes if plan.windows.averages else []

    @property
    def windows(self) -> int:
        """Number of windows."""
        return self.plan.windows.count

    @property
    def boxes(self) -> int:
        """Number of boxes that are averaged."""
        return len(self._boxes)

    def make(self) -> None:
        """Make the arrays that are written."""
        windows = self.plan.windows
        self.shelf.make("probability.1", windows.shape, self.plan.sides)
        if windows.averages:
            self.shelf.make("windows", (self.windows, *windows.sides), (1, *windows.sides))

    def look(self, number: int, mean: float, sd: float) -> Change:
        """Look at a window."""
        places = np.unravel_index(number, [len(cuts) for cuts in self._cuts])
        both = [cuts[place] for cuts, place in zip(self._cuts, places, strict=True)]
        seen, box = tuple(part for part, _ in both), tuple(part for _, part in both)
        averages, one = self.plan.windows.averages, slice(number, number + 1)
        if averages and self.shelf.holds("windows", (one,)):
            return Change()
        if not averages and self.shelf.holds("probability.1", box):
            return Change.from_blank(self.shelf["probability.1"][box])
        image = torch.from_numpy(standardize(self.shelf["image"][seen], mean, sd))[None, None]
        first = next(self._model.parameters())
        with torch.inference_mode():
            found = self._model(image.to(first.device, first.dtype)).float()[0, 0].cpu().numpy()
        if averages:
            self.shelf["windows"][one] = found[None]
            return Change()
        inner = tuple(slice(b.start - s.start, b.stop - s.start) for s, b in zip(seen, box, strict=True))
        return self._keep(box, np.ascontiguousarray(found[inner]))

    def blend(self, number: int) -> Change:
        """Average what windows say of a box."""
        box, weights = self._boxes[number], window_weights(self.plan.windows)
        shape = [part.stop - part.start for part in box]
        total, whole = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        alongs = [_reaching(cuts, part) for cuts, part in zip(self._cuts, box, strict=True)]
        for found in itertools.product(*alongs):
            place = int(np.ravel_multi_index([at for at, _, _ in found], [len(cuts) for cuts in self._cuts]))
            here, there = tuple(part for _, part, _ in found), tuple(part for _, _, part in found)
            total[there] += self.shelf["windows"][(slice(place, place + 1), *here)][0] * weights[here]
            whole[there] += weights[here]
        total /= whole
        return self._keep(box, total)

    def _keep(self, box: tuple[slice, ...], found: Array) -> Change:
        self.shelf["probability.1"][box] = found
        return Change.from_blank(found)


def _reaching(cuts: Sequence[tuple[slice, slice]], box: slice) -> list[tuple[int, slice, slice]]:
    """Return, along an axis, which windows reach into a box, and what of them lies where in it."""
    found = []
    for place, (seen, _) in enumerate(cuts):
        if (shared := shared_part([seen], [box])) is not None:
            (here,), (there,) = shared
            found.append((place, here, there))
    return found


def look_in_windows(work: WindowWork, run: Runner, progress: Progress) -> int:
    """Do what is left to do until there is a probability; as `micronet.segment.boxes.look_in_boxes`."""
    began = time.perf_counter()
    if progress.iterations:
        return 1
    if progress.statistics is None:
        progress.statistics = statistics(work, run)
        progress.note()
    progress.once("look.made", work.make)
    changes: list[Any] = []
    if "look" not in progress.stages:
        changes = run("look", work.windows, *progress.statistics, ticks=True)
    if work.boxes:
        progress.once("look", lambda: True)
        changes = run("blend", work.boxes, ticks=True)
    progress.iterations.append(Change.joined(changes).iteration(1, time.perf_counter() - began))
    progress.note()
    work.shelf.drop("windows")
    return 1
