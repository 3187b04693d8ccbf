"""How a volume is cut into boxes for a taught network so that memory suffices, and what that takes on the disk.

A µ-Net or µr-Net among its members goes through the volume on its own isotropic grid, in exact tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from micronet.core.errors import InputError, setting
from micronet.core.ram import MARGIN, PROGRAM, Allowance, size
from micronet.core.regrid import isotropic_shape, source_lengths
from micronet.networks.evening import widths
from micronet.networks.padding import Padding
from micronet.networks.taught import Taught
from micronet.segment.light_work import averaged_rows, light_bytes
from micronet.segment.tile_plan import TilePlan, plan_tiles

__all__ = ["BoxNeed", "BoxPlan", "GridPlan", "plan_boxes"]

Box = tuple[slice, slice, slice]
Size = tuple[int, int, int]

# Bytes of a voxel of a box: raw, normalised, evened, its surroundings, and what is found.
_LOOKED = 28
# The same of what is resampled: as it is read, smoothed, two samples, their products and sum.
_RESAMPLED = 32
# Numbers of boxes that are tried along an axis, and sides of boxes that are resampled, with the most that these take.
_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512)
_REGRIDDED, _REGRID_BYTES = (128, 96, 64, 48, 32, 24, 16, 8, 4), 256 << 20


@dataclass(frozen=True)
class GridPlan:
    """The isotropic grid of one member: its shape, the sides of boxes that are resampled at once, its tiles."""

    member: int
    shape: Size
    sides: Size
    tiles: TilePlan
    passes: int

    @property
    def count(self) -> int:
        """Number of tiles that are gone through."""
        return self.tiles.count * (1 + self.passes)


@dataclass(frozen=True)
class BoxPlan:
    """Sides (Z, Y, X) of boxes of what is looked at, and how many voxels around them their features see.

    `rows` are averaged along Z at once, for each of the surroundings `around_um` that anything is evened by; `grids`
    are those of members that look at a grid, `pixels` says whether there are others. `needed` is how many bytes the
    process takes at most, `scratch_bytes` what intermediate files take on the disk.
    """

    size: Size
    sides: Size
    halo: Size
    rows: int
    needed: int
    scratch_bytes: int
    around_um: tuple[float, ...] = ()
    grids: tuple[GridPlan, ...] = ()
    pixels: bool = True

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> BoxPlan:
        """Return what ``asdict`` tells, by way of JSON."""
        read: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in told.items()}
        read["grids"] = tuple(
            GridPlan(
                grid["member"], tuple(grid["shape"]), tuple(grid["sides"]), TilePlan.of(grid["tiles"]), grid["passes"]
            )
            for grid in read["grids"]
        )
        return cls(**read)

    @property
    def boxes(self) -> int:
        """Number of boxes."""
        return math.prod(-(-length // side) for length, side in zip(self.size, self.sides, strict=True))

    @property
    def count(self) -> int:
        """Number of boxes and tiles that are gone through."""
        return self.boxes * (self.pixels + bool(self.grids)) + sum(grid.count for grid in self.grids)

    def done(self, stages: Mapping[str, Any]) -> int:
        """Return how many of them were gone through in stages that are noted."""
        grids = [(grid, stages.get(f"grid.{g}")) for g, grid in enumerate(self.grids)]
        passes = (grid.tiles.count * (int(told["encoded"]) + len(told["iterations"])) for grid, told in grids if told)
        return int(self.boxes * ("look" in stages) + sum(passes))

    @property
    def in_memory(self) -> tuple[str, ...]:
        """Names of the arrays that one process holds in memory: coarse levels of grids."""
        return tuple(f"grid{g}-{name}" for g, grid in enumerate(self.grids) for name in grid.tiles.in_memory)

    @property
    def record(self) -> dict[str, Any]:
        """The same for a record."""
        grids = [{"shape_zyx": list(grid.shape)} | grid.tiles.record for grid in self.grids]
        return {"boxes_zyx": list(self.sides)} | ({"grids": grids} if grids else {})

    @property
    def words(self) -> str:
        """The same for a person."""
        grids = "".join(f", a grid of {' x '.join(map(str, one.shape))} in {one.tiles.words}" for one in self.grids)
        return f"{self.boxes} boxes of {' x '.join(map(str, self.sides))} voxels{grids}"

    def window(self, box: Box) -> tuple[Box, tuple[slice, slice]]:
        """Return a box with what lies around it, and which planes and rows of that are the box."""
        seen = [
            slice(max(part.start - around, 0), min(part.stop + around, length))
            for part, around, length in zip(box, self.halo, self.size, strict=True)
        ]
        inner = [slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(box, seen, strict=True)]
        return (seen[0], seen[1], seen[2]), (inner[0], inner[1])


@dataclass(frozen=True)
class BoxNeed:
    """As `micronet.segment.tile_plan.plan_tiles` takes it: what the caller holds and takes, who shares the work."""

    held: int
    least: int
    itemsize: int
    allowance: Allowance
    processes: int = 0

    def bytes(self, work: float) -> int:
        """Return what the process takes for some work."""
        return int(PROGRAM + MARGIN * (self.held + max(self.least, work)))

    def error(self, needed: int) -> InputError:
        """Return that so much is too much."""
        return InputError(
            f"about {size(needed)} of memory needed even in boxes, {self.allowance.words}; free memory or allow more "
            f"{setting('max_ram')}"
        )


def plan_boxes(shape: Size, model: Taught, spacing_um: Sequence[float], need: BoxNeed) -> BoxPlan:
    """Choose the boxes that compute the fewest voxels twice and fit into memory; InputError where none do.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of what is looked at.
    model : Taught
    spacing_um : (z, y, x)
    need : BoxNeed
    """
    networks = [member.network for member in model.members if member.by_voxel]
    reaches = [(0, 0, 0), *(network.reach(spacing_um) for network in networks)]
    halo = (max(z for z, _, _ in reaches), max(y for _, y, _ in reaches), 0)
    most = max((network.work_bytes(spacing_um, shape[2]) for network in networks), default=0)
    evened = tuple(dict.fromkeys(around for around in map(_around_um, model.members) if around))
    least = max(need.least, light_bytes(shape, evened=bool(evened)))
    need = BoxNeed(need.held, least, need.itemsize, need.allowance, need.processes)
    grids = tuple(_grids(shape, model, spacing_um, need))
    sides, needed = _sides(shape, halo, [grid.shape for grid in grids], torch.get_num_threads() * most, need)
    crosses = 4 * any(widths(spacing_um, around)[0] > 1 for around in evened)
    starts = 4 * any(member.kind == "urnet" for member in model.members)
    bytes_ = need.itemsize + 4 + 4 * len(evened) + crosses + (4 + starts) * (bool(networks) and bool(grids))
    scratch = math.prod(shape) * bytes_
    for grid in grids:
        start = 4 * math.prod(grid.shape) * (model.members[grid.member].kind == "urnet")
        scratch += grid.tiles.scratch_bytes + start
    needed = max([needed, *(grid.tiles.needed for grid in grids), *(_regrid(shape, grid, need) for grid in grids)])
    if not need.allowance.fits(needed):
        raise need.error(needed)
    return BoxPlan(shape, sides, halo, averaged_rows(shape), needed, scratch, evened, grids, bool(networks))


def _around_um(member: Any) -> float:
    """Return the surroundings that a member's image is evened by."""
    return float(member.network.around_um if member.by_voxel else member.around_um)


