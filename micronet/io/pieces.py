"""Intermediate arrays on a disk, in pieces: each written whole at once, boxes read that may touch many.

`ScratchPieces` is one nameless file of one process. `PieceArray` is a folder with one file a piece, for several
processes that share a disk: an array of zarr v3 without packing, so that zarr opens it; but zarr unpacks whole chunks
for the few voxels around a tile, and of plain numbers only these voxels are read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import secrets
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.files import atomic_path, make_folder

__all__ = ["PieceArray", "Pieces", "ScratchPieces"]

# Bytes that are read in the time of one call, and the most that are read at once to be cut.
_BYTES_A_CALL, _AT_ONCE = 8_000, 16 << 20
Bounds = list[tuple[int, int]]


class Pieces(ABC):
    """An array of which boxes are read, and whole pieces are written.

    It is read and written, not mapped: a full disk is an error to tell instead of a signal that ends the process, and
    what was looked at takes no memory afterwards. FileError for whatever the disk refuses.
    """

    def __init__(self, folder: Path, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike) -> None:
        self._folder = folder
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.pieces = tuple(max(1, min(piece, length)) for piece, length in zip(pieces, shape, strict=True))
        self._stored = self.dtype.newbyteorder("<")

    @abstractmethod
    def _opened(self, number: Sequence[int]) -> contextlib.AbstractContextManager[tuple[Any, int]]:
        """Give the unbuffered file of a piece, and where in it the piece begins."""

    @abstractmethod
    def _write(self, number: Sequence[int], content: NDArray[np.uint8]) -> None:
        """Write the bytes of a piece."""

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
        """Return a copy of a box."""
        box = _bounds(part, self.shape)
        found = np.empty([stop - first for first, stop in box], self._stored)
        for number in self._numbers(box) if found.size else ():
            begins = [at * side for at, side in zip(number, self.pieces, strict=True)]
            own = [
                (max(first - begin, 0), min(stop - begin, side))
                for (first, stop), begin, side in zip(box, begins, self.pieces, strict=True)
            ]
            place = [
                slice(begin + low - first, begin + high - first)
                for begin, (low, high), (first, _) in zip(begins, own, box, strict=True)
            ]
            self._read(number, own, found[tuple(place)])
        return found.astype(self.dtype, copy=False)

    def __setitem__(self, part: slice | tuple[slice, ...], values: NDArray[Any]) -> None:
        """Write whole pieces; InputError for a box that is none of these."""
        box = _bounds(part, self.shape)
        for (first, stop), side, length in zip(box, self.pieces, self.shape, strict=True):
            if first % side or (stop % side and stop != length):
                raise InputError(f"{box} of '{self._folder.name}' are not whole pieces of {self.pieces} voxels")
        given = np.broadcast_to(values, [stop - first for first, stop in box])
        for number in self._numbers(box) if given.size else ():
            place = tuple(
                slice(at * side - first, (at + 1) * side - first)
                for at, side, (first, _) in zip(number, self.pieces, box, strict=True)
            )
            self._write(number, self._whole(given[place]).reshape(-1).view(np.uint8))

    def _whole(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a piece at its full size, which one at the end of an axis is filled up to."""
        if values.shape == self.pieces:
            return np.ascontiguousarray(values, self._stored)
        whole = np.zeros(self.pieces, self._stored)
        whole[tuple(map(slice, values.shape))] = values
        return whole

    def _numbers(self, box: Bounds) -> Iterator[tuple[int, ...]]:
        """Yield the places of the pieces that a box touches."""
        return itertools.product(
            *(range(first // side, -(-stop // side)) for (first, stop), side in zip(box, self.pieces, strict=True))
        )

    def _read(self, number: Sequence[int], box: Bounds, out: NDArray[Any]) -> None:
        """Read a box of a piece."""
        axis = _read_along(self.pieces, self.dtype.itemsize, box)
        wide = [*box[: axis + 1], *((0, side) for side in self.pieces[axis + 1 :])]
        cut: tuple[Any, ...] = (..., *(slice(*bounds) for bounds in box[axis + 1 :]))
        first, stop = box[0]
        plane = math.prod(high - low for low, high in wide[1:]) * self.dtype.itemsize
        step = max(1, _AT_ONCE // plane)
        try:
            with self._opened(number) as (file, offset):
                for begin in range(first, stop, step):
                    end = min(begin + step, stop)
                    out[begin - first : end - first] = self._read_runs(file, offset, [(begin, end), *wide[1:]])[cut]
        except FileNotFoundError:
            raise FileError(f"an intermediate volume in '{self._folder}' lacks a piece") from None
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"cannot read an intermediate volume in '{self._folder}': {error.strerror}") from error

    def _read_runs(self, file: Any, offset: int, box: Bounds) -> NDArray[Any]:
        found = np.empty([stop - first for first, stop in box], self._stored)
        flat, done = found.reshape(-1).view(np.uint8), 0
        for start, size in _runs(self.pieces, self.dtype.itemsize, box):
            file.seek(offset + start)
            done += _fill(file, flat[done : done + size])
        if done < flat.size:
            raise FileError(f"an intermediate volume in '{self._folder}' ends too early")
        return found

    def _error(self, error: OSError) -> FileError:
        return FileError(f"cannot write an intermediate volume into '{self._folder}': {error.strerror or error}")


class ScratchPieces(Pieces):
    """An array in a nameless file, gone when it is closed; used in a ``with`` block. What was never written is 0.

    Several threads may read and write it, one at a time.

    Parameters
    ----------
    folder : Path
        Where there is room for it.
    shape, pieces : sequence of int
        Slowest axis first; pieces that are longer than an axis end with it.
    dtype : dtype-like
        Of its elements.
    """

    def __init__(
        self, folder: Path, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike = np.float32
    ) -> None:
        super().__init__(folder, shape, pieces, dtype)
        self._counts = [-(-length // side) for length, side in zip(self.shape, self.pieces, strict=True)]
        self._bytes = math.prod(self.pieces) * self.dtype.itemsize
        self._lock = threading.Lock()  # of the place in the file
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        except OSError as error:
            raise self._error(error) from error
        try:
            self._file.truncate(math.prod(self._counts) * self._bytes)
        except OSError as error:
            self.close()
            raise self._error(error) from error

    def __enter__(self) -> ScratchPieces:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file's room on the disk back."""
        with contextlib.suppress(OSError):
            self._file.close()

    @contextmanager
    def _opened(self, number: Sequence[int]) -> Iterator[tuple[Any, int]]:
        with self._lock:
            yield self._file, self._offset(number)

    def _offset(self, number: Sequence[int]) -> int:
        return int(np.ravel_multi_index(tuple(number), self._counts)) * self._bytes

    def _write(self, number: Sequence[int], content: NDArray[np.uint8]) -> None:
        try:
            with self._opened(number) as (file, offset):
                file.seek(offset)
                _pour(file, content)
        except OSError as error:
            raise self._error(error) from error


class PieceArray(Pieces):
    """An array in a folder, opened by its name.

    A piece takes its name only when it is whole: whoever writes may be killed at any moment, and the same piece may be
    written twice. One that is missing is an error, never zeros.
    """

    def __init__(self, folder: Path) -> None:
        try:
            told = json.loads((folder / "zarr.json").read_bytes())
            pieces = told["chunk_grid"]["configuration"]["chunk_shape"]
            super().__init__(folder, told["shape"], pieces, told["data_type"])
        except OSError as error:
            raise FileError(f"cannot read an intermediate volume in '{folder}': {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(f"'{folder}' is no intermediate volume: its zarr.json is damaged") from error

    @classmethod
    def make(
        cls, folder: Path, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike = np.float32
    ) -> PieceArray:
        """Make an array without content; arguments as those of `ScratchPieces`."""
        sides = [max(1, min(piece, length)) for piece, length in zip(pieces, shape, strict=True)]
        content = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": np.dtype(dtype).name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": sides}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": False if np.dtype(dtype) == bool else 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
        }
        make_folder(folder)
        with atomic_path(folder / "zarr.json") as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        return cls(folder)

    def holds(self, part: slice | tuple[slice, ...]) -> bool:
        """Return whether every piece of a box was written."""
        return all(self._path(number).exists() for number in self._numbers(_bounds(part, self.shape)))

    @contextmanager
    def _opened(self, number: Sequence[int]) -> Iterator[tuple[Any, int]]:
        with self._path(number).open("rb", buffering=0) as file:
            yield file, 0

    def _path(self, number: Sequence[int]) -> Path:
        return self._folder.joinpath("c", *map(str, number))

    def _write(self, number: Sequence[int], content: NDArray[np.uint8]) -> None:
        path = self._path(number)
        temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb", buffering=0) as file:
                _pour(file, content)
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._error(error) from error


def _bounds(part: slice | tuple[slice, ...], shape: Sequence[int]) -> Bounds:
    """Return first and end of a box along each axis.

    >>> _bounds((slice(1, 9), slice(None)), (4, 5, 6))
    [(1, 4), (0, 5), (0, 6)]
    """
    parts = part if isinstance(part, tuple) else (part,)
    parts += (slice(None),) * (len(shape) - len(parts))
    bounds = [one.indices(length) for one, length in zip(parts, shape, strict=True)]
    return [(first, max(first, stop)) for first, stop, _ in bounds]


def _read_along(shape: Sequence[int], itemsize: int, box: Bounds) -> int:
    """Return beyond which axis more than the box is read, to be cut: one long read is faster than many short ones.

    >>> _read_along((8, 100, 100), 4, [(0, 8), (0, 100), (0, 8)]), _read_along((8, 100, 9999), 4, [(0, 8)] * 3)
    (0, 2)
    """
    costs = []
    for axis, (first, stop) in enumerate(box):
        calls = math.prod(high - low for low, high in box[:axis])
        costs.append(calls * ((stop - first) * math.prod(shape[axis + 1 :]) * itemsize + _BYTES_A_CALL))
    return min(range(len(box)), key=costs.__getitem__)


def _runs(shape: Sequence[int], itemsize: int, box: Bounds) -> Iterator[tuple[int, int]]:
    """Yield where what of a box lies without a gap starts in a file, and its length, in bytes and in order.

    >>> list(_runs((3, 4), 2, [(1, 3), (0, 2)]))
    [(8, 4), (16, 4)]
    """
    axis = len(shape) - 1
    while axis > 0 and box[axis] == (0, shape[axis]):
        axis -= 1
    steps = [math.prod(shape[number + 1 :]) * itemsize for number in range(len(shape))]
    first, stop = box[axis]
    for place in itertools.product(*(range(*bounds) for bounds in box[:axis])):
        before = sum(at * step for at, step in zip(place, steps, strict=False))
        yield before + first * steps[axis], (stop - first) * steps[axis]


def _fill(file: Any, target: NDArray[np.uint8]) -> int:
    done = 0
    while done < target.size:  # one call reads 2 GB at most
        count = file.readinto(target[done:].data)
        if not count:
            break
        done += count
    return done


def _pour(file: Any, content: NDArray[np.uint8]) -> None:
    done = 0
    while done < content.size:
        done += file.write(content[done:].data)
