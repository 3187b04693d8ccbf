"""The steps with which a taught network looks at a volume on a disk, as one process or many do them: to the same bit.

A voxel's features know a few voxels around it, so a box with these is all that is looked at. Boxes cut Z and Y; rows
along X are whole, as the kernels take them. Each step writes whole pieces, and may be done twice. ::

    (the steps of light_work)
    image, around.k -> look -> pixels, start            boxes: the members that look at voxels
    image, around.k, start -> regrid -> gridG-image, gridG-start    boxes of the grid of a µ-Net or µr-Net
    (tile: the steps of tile_work on that grid)
    pixels, gridG-probability.n -> mix -> probability.1

Without grids `look` writes ``probability.1``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from micronet.core.regrid import resampled_box
from micronet.io.zarr_write import boxes_of
from micronet.networks import engine
from micronet.networks.normalize import standardize
from micronet.networks.registry import engine_parameters
from micronet.networks.taught import Member, Taught
from micronet.segment.box_plan import BoxPlan, GridPlan
from micronet.segment.light_work import Light, LightWork
from micronet.segment.refine import Change
from micronet.segment.shelf import Shelf
from micronet.segment.tile_work import TileWork

__all__ = ["BoxWork"]

Array = NDArray[np.float32]
Box = tuple[slice, ...]


class BoxWork(LightWork):
    """What a process needs to do any step.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X), of which the rows are looked at that the plan has.
    plan : BoxPlan
    model : Taught
    spacing_um : (z, y, x)
    alone : bool
        As of `TileWork`.
    """

    def __init__(
        self, shelf: Shelf, plan: BoxPlan, model: Taught, spacing_um: Sequence[float], *, alone: bool = False
    ) -> None:
        super().__init__(shelf, plan.size, spacing_um, plan.around_um, plan.rows)
        self.plan, self._alone = plan, alone
        self.pixels = [member for member in model.members if member.by_voxel]
        self._whole = sum(member.weight for member in model.members)
        self._members = model.members
        self._starts = any(member.kind == "urnet" for member in model.members)
        self._boxes = list(boxes_of(plan.size, plan.sides))
        self._grid_boxes = [list(boxes_of(grid.shape, grid.sides)) for grid in plan.grids]
        self.tiles_of = functools.cache(self._tiles_of)

    def grid_member(self, g: int) -> Member:
        """Return the member that looks at a grid."""
        return self._members[self.plan.grids[g].member]

    def regrids(self, g: int) -> int:
        """Return the number of steps that bring the image to a grid."""
        return len(self._grid_boxes[g])

    @property
    def boxes(self) -> int:
        """Number of boxes."""
        return len(self._boxes)

    def make_looked(self) -> None:
        """Make the arrays that `look` writes."""
        grids = bool(self.plan.grids)
        self.shelf.make("pixels" if grids else "probability.1", self.plan.size, self.plan.sides)
        if self._starts:
            self.shelf.make("start", self.plan.size, self.plan.sides)

    def make_mixed(self) -> None:
        """Make the array that `mix` writes."""
        self.shelf.make("probability.1", self.plan.size, self.plan.sides)

    def make_grid(self, g: int) -> None:
        """Make the arrays that `regrid` writes."""
        grid = self.plan.grids[g]
        for name in ("image", "start") if self.grid_member(g).kind == "urnet" else ("image",):
            _Section(self.shelf, g).make(name, grid.shape, grid.sides)

    def look(self, number: int, light: Light) -> Change:
        """Add up what the members say that look at voxels, in a box; what a µr-Net starts from is their mean."""
        box, name = self._boxes[number], "pixels" if self.plan.grids else "probability.1"
        if self.shelf.holds(name, box):  # it is the last that is written
            return Change.from_blank(self.shelf[name][box])
        window, within = self.plan.window((box[0], box[1], box[2]))
        shape = [part.stop - part.start for part in box]
        total, start = np.zeros(shape, np.float32), np.zeros(shape if self._starts else (0, 0, 0), np.float32)
        threads = torch.get_num_threads()
        for around_um, members in itertools.groupby(self.pixels, lambda member: member.network.around_um):
            seen = self.seen(window, light, self._k(around_um))
            for member in members:
                found = member.network.look(seen, self.spacing_um, threads=threads, within=within)[within]
                _add(total, np.float32(member.weight / self._whole), found)
                for mean, plane in zip(start, found, strict=False):
                    mean += plane / np.float32(len(self.pixels))
                del found
            del seen
        if self._starts:
            self.shelf["start"][box] = start
        self.shelf[name][box] = total
        return Change.from_blank(total)

    def regrid(self, number: int, g: int, light: Light) -> None:
        """Bring the image, and what a µr-Net starts from, to a box of a grid."""
        grid, member, section = self.plan.grids[g], self.grid_member(g), _Section(self.shelf, g)
        box, k = self._grid_boxes[g][number], self._k(member.around_um)

        def image(part: Box) -> Array:
            found = self.seen(part, light, k)
            again = None if k is None else light.evened[k]
            return found if again is None else standardize(found, *again)

        section["image"][box] = resampled_box(image, self.plan.size, grid.shape, box)
        if member.kind == "urnet":
            section["start"][box] = resampled_box(self.shelf["start"].__getitem__, self.plan.size, grid.shape, box)

    def tile(self, number: int, g: int, step: str, *arguments: Any) -> Any:
        """Do a step of `TileWork` on a grid."""
        return getattr(self.tiles_of(g), step)(number, *arguments)

    def mix(self, number: int, lasts: Sequence[int]) -> Change:
        """Add to a box what the members say that look at grids, after so many passes each."""
        engine.forget_memory()
        box, size = self._boxes[number], self.plan.size
        if self.plan.pixels:
            total = self.shelf["pixels"][box]
        else:
            total = np.zeros([part.stop - part.start for part in box], np.float32)
        for g, (grid, last) in enumerate(zip(self.plan.grids, lasts, strict=True)):
            found = _Section(self.shelf, g)[f"probability.{last}"]
            share = np.float32(self.grid_member(g).weight / self._whole)
            _add(total, share, resampled_box(found.__getitem__, grid.shape, size, box))
        self.shelf["probability.1"][box] = total
        return Change.from_blank(total)

    def forget_grid(self, g: int, last: int) -> None:
        """Give up what a grid is not needed for any more, once its last pass is done."""
        section = _Section(self.shelf, g)
        for name in ("image", "start", "pooled", "x3", "lowest", "bottom", f"mask.{last - 1}", f"mask.{last}"):
            section.drop(name)
        section.drop(f"probability.{last - 1}")

    def _tiles_of(self, g: int) -> TileWork:
        grid: GridPlan = self.plan.grids[g]
        member = self.grid_member(g)
        refines = member.kind == "urnet"
        return TileWork(
            _Section(self.shelf, g),
            grid.tiles,
            engine_parameters(member.network),
            grid.shape,
            refines=refines,
            starts=refines,
            alone=self._alone,
        )

    def _k(self, around_um: float) -> int | None:
        return self.plan.around_um.index(around_um) if around_um else None


class _Section:
    """The part of a shelf that is of one grid."""

    def __init__(self, shelf: Shelf, g: int) -> None:
        self._shelf, self._before = shelf, f"grid{g}-"

    def make(self, name: str, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike = np.float32) -> None:
        """Make an array."""
        self._shelf.make(self._before + name, shape, pieces, dtype)

    def __getitem__(self, name: str, /) -> Any:
        return self._shelf[self._before + name]

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Take an array that is there already."""
        self._shelf.put(self._before + name, array)

    def holds(self, name: str, box: Box) -> bool:
        """Return whether a box was written."""
        return self._shelf.holds(self._before + name, box)

    def drop(self, name: str) -> None:
        """Give up an array."""
        self._shelf.drop(self._before + name)


def _add(total: Array, share: np.float32, found: Array) -> None:
    for plane, said in zip(total, found, strict=True):
        plane += share * said
