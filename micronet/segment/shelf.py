"""Where the arrays lie that the steps of a segmentation in tiles hand to each other, by name.

`LocalShelf` is that of one process: in memory, or in files without a name that vanish with it. `SharedShelf` is a
folder that several processes see, and that outlives them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from micronet.io.pieces import PieceArray, ScratchPieces

__all__ = ["LocalShelf", "SharedShelf", "Shelf"]

# Voxels along each axis of the pieces of an array that is copied.
_PUT = 128


class Shelf(Protocol):
    """Arrays by name, of which boxes are read and written."""

    def make(self, name: str, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike = np.float32) -> None:
        """Make an array; it is written in whole pieces of these sides."""

    def __getitem__(self, name: str, /) -> Any:
        """Return an array that was made."""

    def put(self, name: str, array: Any) -> None:
        """Take an array that is there already."""

    def holds(self, name: str, box: tuple[slice, ...]) -> bool:
        """Return whether a box was written by whoever was interrupted."""

    def drop(self, name: str) -> None:
        """Give up an array, if there is one of that name."""


class LocalShelf:
    """Arrays of one process; a context manager.

    Parameters
    ----------
    folder : Path
        Where there is room for what does not lie in memory.
    in_memory : collection of str
        The names of what does; numbers at their ends (``mask.2``) do not count.
    """

    def __init__(self, folder: Path, in_memory: Collection[str]) -> None:
        self._folder, self._in_memory = folder, in_memory
        self._arrays: dict[str, Any] = {}
        self._made: dict[str, Any] = {}
        self._spare: list[tuple[Any, ScratchPieces]] = []

    def __enter__(self) -> LocalShelf:
        return self

    def __exit__(self, *exception: object) -> None:
        for array in [*self._arrays.values(), *(array for _, array in self._spare)]:
            if isinstance(array, ScratchPieces):
                array.close()

    def make(self, name: str, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike = np.float32) -> None:
        """Make an array; a file that was given up is written over, whose room on the disk is there already."""
        if name.partition(".")[0] in self._in_memory:
            self._arrays[name] = np.empty(shape, dtype)
            return
        made = (tuple(shape), tuple(pieces), np.dtype(dtype))
        fitting = [one for one in self._spare if one[0] == made]
        if fitting:
            self._spare.remove(fitting[0])
        self._arrays[name] = fitting[0][1] if fitting else ScratchPieces(self._folder, shape, pieces, dtype)
        self._made[name] = made

    def put(self, name: str, array: Any) -> None:
        """Take an array that is there already."""
        self._arrays[name] = array

    def __getitem__(self, name: str, /) -> Any:
        return self._arrays[name]

    def holds(self, name: str, box: tuple[slice, ...]) -> bool:
        """Return False: its arrays end with the process."""
        return False

    def drop(self, name: str) -> None:
        """Give up an array; its file is kept for the next one."""
        array = self._arrays.pop(name, None)
        if isinstance(array, ScratchPieces):
            self._spare.append((self._made[name], array))

    def take(self, name: str) -> Any:
        """Return an array that outlives the shelf; whoever takes it closes it."""
        return self._arrays.pop(name)


class SharedShelf:
    """Arrays in a folder that several processes see.

    Parameters
    ----------
    folder : Path
        It exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[str, PieceArray] = {}

    def make(self, name: str, shape: Sequence[int], pieces: Sequence[int], dtype: DTypeLike = np.float32) -> None:
        """Make an array; what was there of that name is gone."""
        self.drop(name)
        self._opened[name] = PieceArray.make(self._folder / name, shape, pieces, dtype)

    def put(self, name: str, array: Any) -> None:
        """Copy an array into the folder."""
        self.make(name, array.shape, (_PUT,) * array.ndim, array.dtype)
        for first in range(0, len(array), _PUT):  # what takes no memory, such as a broadcast, shall not do so at once
            self[name][first : first + _PUT] = array[first : first + _PUT]

    def __getitem__(self, name: str, /) -> PieceArray:
        if name not in self._opened:
            self._opened[name] = PieceArray(self._folder / name)
        return self._opened[name]

    def holds(self, name: str, box: tuple[slice, ...]) -> bool:
        """Return whether every piece of a box is there."""
        return self[name].holds(box)

    def drop(self, name: str) -> None:
        """Give up an array, and its room on the disk."""
        self._opened.pop(name, None)
        with contextlib.suppress(OSError):  # another process may still read it, and what is left goes with the folder
            shutil.rmtree(self._folder / name, ignore_errors=True)
