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
from micronet.core.provenance import sha256_of
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, clean_axes, one_line, reading, spatial_order, to_zyx, unstated_axes
from micronet.io.inflate import check_raw_size, open_encoded, read_bytes
from micronet.io.source import Source

__all__ = ["FilePlanes", "FlatData", "Stack", "build_grid", "open_flat"]

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
    source : Source, optional
        What the planes are read from; None for a folder, whose images are opened one after the other.
    """

    path: Path
    files: tuple[Path, ...]
    grid: Volume
    axes: str
    read: Callable[[int, int], NDArray[Any]]
    close: Callable[[], None] = lambda: None
    source: Source | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along the axes in the order of the files."""
        slow, middle, fast = (self.grid.shape["ZYX".index(letter)] for letter in self.axes)
        return slow, middle, fast

    def sha256(self) -> str:
        """Return the SHA-256 of the files, one after the other; FileError when one cannot be read."""
        return sha256_of(*self.files) if self.source is None else self.source.sha256(self.files)

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
    source: Source,
    start: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: ReadOptions,
    *,
    fortran_order: bool = False,
    notes: tuple[str, ...] = (),
) -> Stack:
    """Open a file that holds a bare array from byte `start` to its end, whose axes it does not state."""
    path = source.path
    _, stated = unstated_axes(np.broadcast_to(np.uint8(0), shape), options, path)
    axes = "ZYX" if options.axes is None else clean_axes(options.axes)
    grid = build_grid(path, shape, axes, dtype, notes=(*stated, *notes))
    if fortran_order:
        shape, axes = shape[::-1], axes[::-1]
    sizes = tuple(size for size, letter in zip(shape, axes, strict=True) if letter in "ZYX")
    planes = FilePlanes(source, FlatData(path, start), sizes, dtype)
    return Stack(path, (path,), grid, spatial_order(axes), planes, planes.close)


@dataclass(frozen=True)
class FlatData:
    """Where an array lies without a gap.

    Parameters
    ----------
    path : Path
        The file.
    start : int
        Where the data begins.
    skip : int
        Bytes of the unpacked data before the array.
    encoding : {"raw", "gzip", "bzip2"}
    exact : bool
        The array is all that the data holds after `skip`.
    """

    path: Path
    start: int = 0
    skip: int = 0
    encoding: str = "raw"
    exact: bool = True


class FilePlanes:
    """The planes of an array that lies in one file without a gap.

    Parameters
    ----------
    source : Source
        What the file belongs to.
    data : FlatData
        Where the array lies.
    shape : tuple of 3 ints
        Slowest axis first.
    dtype : numpy dtype
        With its byte order.

    Raises
    ------
    FileError
        If the file is too short, or `exact` and too long; for packed data when the last plane is read.
    """

    def __init__(self, source: Source, data: FlatData, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._data, self._shape, self._dtype = data, shape, dtype
        self._plane_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._stream: BinaryIO = source.open(data.path)
        self._unpacked: IO[bytes] | None = None
        self._next = 0
        if data.encoding == "raw" and data.exact:
            self._stream.seek(data.start)
            try:
                check_raw_size(self._stream, shape[0] * self._plane_bytes, data.path, data.skip)
            except FileError:
                self.close()
                raise

    def close(self) -> None:
        """Read no more; the file stays open."""
        self._stream.close()

    def __call__(self, first: int, stop: int) -> NDArray[Any]:
        """Return the planes from `first` up to `stop`."""
        with reading(self._data.path):
            content = self._content(first, stop)
        return np.frombuffer(content, self._dtype).reshape(stop - first, *self._shape[1:])

    def _content(self, first: int, stop: int) -> bytearray:
        data, size = self._data, (stop - first) * self._plane_bytes
        if data.encoding == "raw":
            self._stream.seek(data.start + data.skip + first * self._plane_bytes)
            return self._exactly(self._stream, size)
        try:
            if self._unpacked is None or first < self._next:
                self._stream.seek(data.start)
                self._unpacked = open_encoded(self._stream, data.encoding)
                self._pass(self._unpacked, data.skip)
                self._next = 0
            self._pass(self._unpacked, (first - self._next) * self._plane_bytes)
            content = self._exactly(self._unpacked, size)
            self._next = stop
            if stop == self._shape[0] and data.exact and self._unpacked.read(1):
                raise FileError(f"'{data.path}' holds more voxels than its header claims")
        except FileError:
            raise
        except (EOFError, zlib.error, OSError) as error:
            raise FileError(
                f"'{data.path}' is damaged or cut short: its {data.encoding} data cannot be read ({one_line(error)})"
            ) from error
        return content

    def _exactly(self, source: IO[bytes], size: int) -> bytearray:
        content = read_bytes(source, size)
        if len(content) < size:
            raise FileError(f"'{self._data.path}' holds fewer voxels than its header claims")
        return content

    def _pass(self, source: IO[bytes], size: int) -> None:
        while size > 0:
            size -= len(self._exactly(source, min(size, _PIECE)))
