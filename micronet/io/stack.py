"""A volume on disk of which a few planes at a time are read, so that it may be larger than memory."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, clean_axes, one_line, reading, spatial_order, to_zyx, unstated_axes
from micronet.io.inflate import check_raw_size, open_encoded, read_bytes

__all__ = ["FilePlanes", "Stack", "build_grid", "open_flat"]

_PIECE = 4 << 20


@dataclass(frozen=True, eq=False)
class Stack:
    """A volume whose planes lie in files; used in a ``with`` block.

    Parameters
    ----------
    path : Path
        What the person named: a file, or a folder of images.
    files : tuple of Path
        What is read.
    grid : Volume
        Geometry, shape and voxel type, (Z, Y, X); its array is zeros that take no memory.
    axes : str
        The axes in the order of the files, slowest first, such as ``"ZYX"``.
    read : callable
        ``read(first, stop)`` gives the planes from `first` up to `stop` of the slowest axis, a 3-D array with its
        axes as in `axes`. FileError where they cannot be read. Packed files are read fastest in ascending order.
    close : callable
        Closes the files.
    """

    path: Path
    files: tuple[Path, ...]
    grid: Volume
    axes: str
    read: Callable[[int, int], NDArray[Any]]
    close: Callable[[], None] = lambda: None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along the axes in the order of the files."""
        slow, middle, fast = (self.grid.shape["ZYX".index(letter)] for letter in self.axes)
        return slow, middle, fast

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def build_grid(path: Path, shape: tuple[int, ...], axes: str, dtype: np.dtype[Any], **geometry: Any) -> Volume:
    """Return the `Stack.grid` of an array with these axes; those beside Z, Y and X must have length 1."""
    if 0 in shape:
        raise FileError(f"'{path}' has no voxels: its shape is {shape}")
    try:
        zeros = np.broadcast_to(np.zeros((), dtype.newbyteorder("=")), shape)
    except ValueError:  # more than an array can hold
        raise FileError(f"'{path}': its header claims the shape {shape}") from None
    zeros = to_zyx(zeros, axes, path)
    try:
        return Volume(zeros, **geometry)
    except InputError as error:
        raise FileError(f"'{path}': {error}") from error


def open_flat(
    path: Path,
    start: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: ReadOptions,
    *,
    fortran_order: bool = False,
    notes: tuple[str, ...] = (),
) -> Stack:
    """Open a file that holds a bare array from byte `start` to its end, whose axes it does not state."""
    _, stated = unstated_axes(np.broadcast_to(np.uint8(0), shape), options, path)
    axes = "ZYX" if options.axes is None else clean_axes(options.axes)
    grid = build_grid(path, shape, axes, dtype, notes=(*stated, *notes))
    if fortran_order:
        shape, axes = shape[::-1], axes[::-1]
    sizes = tuple(size for size, letter in zip(shape, axes, strict=True) if letter in "ZYX")
    planes = FilePlanes(path, start, sizes, dtype)
    return Stack(path, (path,), grid, spatial_order(axes), planes, planes.close)


class FilePlanes:
    """The planes of an array that lies in one file without a gap, raw, gzip or bzip2.

    Parameters
    ----------
    path : Path
        The file.
    start : int
        Where the data begins.
    skip : int
        Bytes of the unpacked data before the array.
    shape : tuple of 3 ints
        Slowest axis first.
    dtype : numpy dtype
        With its byte order.
    encoding : {"raw", "gzip", "bzip2"}
    exact : bool
        The array is all that the data holds after `skip`.

    Raises
    ------
    FileError
        If the file is too short, or `exact` and too long; for packed data when the last plane is read.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        skip: int = 0,
        encoding: str = "raw",
        exact: bool = True,
    ) -> None:
        self._path, self._start, self._skip, self._encoding = path, start, skip, encoding
        self._shape, self._dtype = shape, dtype
        self._plane_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._stream: BinaryIO = path.open("rb")
        self._source: IO[bytes] | None = None
        self._next = 0
        self._exact = exact
        if encoding == "raw" and exact:
            self._stream.seek(start)
            try:
                check_raw_size(self._stream, shape[0] * self._plane_bytes, path, skip)
            except FileError:
                self.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __call__(self, first: int, stop: int) -> NDArray[Any]:
        """Return the planes from `first` up to `stop`."""
        with reading(self._path):
            content = self._content(first, stop)
        return np.frombuffer(content, self._dtype).reshape(stop - first, *self._shape[1:])

    def _content(self, first: int, stop: int) -> bytearray:
        size = (stop - first) * self._plane_bytes
        if self._encoding == "raw":
            self._stream.seek(self._start + self._skip + first * self._plane_bytes)
            return self._exactly(self._stream, size)
        try:
            if self._source is None or first < self._next:
                self._stream.seek(self._start)
                self._source = open_encoded(self._stream, self._encoding)
                self._pass(self._source, self._skip)
                self._next = 0
            self._pass(self._source, (first - self._next) * self._plane_bytes)
            content = self._exactly(self._source, size)
            self._next = stop
            if stop == self._shape[0] and self._exact and self._source.read(1):
                raise FileError(f"'{self._path}' holds more voxels than its header claims")
        except FileError:
            raise
        except (EOFError, zlib.error, OSError) as error:
            raise FileError(
                f"'{self._path}' is damaged or cut short: its {self._encoding} data cannot be read ({one_line(error)})"
            ) from error
        return content

    def _exactly(self, source: IO[bytes], size: int) -> bytearray:
        content = read_bytes(source, size)
        if len(content) < size:
            raise FileError(f"'{self._path}' holds fewer voxels than its header claims")
        return content

    def _pass(self, source: IO[bytes], size: int) -> None:
        while size > 0:
            size -= len(self._exactly(source, min(size, _PIECE)))
