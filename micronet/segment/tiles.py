"""From a volume on disk to a probability as `refine` does it, tile by tile: to the same bit, in memory of any bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.io.pieces import ScratchPieces
from micronet.networks.normalize import Planes
from micronet.networks.registry import engine_parameters, network_of
from micronet.segment.plane_work import Runner, statistics
from micronet.segment.refine import Change, Iteration, Refinement, checked_depth, has_settled, initial_probability
from micronet.segment.shelf import LocalShelf
from micronet.segment.slabs import works_in_slabs
from micronet.segment.tile_plan import TilePlan
from micronet.segment.tile_work import TileWork

__all__ = ["Image", "OnTile", "Progress", "predict_in_tiles", "refine_in_tiles", "run_here", "tile_passes"]

_AS_BY_DEFAULT = Refinement()


class Image(Planes, Protocol):
    """A volume of which planes and boxes are read: an array, a `ScratchPieces`, an array of zarr."""

    def __getitem__(self, part: Any, /) -> Any:
        """Return the voxels of a box."""


class OnTile(Protocol):
    """Receives how many tiles are done, and how many there are at most over all passes."""

    def __call__(self, done: int, total: int, where: str = ..., /) -> None:
        """Note that a tile is done; `where` is given of a cluster that shows what it does: the address."""


@dataclass
class Progress:
    """How far a segmentation in tiles has come: what is on the shelf and need not be done again.

    `stages` is what other steps than those of tiles gave, by their names, as JSON has it. `note` is called when
    something is finished.
    """

    copied: bool = False
    statistics: tuple[float, float] | None = None
    encoded: bool = False
    iterations: list[Iteration] = field(default_factory=list)
    stages: dict[str, Any] = field(default_factory=dict)
    note: Callable[[], None] = lambda: None

    def once(self, name: str, do: Callable[[], Any]) -> Any:
        """Return what a stage gave, or do it, and note that."""
        if name not in self.stages:
            self.stages[name] = do()
            self.note()
        return self.stages[name]

    @property
    def words(self) -> str:
        """After what there is to go on, for a person; empty where that is nothing much."""
        if self.iterations:
            return f"after refinement {len(self.iterations)}"
        if self.stages:
            return "with what is finished"
        return "after what is done once for all refinements" if self.encoded else ""


def run_here(work: Any, on_tile: Callable[[], None]) -> Runner:
    """Return a runner that does one step after the other in this process; `on_tile` is called after each that ticks."""

    def run(step: str, count: int, *arguments: Any, ticks: bool = False) -> list[Any]:
        found = []
        for number in range(count):
            found.append(getattr(work, step)(number, *arguments))
            if ticks:
                on_tile()
        return found

    return run


def tile_passes(plan: TilePlan, model: nn.Module, how: Refinement) -> int:
    """Return how many tiles are gone through at most: to encode, and in each pass."""
    return plan.count * (1 + network_of(model).passes(how.iterations))


def refine_in_tiles(work: TileWork, run: Runner, passes: int, how: Refinement, progress: Progress) -> int:
    """Do what is left to do until there is a probability; return the number of the pass that it is after.

    Parameters
    ----------
    work : TileWork
        Makes the arrays; its steps are done by `run`, in this process or others.
    run : Runner
    passes : int
        At most.
    how : Refinement
        Its `on_probability` gets the array on the shelf.
    progress : Progress
        What is done is noted in it; its iterations are told again.
    """
    if progress.statistics is None:
        progress.statistics = statistics(work, run)
        progress.note()
    mean, sd = progress.statistics
    if not progress.encoded:
        work.make_coarse()
        work.make_pass(0)
        run("encode", work.fine, mean, sd, ticks=True)
        progress.encoded = True
        progress.note()
    done = progress.iterations
    for number in range(1, len(done) + 1):
        how.tell(done[:number], None)
    while len(done) < passes and not (how.until_stable and has_settled(done)):
        number, began = len(done) + 1, time.perf_counter()
        for name in ("mask", "probability"):
            work.shelf.drop(f"{name}.{number - 2}")
        work.make_pass(number)
        run("down", work.coarse, number)
        run("bottom", 1, number)
        run("up", work.coarse, number)
        change = Change.joined(run("decode", work.fine, number, mean, sd, number == passes, ticks=True))
        done.append(change.iteration(number, time.perf_counter() - began))
        progress.note()
        how.tell(done, work.shelf[f"probability.{number}"])
    return len(done)


def predict_in_tiles(
    image: Image,
    grid: Volume,
    model: nn.Module,
    folder: Path,
    plan: TilePlan,
    how: Refinement = _AS_BY_DEFAULT,
    on_tile: Callable[[], None] = lambda: None,
) -> ScratchPieces:
    """Return what `micronet.predict` returns, to the bit, with no array of the volume's size in memory.

    Parameters
    ----------
    image, grid : Image, Volume
        Raw intensities (Z, Y, X), and where they lie; the array of `grid` is not looked at.
    model, how
        As in `predict_in_slabs`.
    folder, plan
        Where there is room for `plan.scratch_bytes`; a plan of the shape that is looked at.
    on_tile : callable
        Called after every tile that is encoded or decoded, `tile_passes` times at most.

    Returns
    -------
    ScratchPieces
        The probability (Z, `y_crop` or Y, X); to be closed by the caller.

    Raises
    ------
    InputError, FileError
        As `predict_in_slabs`.
    """
    depth = checked_depth(grid.array, model, how)
    if not works_in_slabs(model) or how.keep is not None:
        raise InputError("only the numba engine on the CPU works in tiles, and it keeps no voxels as they are")
    network = network_of(model)
    with LocalShelf(folder, plan.in_memory) as shelf:
        shelf.put("image", image)
        if how.initial_mask is not None:
            shelf.put("start", initial_probability(grid, how.initial_mask))
        work = TileWork(
            shelf,
            plan,
            engine_parameters(model),
            (grid.shape[0], depth, grid.shape[2]),
            refines=network.refines,
            starts=how.initial_mask is not None,
            alone=True,
        )
        last = refine_in_tiles(work, run_here(work, on_tile), network.passes(how.iterations), how, Progress())
        found: ScratchPieces = shelf.take(f"probability.{last}")
    return found
