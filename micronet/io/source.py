"""An input that is open: header, hash and voxels come from one opening of each of its files, so from the same bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar, cast

from micronet.core.errors import FileError
from micronet.core.provenance import sha256_of
from micronet.io.checks import is_store, reading, regular_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Input", "Source", "Sources", "opened"]

_Asked = ParamSpec("_Asked")
_Read = TypeVar("_Read")


class Source:
    """A volume or a mask whose files stay open until it is closed; what reads a path takes it too.

    Parameters
    ----------
    path : path-like
        The file, or the folder of an OME-Zarr, whose files are never kept open. Others that belong to a file, such as
        the voxels of a detached NRRD, are opened when they are asked for.

    Raises
    ------
    FileError
        If there is no file of this name that can be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.is_store = is_store(path)
        self.path = Path(path) if self.is_store else regular_file(path)
        self._files: dict[Path, _Open] = {}

    def open(self, file: Path | None = None) -> BinaryIO:
        """Return a stream of the file, or of one that belongs to it, from the beginning; each keeps its own place."""
        raw = _View(self._opened(file))
        return cast(BinaryIO, io.BufferedReader(raw))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._opened().stream.fileno()).st_size

    def sha256(self, files: Sequence[Path]) -> str:
        """Return the SHA-256 of files that belong to it, one after the other, as `core.provenance.sha256_of` does."""
        found = sha256_of(*files) if self.is_store else sha256_of(*files, opened=self.open)
        self.check_unchanged()
        return found

    def check_unchanged(self) -> None:
        """Raise FileError where one of the files has been written to since it was opened."""
        for file, found in self._files.items():
            if _state(found.stream) != found.state:
                raise FileError(f"'{file}' was changed while it was read; start again once it is complete")

    def checked(self, read: Callable[_Asked, _Read]) -> Callable[_Asked, _Read]:
        """Return `read` with a `check_unchanged` after it."""

        def read_and_check(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Read:
            found = read(*args, **kwargs)
            self.check_unchanged()
            return found

        return read_and_check

    def close(self) -> None:
        """Close the files."""
        for found in self._files.values():
            found.stream.close()
        self._files.clear()

    def _opened(self, file: Path | None = None) -> _Open:
        file = self.path if file is None else file
        if file not in self._files:
            with reading(file):
                self._files[file] = _Open(file)
        return self._files[file]


#: What a volume or a mask is read from: its path, or what shares the opening with others.
Input = str | os.PathLike[str] | Source


@contextmanager
def opened(path: Input) -> Iterator[Source]:
    """Give an open source, which is closed after the block unless it was open before; FileError if it was changed."""
    source = path if isinstance(path, Source) else Source(path)
    try:
        yield source
        source.check_unchanged()
    finally:
        if source is not path:
            source.close()


class Sources:
    """All that one job reads, each file opened once whatever it is read for; used in a ``with`` block."""

    def __init__(self) -> None:
        self._sources: dict[Path, Source] = {}

    def of(self, path: Path) -> Source:
        """Return the source of a file; FileError where there is none that can be opened."""
        if path not in self._sources:
            self._sources[path] = Source(path)
        return self._sources[path]

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self._sources.values():
            source.close()


class _Open:
    """A file with its size and time when it was opened."""

    def __init__(self, file: Path) -> None:
        self.stream = io.FileIO(file)
        self.state = _state(self.stream)


def _state(stream: io.FileIO) -> tuple[int, int]:
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


class _View(io.RawIOBase):
    """Reads an open file from a place of its own; to close it leaves the file open."""

    mode = "rb"

    def __init__(self, file: _Open) -> None:
        self._file, self._at = file.stream, 0
        self.name = str(file.stream.name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = self._at + offset, os.SEEK_SET
        self._at = self._file.seek(offset, whence)
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._file.seek(self._at)
        count = self._file.readinto(buffer)
        self._at += count or 0
        return count
