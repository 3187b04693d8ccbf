"""From a volume on disk to the probability that a taught network finds in it, box by box: to the same bit.

A voxel's features know a few voxels around it, so a box with these is all that is looked at. Two things are of the
whole volume: its mean and standard deviation, and what it is evened by, which is averaged along Y and X plane by plane
and along Z column by column, and lies on the disk. Boxes cut Z and Y; rows along X are whole, as the kernels take them.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.ram import MARGIN, PROGRAM, Allowance, size
from micronet.io.zarr_write import boxes_of
from micronet.networks.evening import Evening, sampled_bytes
from micronet.networks.normalize import image_statistics, standardize
from micronet.networks.taught import Taught
from micronet.segment.refine import Change, Iteration, initial_probability
from micronet.segment.shelf import Shelf

__all__ = ["BoxPlan", "plan_boxes", "predict_in_boxes"]

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Size = tuple[int, int, int]

# Columns along Z are gathered as far as that takes this.
_COLUMN_BYTES = 16 << 20
# Bytes of a voxel while it is averaged along Z: as stored, and before and after in double precision.
_AVERAGED = 28
# The same of a plane; and of a box: raw, normalised, evened, its surroundings, and what is found.
_PLANE, _LOOKED = 44, 28
# Numbers of boxes that are tried along an axis.
_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512)


@dataclass(frozen=True)
class BoxPlan:
    """Sides (Z, Y, X) of boxes of what is looked at, and how many voxels around them their features see.

    `rows` are averaged along Z at once. `needed` is how many bytes the process takes at most, `scratch_bytes` what
    intermediate files take on the disk.
    """

    size: Size
    sides: Size
    halo: Size
    rows: int
    needed: int
    scratch_bytes: int

    @property
    def count(self) -> int:
        """Number of boxes."""
        return math.prod(-(-length // side) for length, side in zip(self.size, self.sides, strict=True))

    @property
    def in_memory(self) -> tuple[str, ...]:
        """No array is held in memory."""
        return ()

    @property
    def record(self) -> dict[str, Any]:
        """The same for a record."""
        return {"boxes_zyx": list(self.sides)}

    @property
    def words(self) -> str:
        """The same for a person."""
        return f"{self.count} boxes of {' x '.join(map(str, self.sides))} voxels"

    def window(self, box: Box) -> tuple[Box, tuple[slice, slice]]:
        """Return a box with what lies around it, and which planes and rows of that are the box."""
        seen = [
            slice(max(part.start - around, 0), min(part.stop + around, length))
            for part, around, length in zip(box, self.halo, self.size, strict=True)
        ]
        inner = [slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(box, seen, strict=True)]
        return (seen[0], seen[1], seen[2]), (inner[0], inner[1])


def plan_boxes(
    shape: Size,
    model: Taught,
    spacing_um: tuple[float, float, float],
    *,
    held: int,
    least: int,
    itemsize: int,
    allowance: Allowance,
) -> BoxPlan:
    """Choose the boxes that compute the fewest voxels twice and fit into memory; InputError where none do.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of what is looked at.
    model : Taught
        Of pixel members.
    spacing_um : (z, y, x)
    held, least, itemsize, allowance
        As `micronet.segment.tile_plan.plan_tiles`.
    """
    networks = [member.network for member in model.members]
    reaches = [network.reach(spacing_um) for network in networks]
    halo = (max(z for z, _, _ in reaches), max(y for _, y, _ in reaches), 0)
    threads = torch.get_num_threads() * max(network.work_bytes(spacing_um, shape[2]) for network in networks)
    rows = min(shape[1], max(1, _COLUMN_BYTES // (_AVERAGED * shape[0] * shape[2])))
    evened = {network.around_um for network in networks if network.around_um}
    least = max(least, _PLANE * shape[1] * shape[2])
    if evened:
        least = max(least, sampled_bytes(shape), _AVERAGED * shape[0] * rows * shape[2])
    best: tuple[float, Size, int] | None = None
    smallest = 0
    for counts in itertools.product(_COUNTS, _COUNTS):
        z, y = (max(1, -(-length // count)) for length, count in zip(shape[:2], counts, strict=True))
        window = min(z + 2 * halo[0], shape[0]) * min(y + 2 * halo[1], shape[1]) * shape[2]
        needed = int(PROGRAM + MARGIN * (held + max(least, _LOOKED * window + 8 * z * y * shape[2] + threads)))
        smallest = needed if smallest == 0 else min(smallest, needed)
        cost = window * math.ceil(shape[0] / z) * math.ceil(shape[1] / y)
        if allowance.fits(needed) and (best is None or cost < best[0]):
            best = cost, (z, y, shape[2]), needed
    if best is None:
        raise InputError(
            f"about {size(smallest)} of memory needed even in boxes, {allowance.words}; free memory or allow more "
            f"{setting('max_ram')}"
        )
    scratch = math.prod(shape) * (itemsize + 4 + 4 * len(evened))
    return BoxPlan(shape, best[1], halo, rows, best[2], scratch)


def predict_in_boxes(
    shelf: Shelf,
    model: Taught,
    plan: BoxPlan,
    spacing_um: tuple[float, float, float],
    on_box: Callable[[], None] = lambda: None,
) -> Iteration:
    """Put on the shelf, as ``probability.1``, what `Taught.predict` says of its ``image``; return what the pass did.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X), of which the rows are looked at that `plan` has.
    model : Taught
        Of pixel members.
    plan : BoxPlan
    spacing_um : (z, y, x)
    on_box : callable
        Called after every box, `plan.count` times.

    Raises
    ------
    InputError
        If the image is constant or not finite.
    """
    began, change = time.perf_counter(), Change()
    images = _Images(shelf, plan, spacing_um)
    for member in model.members:
        images.even(member.network.around_um)
    whole, threads = sum(member.weight for member in model.members), torch.get_num_threads()
    shelf.make("probability.1", plan.size, plan.sides)
    for box in boxes_of(plan.size, plan.sides):
        window, within = plan.window(box)
        total = np.zeros([part.stop - part.start for part in box], np.float32)
        for around_um, members in itertools.groupby(model.members, lambda member: member.network.around_um):
            seen = images.seen(window, around_um)
            for member in members:
                found = member.network.look(seen, spacing_um, threads=threads, within=within)[within]
                share = np.float32(member.weight / whole)
                for plane, said in zip(total, found, strict=True):
                    plane += share * said
                del found
            del seen
        shelf["probability.1"][box] = total
        change.add(initial_probability(total, None), total)
        on_box()
    return change.iteration(1, time.perf_counter() - began)


class _Images:
    """Boxes of the image as members see it."""

    def __init__(self, shelf: Shelf, plan: BoxPlan, spacing_um: tuple[float, float, float]) -> None:
        self._shelf, self._plan, self._spacing_um = shelf, plan, spacing_um
        self._mean, self._sd = image_statistics(shelf["image"])
        self._evenings: dict[float, tuple[Evening, str]] = {}

    def seen(self, box: Box, around_um: float) -> Array:
        """Return a box, normalised, and evened where that is asked for."""
        image = standardize(self._shelf["image"][box], self._mean, self._sd)
        if not around_um:
            return image
        evening, around = self._evenings[around_um]
        for plane, smooth in zip(image, self._shelf[around][box], strict=True):
            evening.logarithm(plane, plane)
            plane -= smooth
        return image

    def even(self, around_um: float) -> None:
        """Average the surroundings of every voxel, unless that is done or not asked for."""
        if not around_um or around_um in self._evenings:
            return
        (depth, height, width), rows = self._plan.size, self._plan.rows
        evening = Evening.of(self._planes(), self._plan.size, self._spacing_um, around_um)
        name = f"around.{len(self._evenings)}"
        self._shelf.make(name, self._plan.size, (1, rows, width))
        around = self._shelf[name]
        for z, plane in enumerate(self._planes()):
            around[z : z + 1] = evening.within(evening.logarithm(plane))[None]
        for y in range(0, height if evening.crosses_planes else 0, rows):
            columns = (slice(0, depth), slice(y, min(y + rows, height)), slice(0, width))
            around[columns] = evening.across(around[columns])
        self._evenings[around_um] = evening, name

    def _planes(self) -> Iterator[Array]:
        depth, height, width = self._plan.size
        for z in range(depth):
            yield self.seen((slice(z, z + 1), slice(0, height), slice(0, width)), 0.0)[0]
