"""The steps of a segmentation of an OME-Zarr: those that look at it, and what comes before and after.

::

    the store -> copy -> image                          each of its chunks is unpacked once
    (the steps of tile_work, box_work or window_work)
    probability.k, annotation -> write -> the result    whole chunks of both its images, and what is counted
    the result -> halve -> its coarser levels           one level after the other
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from micronet.io.zarr import Level
from micronet.io.zarr_write import CHUNK, LabelColour, Writer, boxes_of
from micronet.measure.overlap import Overlap, overlap
from micronet.networks.normalize import log_intensity
from micronet.networks.registry import engine_parameters
from micronet.networks.taught import Taught
from micronet.segment.box_work import BoxWork
from micronet.segment.shelf import Shelf
from micronet.segment.store_spec import BoxSpec, FilesSpec, StoreSpec, TileSpec, WindowSpec
from micronet.segment.tile_work import TileWork
from micronet.segment.window_work import WindowWork

__all__ = [
    "BoxStore",
    "Counts",
    "StoreFiles",
    "StoreWork",
    "TileStore",
    "WindowStore",
    "copied_bytes",
    "sample_step",
    "store_work",
    "written_bytes",
]

Box = tuple[slice, slice, slice]
_COPIED_BYTES = 32 << 20
# Chunks of the result that one step writes.
_CHUNKS = (1, 2, 2)
# The preview shows every so many voxels, so that no axis has more.
_SHOWN = 300


@dataclass(eq=False)
class Counts:
    """What is counted while the result is written; `shown` is every so many voxels of the mask, in its `place`."""

    inside: int = 0
    agreement: Overlap = field(default_factory=lambda: Overlap(0, 0, 0))
    outside: int = 0
    shown: NDArray[np.bool_] | None = None
    place: tuple[slice, ...] = ()

    def join(self, other: Counts) -> None:
        """Take in what was counted elsewhere."""
        self.inside += other.inside
        self.agreement += other.agreement
        self.outside += other.outside


class StoreFiles:
    """The steps that copy a store to the shelf, and write what lies there as ``probability``.

    Parameters
    ----------
    shelf : Shelf
        Holds ``annotation`` where there is one.
    spec : FilesSpec
    level : Level
        The voxels.
    """

    def __init__(self, shelf: Shelf, spec: FilesSpec, level: Level) -> None:
        self.shelf = shelf
        self._spec, self._level = spec, level
        #: Lets the mask of a box hold what somebody says of it.
        self.impose: Callable[[NDArray[np.bool_], Box], None] = lambda mask, box: None
        self._copied = list(boxes_of(level.shape, copied_sides(level)))
        self._writers = functools.lru_cache(maxsize=2)(_writers)

    @property
    def copies(self) -> int:
        """Number of steps that copy."""
        return len(self._copied)

    @property
    def results(self) -> int:
        """Number of steps that write the highest resolution of a result."""
        sides = (chunks * min(CHUNK, length) for chunks, length in zip(_CHUNKS, self._level.shape, strict=True))
        return math.prod(-(-length // side) for length, side in zip(self._level.shape, sides, strict=True))

    def make_image(self) -> None:
        """Make the array that the store is copied into."""
        dtype = np.float32 if self._spec.logarithm else self._level.dtype
        self.shelf.make("image", self._level.shape, copied_sides(self._level), dtype)

    def copy(self, number: int) -> None:
        """Unpack some chunks of the store, whole ones."""
        box = self._copied[number]
        voxels = self._level[box]
        self.shelf["image"][box] = log_intensity(voxels) if self._spec.logarithm else voxels

    def writes(self, target: Path) -> list[int]:
        """Return the number of steps that write each level of a result."""
        image = self._writers(target)[0]
        return [len(_result_boxes(image, level)) for level in range(len(image.shapes))]

    def write(self, number: int, k: int, target: Path) -> Counts:
        """Write boxes of the probability after pass `k` as uint8 (255·p, rounded), and of the mask."""
        image, labels = self._writers(target)
        box = _result_boxes(image, 0)[number]
        found = self._deeper(k, box)
        mask = found > self._spec.threshold
        self.impose(mask, box)
        found *= 255
        image[box] = np.rint(found, out=found).astype(np.uint8)
        labels[box] = mask.astype(np.uint8)
        counts = Counts(int(np.count_nonzero(mask)))
        if self._spec.annotated:
            true = self.shelf["annotation"][box].astype(bool, copy=False)
            seen = max(0, min(self._spec.depth - box[1].start, mask.shape[1]))
            counts.agreement = overlap(mask[:, :seen], true[:, :seen])
            counts.outside = int(np.count_nonzero(true[:, seen:]))
        step = sample_step(self._level.shape)
        first = [-part.start % step for part in box]
        counts.place = tuple(slice(-(-part.start // step), -(-part.stop // step)) for part in box)
        counts.shown = mask[first[0] :: step, first[1] :: step, first[2] :: step].copy()
        return counts

    def halve(self, number: int, level: int, target: Path) -> None:
        """Write a box of a coarser level of both images of a result."""
        for writer in self._writers(target):
            writer.halve(level, _result_boxes(writer, level)[number])

    def _deeper(self, k: int, box: Box) -> NDArray[np.float32]:
        """Return a box of the probability, 0 where nothing was looked at."""
        z, y, x = box
        found: NDArray[np.float32] = self.shelf[f"probability.{k}"][
            z, slice(min(y.start, self._spec.depth), min(y.stop, self._spec.depth)), x
        ]
        lacking = y.stop - y.start - found.shape[1]
        return np.pad(found, ((0, 0), (0, lacking), (0, 0))) if lacking else found


class TileStore(TileWork, StoreFiles):
    """What a process needs to do any step with a store and a µ-Net or µr-Net."""

    def __init__(self, shelf: Shelf, spec: TileSpec, model: nn.Module, level: Level, *, alone: bool = False) -> None:
        inside, parameters = (level.shape[0], spec.depth, level.shape[2]), engine_parameters(model)
        TileWork.__init__(
            self, shelf, spec.plan, parameters, inside, refines=spec.refines, starts=spec.starts, alone=alone
        )
        StoreFiles.__init__(self, shelf, spec, level)


class BoxStore(BoxWork, StoreFiles):
    """The same with what was taught."""

    def __init__(self, shelf: Shelf, spec: BoxSpec, model: Taught, level: Level, *, alone: bool = False) -> None:
        BoxWork.__init__(self, shelf, spec.plan, model, spec.spacing_um, alone=alone)
        StoreFiles.__init__(self, shelf, spec, level)


class WindowStore(WindowWork, StoreFiles):
    """The same with a larger network."""

    def __init__(self, shelf: Shelf, spec: WindowSpec, model: nn.Module, level: Level) -> None:
        WindowWork.__init__(self, shelf, spec.plan, model)
        StoreFiles.__init__(self, shelf, spec, level)


StoreWork = TileStore | BoxStore | WindowStore


def store_work(shelf: Shelf, spec: StoreSpec, model: nn.Module, level: Level, *, alone: bool = False) -> StoreWork:
    """Return what does the steps of a task.

    Parameters
    ----------
    shelf : Shelf
        Holds ``annotation`` and ``start`` where there are such.
    spec : StoreSpec
    model : torch.nn.Module
    level : Level
        The voxels.
    alone : bool
        As of `TileWork`.
    """
    if isinstance(spec, BoxSpec):
        if not isinstance(model, Taught):
            raise AssertionError(f"boxes are for what was taught, not for {type(model).__name__}")
        return BoxStore(shelf, spec, model, level, alone=alone)
    if isinstance(spec, WindowSpec):
        return WindowStore(shelf, spec, model, level)
    return TileStore(shelf, spec, model, level, alone=alone)


def copied_sides(level: Level) -> tuple[int, int, int]:
    """Return the sides of what is copied at once: whole chunks, along X and then Y as many as the bytes allow."""
    z, y, x = (min(piece, length) for piece, length in zip(level.pieces, level.shape, strict=True))
    fits = max(1, _COPIED_BYTES // (z * y * x * max(level.dtype.itemsize, 4)))
    columns = min(fits, -(-level.shape[2] // x))
    rows = min(max(1, fits // columns), -(-level.shape[1] // y))
    return z, y * rows, x * columns


def copied_bytes(level: Level) -> int:
    """Return how many bytes a step takes that copies."""
    return 3 * math.prod(copied_sides(level)) * max(level.dtype.itemsize, 4)


def written_bytes() -> int:
    """Return how many bytes a step takes that writes a result."""
    return 14 * math.prod(_CHUNKS) * CHUNK**3  # probability, twice where it is filled up, its levels, the mask


def sample_step(shape: tuple[int, ...]) -> int:
    """Return every how many voxels a preview shows one."""
    return -(-max(shape) // _SHOWN)


def _writers(target: Path) -> tuple[Writer, Writer]:
    return Writer(target), Writer(target / "labels" / LabelColour().name, label=True)


def _result_boxes(writer: Writer, level: int) -> list[Box]:
    z, y, x = (chunks * side for chunks, side in zip(_CHUNKS, writer.chunk, strict=True))
    return list(boxes_of(writer.shapes[level], (z, y, x)))
