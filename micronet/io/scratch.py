"""An intermediate volume on disk, written plane by plane and gone when it is closed."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError
from micronet.core.files import free_bytes

__all__ = ["Scratch", "check_room"]

_BLOCK_BYTES = 64 << 20


def check_room(folder: Path, shape: tuple[int, ...]) -> None:
    """Raise FileError where a disk has no room for a volume of this shape; the folder need not be there yet."""
    needed, free = 4 * math.prod(shape), free_bytes(folder)
    if needed > free:
        raise FileError(
            f"cannot write '{folder}': {os.strerror(errno.ENOSPC)}; a volume of {' x '.join(map(str, shape))} voxels "
            f"takes {needed / 1e9:.3g} GB there, {free / 1e9:.3g} GB are free"
        )


class Scratch:
    """A float32 volume in a nameless file; used in a ``with`` block.

    The file is read and written, not mapped: a full disk is an error to tell instead of a signal that ends the
    process, and what was looked at takes no memory afterwards. It vanishes with the process, however that ends.

    Parameters
    ----------
    folder : Path
        Where there is room for it.
    shape : tuple of 3 ints
        Slowest axis first.
    axes : str
        The axes in that order, such as ``"YZX"``.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], axes: str = "ZYX") -> None:
        self._folder, self._axes = folder, axes
        self.shape = shape
        self._plane = math.prod(shape[1:])
        self._next = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file's room on the disk back."""
        with contextlib.suppress(OSError):  # what is still to be written has no room, and nobody wants it
            self._file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield the planes along the slowest axis."""
        for block in self.blocks():
            yield from block

    def __getitem__(self, planes: slice) -> NDArray[np.float32]:
        """Return a copy of the planes ``first:stop`` of the slowest axis, which were written before."""
        first, stop, _ = planes.indices(self.shape[0])
        found = np.empty((max(stop - first, 0), *self.shape[1:]), np.float32)
        try:
            self._file.seek(4 * self._plane * first)
            read = self._file.readinto(found.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise FileError(f"cannot read an intermediate volume in '{self._folder}': {error.strerror}") from error
        if read < found.nbytes:
            raise FileError(f"an intermediate volume in '{self._folder}' ends before its plane {stop}")
        return found

    def put(self, first: int, planes: NDArray[np.float32]) -> None:
        """Write planes from `first` on; FileError when the disk is full."""
        try:
            self._file.seek(4 * self._plane * first)
            self._file.write(np.ascontiguousarray(planes, np.float32).data)
            self._file.flush()  # here, where a full disk can still be told
        except OSError as error:
            raise self._error(error) from error

    def append(self, plane: NDArray[np.float32]) -> None:
        """Write the next plane of the slowest axis; FileError when the disk is full."""
        self.put(self._next, plane[None])
        self._next += 1

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the volume in blocks of some planes along the slowest axis, axes as written."""
        at_once = max(1, _BLOCK_BYTES // (4 * self._plane))
        for start in range(0, self.shape[0], at_once):
            yield self[start : start + at_once]

    def slices(self) -> Iterator[NDArray[np.float32]]:
        """Yield the (Y, X) slices along Z; where Z is not the slowest axis the file is read several times."""
        order = [self._axes.index(letter) for letter in "ZYX"]
        along = self._axes.index("Z")
        if along == 0:
            for block in self.blocks():
                yield from block.transpose(order)
            return
        depth = self.shape[along]
        at_once = max(1, _BLOCK_BYTES // (4 * self._plane * self.shape[0] // depth))
        for start in range(0, depth, at_once):
            part = tuple(slice(start, start + at_once) if axis == along else slice(None) for axis in range(3))
            gathered = np.concatenate([block[part] for block in self.blocks()])
            yield from gathered.transpose(order)

    def _error(self, error: OSError) -> FileError:
        return FileError(f"cannot write an intermediate volume into '{self._folder}': {error.strerror or error}")
