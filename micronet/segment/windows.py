"""From a volume to the probability that a larger network finds in it, window by window.

MONAI's `SlidingWindowInferer` does it where the result fits into memory. Where it does not, the same sums are made
here, in the same order and so to the same bit, of the planes that windows still reach, and what is done goes to the
disk. With a border nothing is summed: every voxel is of one window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.core.planes import Planes
from micronet.core.volume import Volume
from micronet.io.pieces import ScratchPieces
from micronet.networks.normalize import image_statistics, standardize
from micronet.networks.registry import classes_of
from micronet.segment.refine import Change, Iteration, Refinement, checked_depth, initial_probability
from micronet.segment.tiles import Image
from micronet.segment.window_plan import Windows

__all__ = ["predicted_in_windows", "window_weights"]

_AS_BY_DEFAULT = Refinement()


@contextmanager
def predicted_in_windows(
    volume: Volume | NDArray[Any] | Image,
    model: nn.Module,
    windows: Windows,
    folder: Path,
    how: Refinement = _AS_BY_DEFAULT,
    on_window: Callable[[int, int], None] = lambda done, total: None,
    statistics: tuple[float, float] | None = None,
) -> Iterator[tuple[Sequence[Planes], list[Iteration]]]:
    """Give the probability of each class; what lies on the disk is gone after the block.

    Parameters
    ----------
    volume, model
        As in `micronet.predict`, or a volume on the disk; a network whose result has one channel a class.
    windows : Windows
        Of the shape that is looked at.
    folder : Path
        Where there is room for 4 bytes a voxel and class, if the result is to lie on the disk.
    how : Refinement
        Of one pass.
    on_window : callable
        Receives how many windows are done, and how many there are.
    statistics : (float, float), optional
        Mean and standard deviation by which it is normalised; its own where none are given.

    Yields
    ------
    probability : sequence of Planes, each of shape (Z, Y, X)
        Of each class, background not among them. Deeper than a crop along Y they are 0.
    passes : list of Iteration
        One a class: how many voxels are above 0.5.

    Raises
    ------
    InputError
        As `micronet.predict`.
    FileError
        If the disk is full.
    """
    array = volume.array if isinstance(volume, Volume) else volume
    depth = checked_depth(array, model, how)
    if windows.shape != (array.shape[0], depth, array.shape[2]):
        raise AssertionError(f"windows of {windows.shape}, not of {array.shape} to {depth} along Y")
    look = _Look(model, windows.count, on_window)
    work = _Work(array, depth, how, len(classes_of(model)), statistics or image_statistics(array))
    began = time.perf_counter()
    with ExitStack() as files:
        if windows.on_disk:
            scratches = [files.enter_context(_planes_on_disk(folder, array.shape)) for _ in work.changes]
            found: Sequence[Planes] = _written(work, look, windows, scratches)
        else:
            found = _in_memory(work, look, windows)
        passes = [change.iteration(1, time.perf_counter() - began) for change in work.changes]
        how.tell(passes, found[-1])
        yield found, passes


def _planes_on_disk(folder: Path, shape: Sequence[int]) -> ScratchPieces:
    return ScratchPieces(folder, shape, (1, *shape[1:]))


def _written(work: _Work, look: _Look, windows: Windows, scratches: Sequence[ScratchPieces]) -> Sequence[Planes]:
    """Return the probability of each class, on the disk."""
    for first, planes in _finished(work, look, windows):
        work.settle(first, planes)
        for scratch, channel in zip(scratches, planes, strict=True):
            scratch[first : first + len(channel)] = work.whole(channel, first)
    return scratches


def _in_memory(work: _Work, look: _Look, windows: Windows) -> Sequence[Planes]:
    every = _averaged(work, look, windows) if windows.averages else _gathered(work, look, windows)
    work.settle(0, every)
    return [work.whole(channel, 0) for channel in every]


class _Look:
    """The network, counting what it looks at."""

    def __init__(self, model: nn.Module, total: int, on_window: Callable[[int, int], None]) -> None:
        first = next(model.parameters())
        self.device, self._dtype = first.device, first.dtype
        self._model, self._total, self._tell, self._done = model, total, on_window, 0

    def __call__(self, window: Tensor) -> Tensor:
        """Return the probability (1, C, D, H, W), float32, of a window (1, 1, D, H, W)."""
        found: Tensor = self._model(window.to(self._dtype)).float()
        self._done += 1
        self._tell(self._done, self._total)
        return found


class _Work:
    """What is read and what becomes of it: boxes of the volume, normalised; `changes` are what the pass did."""

    def __init__(self, array: Any, depth: int, how: Refinement, classes: int, statistics: tuple[float, float]) -> None:
        self._array, self.depth, self._how = array, depth, how
        self._mean, self._sd = statistics
        self.changes = [Change() for _ in range(classes)]

    def image(self, box: tuple[slice, ...] = ()) -> NDArray[np.float32]:
        """Return a box of what is looked at, or all of it, normalised."""
        part = box or (slice(None), slice(0, self.depth), slice(None))
        return standardize(self._array[part], self._mean, self._sd)

    def settle(self, first: int, planes: NDArray[np.float32]) -> None:
        """Hold what is kept in planes (classes, planes, Y, X), and count what they are."""
        for change, channel in zip(self.changes, planes, strict=True):
            self._how.hold(channel, first)
            change.add(initial_probability(channel, None), channel)

    def whole(self, planes: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        """Return planes of one class with what lies deeper than was looked at, which is 0 or kept."""
        deeper = self._array.shape[1] - self.depth
        if not deeper:
            return planes
        return self._how.hold(np.pad(planes, ((0, 0), (0, deeper), (0, 0))), first)


def _averaged(work: _Work, look: _Look, windows: Windows) -> NDArray[np.float32]:
    """Return the average (C, Z, Y, X) that MONAI makes."""
    from monai.inferers.inferer import SlidingWindowInferer  # an extra that takes seconds

    flat = windows.sides[0] == 1
    inferer = SlidingWindowInferer(
        windows.sides,
        overlap=(0.0 if flat else windows.overlap, windows.overlap, windows.overlap),
        mode=windows.blend,
        sw_device=look.device,
        device="cpu",
    )
    with torch.inference_mode():
        found: Any = inferer(torch.from_numpy(work.image())[None, None], look)
    return np.asarray(found[0])


def _gathered(work: _Work, look: _Look, windows: Windows) -> NDArray[np.float32]:
    """Return the same without an average, in memory."""
    found: NDArray[np.float32] | None = None
    for first, planes in _finished(work, look, windows):
        if found is None:
            found = np.empty((len(planes), *windows.shape), np.float32)
        found[:, first : first + planes.shape[1]] = planes
    assert found is not None  # noqa: S101 - there is a window
    return found


def _finished(work: _Work, look: _Look, windows: Windows) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield planes (C, planes, Y, X) that no further window reaches, and which plane is the first of them.

    They are to be used, or changed, before the next.
    """
    sums = _Sums(windows) if windows.averages else _Cubes(windows)
    for taken, boxes in windows.rows():
        yield from sums.done_before(taken.start)
        for seen, box in boxes:
            with torch.inference_mode():
                found = look(torch.from_numpy(work.image(seen))[None, None].to(look.device))[0].cpu().numpy()
            sums.add(found, seen, box)
    yield from sums.done_before(windows.shape[0])


