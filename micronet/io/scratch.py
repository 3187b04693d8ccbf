"""An intermediate volume on disk, written plane by plane and gone when it is closed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from micronet.errors import FileError

__all__ = ["Scratch"]

_BLOCK_BYTES = 64 << 20


class Scratch:
    """A float32 volume in a nameless file; used in a ``with`` block.

    Parameters
    ----------
    folder : Path
        Where there is room for it.
    shape : tuple of 3 ints
        Slowest axis first.
    axes : str
        The axes in that order, such as ``"YZX"``.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], axes: str) -> None:
        self._folder, self._shape, self._axes = folder, shape, axes
        self._plane = math.prod(shape[1:])
        try:
            self._file = tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, plane: NDArray[np.float32]) -> None:
        """Write the next plane of the slowest axis; FileError when the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(plane, np.float32).data)
        except OSError as error:
            raise self._error(error) from error

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the volume in blocks of some planes along the slowest axis, axes as written."""
        self._file.flush()
        at_once = max(1, _BLOCK_BYTES // (4 * self._plane))
        for start in range(0, self._shape[0], at_once):
            count = min(at_once, self._shape[0] - start)
            self._file.seek(4 * self._plane * start)
            yield np.fromfile(self._file, np.float32, count * self._plane).reshape(count, *self._shape[1:])

    def slices(self) -> Iterator[NDArray[np.float32]]:
        """Yield the (Y, X) slices along Z; where Z is not the slowest axis the file is read several times."""
        order = [self._axes.index(letter) for letter in "ZYX"]
        along = self._axes.index("Z")
        if along == 0:
            for block in self.blocks():
                yield from block.transpose(order)
            return
        depth = self._shape[along]
        at_once = max(1, _BLOCK_BYTES // (4 * self._plane * self._shape[0] // depth))
        for start in range(0, depth, at_once):
            part = tuple(slice(start, start + at_once) if axis == along else slice(None) for axis in range(3))
            gathered = np.concatenate([block[part] for block in self.blocks()])
            yield from gathered.transpose(order)

    def _error(self, error: OSError) -> FileError:
        return FileError(f"cannot write an intermediate volume into '{self._folder}': {error.strerror or error}")