def _grids(shape: Size, model: Taught, spacing_um: Sequence[float], need: BoxNeed) -> Iterator[GridPlan]:
    for number, member in enumerate(model.members):
        if member.by_voxel:
            continue
        small = isotropic_shape(shape, spacing_um, member.step_um)
        tiles = plan_tiles(
            Padding(small).shape,
            refines=member.kind == "urnet",
            held=need.held,
            least=need.least,
            itemsize=4,
            allowance=need.allowance,
            processes=need.processes,
        )
        for side in _REGRIDDED:
            sides = (min(side, small[0]), min(side, small[1]), min(side, small[2]))
            grid = GridPlan(number, small, sides, tiles, member.passes)
            fits = need.allowance.fits(_regrid(shape, grid, need))
            if fits and _regrid_bytes(shape, grid) <= max(_REGRID_BYTES, need.least):
                break
        yield grid


def _regrid(shape: Size, grid: GridPlan, need: BoxNeed) -> int:
    return need.bytes(_regrid_bytes(shape, grid))


def _regrid_bytes(shape: Size, grid: GridPlan) -> int:
    """Return what it takes to bring a box of the volume to a grid."""
    return _RESAMPLED * max(math.prod(grid.sides), math.prod(source_lengths(shape, grid.shape, grid.sides)))


def _sides(shape: Size, halo: Size, grids: Sequence[Size], threads: int, need: BoxNeed) -> tuple[Size, int]:
    """Return the sides of the boxes, and what the process takes with them."""
    best: tuple[float, Size, int] | None = None
    smallest = 0
    for counts in itertools.product(_COUNTS, _COUNTS):
        z, y = (max(1, -(-length // count)) for length, count in zip(shape[:2], counts, strict=True))
        box, window = z * y * shape[2], min(z + 2 * halo[0], shape[0]) * min(y + 2 * halo[1], shape[1]) * shape[2]
        back = [_RESAMPLED * max(box, math.prod(source_lengths(one, shape, (z, y, shape[2])))) for one in grids]
        needed = need.bytes(max([_LOOKED * window + threads, *back]) + 8 * box)
        smallest = needed if smallest == 0 else min(smallest, needed)
        cost = float(window * math.ceil(shape[0] / z) * math.ceil(shape[1] / y))
        if need.processes:  # as of tiles: all are done when the last is
            number = math.ceil(shape[0] / z) * math.ceil(shape[1] / y)
            cost = window * (math.ceil(number / need.processes) + 0.5)
        if need.allowance.fits(needed) and (best is None or cost < best[0]):
            best = cost, (z, y, shape[2]), needed
    if best is None:
        raise need.error(smallest)
    return best[1], best[2]
