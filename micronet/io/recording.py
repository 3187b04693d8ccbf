"""A recording on disk, a volume at several time points, of which one time point at a time is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, clean_axes, native, reading, to_zyx
from micronet.io.source import Source
from micronet.io.stack import FilePlanes, FlatData, build_grid

__all__ = ["Recording", "open_flat_recording", "recording_axes", "recording_of"]

# Where time is not the slowest axis, this much is read at once to pick a time point from.
_PIECE = 16 << 20


@dataclass(frozen=True, eq=False)
class Recording:
    """Volumes of one grid, a time point each, in one file; used in a ``with`` block.

    Parameters
    ----------
    path : Path
        The file.
    count : int
        Number of time points, at least 2.
    grid : Volume
        Geometry, shape and voxel type of a time point, (Z, Y, X); its array is zeros that take no memory.
    interval_s : float or None
        Seconds from one time point to the next, where the file states them.
    load : callable
        ``load(number)`` gives the (Z, Y, X) array of a time point, counted from 0.
    close : callable
        Closes the file.
    """

    path: Path
    count: int
    grid: Volume
    interval_s: float | None
    load: Callable[[int], NDArray[Any]]
    close: Callable[[], None] = lambda: None

    def read(self, number: int) -> Volume:
        """Return a time point, counted from 0; FileError where its voxels cannot be read.

        Packed files are read fastest in ascending order.
        """
        if not 0 <= number < self.count:
            raise InputError(f"'{self.path}' has the time points 0 to {self.count - 1}, not {number}")
        with reading(self.path):
            return replace(self.grid, array=native(self.load(number)))

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def recording_axes(shape: tuple[int, ...], options: ReadOptions, path: Path) -> str:
    """Return the axes of a file that does not state them, as the person does; InputError where that does not fit."""
    if options.axes is None:
        raise InputError(f"'{path}' does not say what its axes {shape} are: name them, such as TZYX {setting('axes')}")
    axes = clean_axes(options.axes)
    if len(axes) != len(shape):
        raise InputError(
            f"'{path}': '{axes}' {setting('axes')} names {len(axes)} axes, the file has {len(shape)}: {shape}"
        )
    return axes


def recording_of(
    path: Path,
    shape: tuple[int, ...],
    axes: str,
    dtype: np.dtype[Any],
    load: Callable[[int], NDArray[Any]],
    close: Callable[[], None],
    *,
    interval_s: float | None = None,
    **geometry: Any,
) -> Recording:
    """Return a `Recording` from axes slowest first; `load` gives a time point with the axes beside T in that order.

    FileError where there are not at least two time points, or axes beside T, Z, Y and X.
    """
    count = dict(zip(axes, shape, strict=True)).get("T", 1)
    if count < 2:
        named = ", ".join(f"{letter} {length}" for letter, length in zip(axes, shape, strict=True))
        raise FileError(f"'{path}' holds one time point ({named}); name several files, or a file with an axis of time")
    rest = axes.replace("T", "")
    grid = build_grid(path, _without_time(shape, axes), rest, dtype, **geometry)
    if interval_s is not None and not (math.isfinite(interval_s) and interval_s > 0):
        interval_s = None
    return Recording(path, count, grid, interval_s, lambda number: to_zyx(load(number), rest, path), close)


def open_flat_recording(
    source: Source, shape: tuple[int, ...], axes: str, dtype: np.dtype[Any], data: FlatData, **more: Any
) -> Recording:
    """Open a recording whose array lies in one file without a gap; all but `data` is as `recording_of` takes it."""
    path = source.path
    if "T" not in axes:  # refused, and nothing is opened
        return recording_of(path, shape, axes, dtype, lambda _: np.empty(0), lambda: None, **more)
    time = axes.index("T")
    before, count, after = math.prod(shape[:time]), shape[time], math.prod(shape[time + 1 :])
    rest = _without_time(shape, axes)
    blocks = (count, 1, after) if before == 1 else (before, count, after)
    planes = FilePlanes(source, data, blocks, dtype)

    def load(number: int) -> NDArray[Any]:
        if before == 1:
            return planes(number, number + 1).reshape(rest)
        found = np.empty((before, after), dtype)
        step = max(1, _PIECE // (count * after * dtype.itemsize))
        for first in range(0, before, step):
            stop = min(first + step, before)
            found[first:stop] = planes(first, stop)[:, number]
        return found.reshape(rest)

    try:
        return recording_of(path, shape, axes, dtype, load, planes.close, **more)
    except BaseException:
        planes.close()
        raise


def _without_time(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    return tuple(length for length, letter in zip(shape, axes, strict=True) if letter != "T")