def window_weights(windows: Windows) -> NDArray[np.float32]:
    """Return what each voxel of a window counts."""
    from monai.data.utils import compute_importance_map  # an extra that takes seconds

    return np.asarray(compute_importance_map(windows.sides, mode=windows.blend), np.float32)


class _Cubes:
    """Planes that are put together of inner cubes."""

    def __init__(self, windows: Windows) -> None:
        self._shape = windows.shape
        self._held: NDArray[np.float32] | None = None
        self._first, self._stop = 0, 0

    def add(self, found: NDArray[np.float32], seen: tuple[slice, ...], box: tuple[slice, ...]) -> None:
        """Take the inner cube `box` of what was found in the box that was `seen`."""
        z, y, x = box
        if self._held is None:
            self._held = np.empty((len(found), z.stop - z.start, *self._shape[1:]), np.float32)
        self._first, self._stop = z.start, z.stop
        inner = tuple(slice(b.start - s.start, b.stop - s.start) for s, b in zip(seen, box, strict=True))
        self._held[:, : z.stop - z.start, y, x] = found[(slice(None), *inner)]

    def done_before(self, plane: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield what is complete."""
        if self._held is not None:
            yield self._first, self._held[:, : self._stop - self._first]


class _Sums:
    """Weighted sums of the planes that windows still reach, plane z in place z modulo as many as a window has."""

    def __init__(self, windows: Windows) -> None:
        self._shape, self._deep, self._first = windows.shape, windows.sides[0], 0
        self._weights = window_weights(windows)
        self._totals = np.zeros((self._deep, *self._shape[1:]), np.float32)
        self._sums: NDArray[np.float32] | None = None

    def add(self, found: NDArray[np.float32], seen: tuple[slice, ...], _: tuple[slice, ...]) -> None:
        """Add what was found in a box, times its weights."""
        if self._sums is None:
            self._sums = np.zeros((len(found), *self._totals.shape), np.float32)
        z, y, x = seen
        weighted = found * self._weights
        for here, there in self._places(z.start, z.stop):
            self._sums[:, there, y, x] += weighted[:, here]
            self._totals[there, y, x] += self._weights[here]

    def done_before(self, plane: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the averages of planes above one."""
        if self._sums is None:
            return
        first, self._first = self._first, plane
        for here, there in self._places(first, plane):
            done = self._sums[:, there]
            done /= self._totals[there]
            yield first + here.start, done
            done[...] = 0
            self._totals[there] = 0

    def _places(self, first: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yield runs of planes: where in first..stop, and where they are held."""
        at = first
        while at < stop:
            place = at % self._deep
            run = min(self._deep - place, stop - at)
            yield slice(at - first, at - first + run), slice(place, place + run)
            at += run
