"""From a volume on disk to a probability as `refine` does it, tile by tile: to the same bit, in memory of any bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.io.scratch_array import ScratchArray
from micronet.networks import engine
from micronet.networks.normalize import Planes, image_statistics, standardize
from micronet.networks.padding import Padding
from micronet.networks.registry import engine_parameters, network_of
from micronet.segment.refine import MASK, Change, Iteration, Refinement, checked_depth, initial_probability
from micronet.segment.slabs import works_in_slabs
from micronet.segment.tile_plan import TilePlan

__all__ = ["Image", "predict_in_tiles", "tile_passes"]

_AS_BY_DEFAULT = Refinement()


class Image(Planes, Protocol):
    """A volume of which planes and boxes are read: an array, a `ScratchArray`, an array of zarr."""

    def __getitem__(self, part: Any, /) -> Any:
        """Return the voxels of a box."""


def tile_passes(plan: TilePlan, model: nn.Module, how: Refinement) -> int:
    """Return how many tiles are gone through at most: to encode, and in each pass."""
    return plan.count * (1 + network_of(model).passes(how.iterations))


def predict_in_tiles(
    image: Image,
    grid: Volume,
    model: nn.Module,
    folder: Path,
    plan: TilePlan,
    how: Refinement = _AS_BY_DEFAULT,
    on_tile: Callable[[], None] = lambda: None,
) -> ScratchArray:
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
    ScratchArray
        The probability (Z, `y_crop` or Y, X); to be closed by the caller.

    Raises
    ------
    InputError, FileError
        As `predict_in_slabs`.
    """
    depth = checked_depth(grid.array, model, how)
    if not works_in_slabs(model) or how.keep is not None:
        raise InputError("only the numba engine on the CPU works in tiles, and it keeps no voxels as they are")
    start = None if how.initial_mask is None else initial_probability(grid, how.initial_mask)
    network = network_of(model)
    shape = (grid.shape[0], depth, grid.shape[2])
    with ExitStack() as files, ExitStack() as stores:
        now = files.enter_context(ScratchArray(folder, shape))
        work = _Tiles(image, start, shape, now)
        steps = work.steps(model, plan, folder, stores)
        walk = _Walk(steps, plan, on_tile)
        walk.encode()
        passes, iterations = network.passes(how.iterations), list[Iteration]()
        for number in range(1, passes + 1):
            began = time.perf_counter()
            work.change = Change()
            walk.refine(work.mask if network.refines else None, work.write)
            iterations.append(work.change.iteration(number, time.perf_counter() - began))
            if how.tell(iterations, work.now) or number == passes:
                break
            old = work.before
            work.before = work.now
            work.now = old if isinstance(old, ScratchArray) else files.enter_context(ScratchArray(folder, shape))
        files.pop_all()
    if isinstance(work.before, ScratchArray):
        work.before.close()
    return work.now


class _Walk:
    """The order of the steps."""

    def __init__(self, steps: Any, plan: TilePlan, on_tile: Callable[[], None]) -> None:
        self._steps, self._on_tile = steps, on_tile
        self._fine, self._coarse = engine.tiles_of(plan.size, plan.sides, plan.coarse_sides)

    def encode(self) -> None:
        """Do what depends on the image alone."""
        for tile in self._fine:
            self._steps.encode(tile)
            self._on_tile()
        engine.forget_memory()  # between two kinds of work: tiles of one kind leave theirs to each other

    def refine(self, mask: Callable[..., Any] | None, write: Callable[..., None]) -> None:
        """Do one pass."""
        if mask is not None:
            for tile in self._fine:
                self._steps.pool(tile, mask, MASK)
        for tile in self._coarse:
            self._steps.down(tile)
        self._steps.bottom()
        for tile in self._coarse:
            self._steps.up(tile)
        engine.forget_memory()
        for tile in self._fine:
            write(tile.core, self._steps.decode(tile, mask, MASK))
            self._on_tile()
        engine.forget_memory()


class _Tiles:
    """What the steps read and write: boxes of the padded grid.

    `before` is the probability before the pass, `now` the one after it, `change` what becomes of the one.
    """

    before: NDArray[Any] | ScratchArray | None
    now: ScratchArray
    change: Change

    def __init__(
        self, image: Image, start: NDArray[Any] | None, shape: tuple[int, int, int], now: ScratchArray
    ) -> None:
        self._image, self.before, self.now = image, start, now
        self.padding = Padding(shape)
        self._mean, self._sd = image_statistics(image)

    def steps(self, model: nn.Module, plan: TilePlan, folder: Path, files: ExitStack) -> Any:
        """Return the steps of the engine, the coarse levels in memory or in files."""
        if self.padding.shape != plan.size:
            raise AssertionError(f"a plan for {plan.size}, not {self.padding.shape}")

        def store(shape: tuple[int, ...], on_disk: bool) -> NDArray[np.float32] | ScratchArray:
            return files.enter_context(ScratchArray(folder, shape)) if on_disk else np.empty(shape, np.float32)

        stores = engine.tile_stores(plan.size, network_of(model).refines, plan.coarse_on_disk, store)
        return engine.tile_steps(engine_parameters(model), plan.size, self.image, stores)

    def image(self, box: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a box of the image, normalised."""
        return self.padding.pad_box(lambda part: standardize(self._image[part], self._mean, self._sd), box)

    def mask(self, box: tuple[slice, ...]) -> NDArray[np.float32]:
        """Return a box of the probability before the pass."""
        return self.padding.pad_box(self._before, box)

    def write(self, box: tuple[slice, ...], found: NDArray[np.float32]) -> None:
        """Take a box of the probability after the pass."""
        place, inside = self.padding.unpad_box(box, found)
        if inside.size:
            self.change.add(self._before(place), inside)
            self.now[place] = inside

    def _before(self, box: tuple[slice, ...]) -> NDArray[np.float32]:
        if self.before is None:
            return np.zeros([part.stop - part.start for part in box], np.float32)
        return self.before[box].astype(np.float32, copy=False)
