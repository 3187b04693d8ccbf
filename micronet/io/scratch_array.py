"""An intermediate array on disk of which boxes are read and written in any order, gone when it is closed."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from micronet.core.errors import FileError

__all__ = ["ScratchArray"]

# Rows of which at least this part is wanted are read whole: one long read is faster than many short ones.
_WHOLE_ROWS = 4


class ScratchArray:
    """An array in a nameless file; used in a ``with`` block.

    As `micronet.io.scratch.Scratch` it is read and written, not mapped, and vanishes with the process. What was never
    written is 0.

    Parameters
    ----------
    folder : Path
        Where there is room for it.
    shape : tuple of int
        Slowest axis first.
    dtype : dtype-like
        Of its elements.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> None:
        self._folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        except OSError as error:
            raise self._error(error) from error
        try:
            self._file.truncate(math.prod(shape) * self.dtype.itemsize)
        except OSError as error:
            self.close()
            raise self._error(error) from error

    def __enter__(self) -> ScratchArray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file's room on the disk back."""
        with contextlib.suppress(OSError):
            self._file.close()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield what lies along the slowest axis, one after the other."""
        for number in range(self.shape[0]):
            yield self[number : number + 1][0]

    def __getitem__(self, part: slice | tuple[slice, ...]) -> NDArray[Any]:
        """Return a copy of a box; FileError where it cannot be read."""
        box = self._box(part)
        *_, (first, stop) = box
        if self.ndim > 1 and self.shape[-1] > stop - first >= self.shape[-1] // _WHOLE_ROWS:
            return self._cut(box)
        found = np.empty([end - begin for begin, end in box], self.dtype)
        flat, done = found.reshape(-1).view(np.uint8), 0
        try:
            for start, size in self._runs(box):
                self._file.seek(start)
                done += self._fill(flat[done : done + size])
        except OSError as error:
            raise FileError(f"cannot read an intermediate volume in '{self._folder}': {error.strerror}") from error
        if done < flat.size:
            raise FileError(f"an intermediate volume in '{self._folder}' ends too early")
        return found

    def __setitem__(self, part: slice | tuple[slice, ...], values: NDArray[Any]) -> None:
        """Write a box; FileError when the disk is full."""
        box = self._box(part)
        shape = [end - begin for begin, end in box]
        content = np.ascontiguousarray(np.broadcast_to(values, shape), self.dtype).reshape(-1).view(np.uint8)
        done = 0
        try:
            for start, size in self._runs(box):
                self._file.seek(start)
                self._pour(content[done : done + size])
                done += size
        except OSError as error:
            raise self._error(error) from error

    def _box(self, part: slice | tuple[slice, ...]) -> list[tuple[int, int]]:
        parts = part if isinstance(part, tuple) else (part,)
        parts += (slice(None),) * (self.ndim - len(parts))
        bounds = [one.indices(length) for one, length in zip(parts, self.shape, strict=True)]
        return [(first, max(first, stop)) for first, stop, _ in bounds]

    def _cut(self, box: list[tuple[int, int]]) -> NDArray[Any]:
        """Return a box of which whole rows are read, a plane at a time."""
        found = np.empty([end - begin for begin, end in box], self.dtype)
        *outer, rows, (first, stop) = box
        for place in itertools.product(*(range(end - begin) for begin, end in outer)):
            here = tuple(slice(begin + at, begin + at + 1) for (begin, _), at in zip(outer, place, strict=True))
            read = self[(*here, slice(*rows), slice(0, self.shape[-1]))]
            found[place] = read.reshape(-1, self.shape[-1])[:, first:stop]
        return found

    def _runs(self, box: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield where what lies without a gap starts in the file, and its length, in bytes and in order."""
        axis = self.ndim - 1
        while axis > 0 and box[axis] == (0, self.shape[axis]):
            axis -= 1
        steps = [math.prod(self.shape[number + 1 :]) * self.dtype.itemsize for number in range(self.ndim)]
        first, stop = box[axis]
        for place in itertools.product(*(range(*bounds) for bounds in box[:axis])):
            before = sum(at * step for at, step in zip(place, steps, strict=False))
            yield before + first * steps[axis], (stop - first) * steps[axis]

    def _fill(self, target: NDArray[np.uint8]) -> int:
        done = 0
        while done < target.size:  # one call reads 2 GB at most
            count = self._file.readinto(target[done:].data)
            if not count:
                break
            done += count
        return done

    def _pour(self, content: NDArray[np.uint8]) -> None:
        done = 0
        while done < content.size:
            done += self._file.write(content[done:].data)

    def _error(self, error: OSError) -> FileError:
        return FileError(f"cannot write an intermediate volume into '{self._folder}': {error.strerror or error}")
