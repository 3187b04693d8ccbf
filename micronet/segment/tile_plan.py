"""How a volume of any size is cut into tiles so that memory suffices, and what that takes on the disk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from micronet.core.errors import InputError, setting
from micronet.core.ram import MARGIN, PROGRAM, Allowance, size
from micronet.networks import engine

__all__ = ["TilePlan", "plan_tiles"]

Size = tuple[int, int, int]

# Rows that are cut are read and written in pieces; a cut along X must spare this much of what is computed twice.
_CUT_ROWS = 1.03
# Numbers of tiles that are tried along an axis: each up to here, then every so many times more.
_EACH, _FACTOR = 16, 1.15
# Bytes a voxel of what one process reads ahead and writes behind: image and probability as they are read, the image in
# its own type too, the probability before and after.
_AHEAD_BYTES = 24
# The coarse levels lie in memory where they leave the tiles so much of it.
_LEFT_FOR_TILES = 0.5


@dataclass(frozen=True)
class TilePlan:
    """Sides (Z, Y, X) of tiles, and of those of the quarter scale; whether the coarse levels lie on the disk.

    `needed` is how many bytes the process takes at most, `scratch_bytes` what intermediate files take on the disk.
    """

    size: Size
    sides: Size
    coarse_sides: Size
    coarse_on_disk: bool
    needed: int
    scratch_bytes: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> TilePlan:
        """Return what ``asdict`` tells, by way of JSON."""
        read: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in told.items()}
        return cls(**read)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return math.prod(-(-length // side) for length, side in zip(self.size, self.sides, strict=True))

    @property
    def in_memory(self) -> tuple[str, ...]:
        """Names of the arrays that one process holds in memory (`micronet.segment.tile_work`)."""
        return ("lowest", "bottom") if self.coarse_on_disk else ("lowest", "bottom", "pooled", "mask", "x3")

    @property
    def record(self) -> dict[str, Any]:
        """The same for a record."""
        return {"tiles_zyx": list(self.sides), "coarse_on_disk": self.coarse_on_disk}

    @property
    def words(self) -> str:
        """The same for a person."""
        sides = " x ".join(str(min(side, length)) for side, length in zip(self.sides, self.size, strict=True))
        coarse = "the coarse levels whole" if self._coarse_whole else "the coarse levels in tiles too"
        return f"{self.count} tiles of {sides} voxels, {coarse}{' and on disk' if self.coarse_on_disk else ''}"

    @property
    def _coarse_whole(self) -> bool:
        return all(4 * side >= length - 3 for side, length in zip(self.coarse_sides, self.size, strict=True))


def plan_tiles(
    shape: Size, *, refines: bool, held: int, least: int, itemsize: int, allowance: Allowance, processes: int = 0
) -> TilePlan:
    """Choose the tiles that compute the fewest voxels twice and fit into memory.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of what is looked at, padded; axes of at least 32.
    refines : bool
        The network takes a mask.
    held : int
        Bytes that the caller holds all the time.
    least : int
        Bytes that the caller takes at some other time, beside what it holds.
    itemsize : int
        Bytes of a voxel of the image as it lies on the disk.
    allowance : Allowance
        Of memory, of each process.
    processes : int
        How many share the work, with all arrays on a disk; 0 for one that does it alone.

    Raises
    ------
    InputError
        If not even small tiles fit.
    """
    tiles = engine.tile_sizes(shape, refines)
    if processes:  # the lowest level is a step like others; one process alone holds it all the time
        least = max(least, tiles.lowest)
    else:
        held += tiles.lowest

    def fine(sides: Size) -> int:
        window = (min(side + 2 * engine.TILE_HALO, length) for side, length in zip(sides, shape, strict=True))
        return tiles.fine(sides) + (0 if processes else _AHEAD_BYTES * math.prod(window))

    room = math.inf if allowance.bytes is None else (allowance.bytes - PROGRAM) / MARGIN - held
    quarter = (shape[0] // 4, shape[1] // 4, shape[2] // 4)
    scratch = math.prod(shape) * (itemsize + 4 * (2 if refines else 1))
    in_memory = (True, False) if tiles.stores < (1 - _LEFT_FOR_TILES) * room and not processes else (False,)
    for kept in in_memory:
        left = room - (tiles.stores if kept else 0)
        coarse = _best(quarter, tiles.coarse, left, processes)
        sides = _best(shape, fine, left, processes)
        if coarse is None or sides is None or least > left:
            continue
        most = max(tiles.coarse(coarse), fine(sides), least) + (tiles.stores if kept else 0)
        needed = int(PROGRAM + MARGIN * (held + most))
        return TilePlan(shape, sides, coarse, not kept, needed, scratch + (0 if kept else tiles.stores))
    smallest = max(fine((32, 32, 32)), tiles.coarse((32, 32, 32)), least)
    needed = int(PROGRAM + MARGIN * (held + smallest))
    raise InputError(
        f"about {size(needed)} of memory needed even in tiles, {allowance.words}; free memory or allow more "
        f"{setting('max_ram')}"
    )


def _best(shape: Size, bytes_of: Callable[[Size], int], room: float, processes: int) -> Size | None:
    """Return the sides of the tiles that fit and are done soonest; None where none fit.

    One process alone takes longest where tiles' surroundings are most. Several are done when the last is: with its
    share of tiles, and of another for half its time on average.
    """
    found: tuple[float, Size] | None = None
    halo = 2 * engine.TILE_HALO
    for sides in itertools.product(*(_sides(length) for length in shape)):
        counts = [-(-length // side) for length, side in zip(shape, sides, strict=True)]
        if processes:
            window = math.prod(min(side + halo, length) for side, length in zip(sides, shape, strict=True))
            cost = window * (-(-math.prod(counts) // processes) + 0.5)
        else:
            cost = float(math.prod(length + halo * (count - 1) for length, count in zip(shape, counts, strict=True)))
        cost *= _CUT_ROWS if counts[2] > 1 else 1
        if (found is None or cost < found[0]) and bytes_of((sides[0], sides[1], sides[2])) <= room:
            found = cost, (sides[0], sides[1], sides[2])
    return None if found is None else found[1]


def _sides(length: int) -> list[int]:
    """Return sides, multiples of 4 of at least 32, that cut an axis into about equal parts."""
    counts, count = list(range(1, _EACH)), float(_EACH)
    while count < length / 32:
        counts.append(int(count))
        count *= _FACTOR
    sides = {-(-length // number // 4) * 4 for number in counts}
    return sorted({max(side, 32) for side in sides}, reverse=True)
