"""OME-Zarr: a folder with an image at several scales, in chunks. The library zarr is an extra, loaded for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, MicronetError
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, build_volume, check_axes, one_line, reading, spatial_order
from micronet.io.recording import Recording, recording_of
from micronet.io.source import Source
from micronet.io.stack import Stack, build_grid
from micronet.io.zarr_bounds import bounded_store
from micronet.io.zarr_metadata import ArrayMetadata, Image, image_of, labels_of
from micronet.io.zarr_write import write

__all__ = [
    "Level",
    "files_of",
    "labels_of",
    "library",
    "open_level",
    "open_recording",
    "open_stack",
    "read",
    "read_label",
    "write",
]


# Planes of one chunk's depth are kept as far as they take this.
_KEPT_BYTES = 512 << 20
# Chunks that are not stored cost nothing to whoever claims them: of more, one in so many must be there.
_EMPTY_BYTES, _EMPTY_CHUNKS, _EMPTY = 256 << 20, 10_000, 1000


def library() -> Any:
    """Return the module zarr; InputError, which says what to install, where it is missing or too old."""
    try:
        found = version("zarr")
    except PackageNotFoundError:
        raise InputError("OME-Zarr needs the package zarr: pip install 'zarr>=3.1'") from None
    if int(found.split(".")[0]) < 3:
        raise InputError(f"OME-Zarr needs zarr 3 or later, {found} is installed: pip install 'zarr>=3.1'")
    return import_module("zarr")


class Level:
    """The voxels of one level of an image, of which boxes are read, (Z, Y, X).

    Parameters
    ----------
    image : Image
        What its metadata say. Axes beside Z, Y and X have length 1.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.grid = build_grid(image.path, image.array.shape, image.axes, image.array.dtype, **_told(image))
        self._array = _opened(image.array, image.path)
        self._kept: tuple[int, NDArray[Any]] | None = None
        self._order = [spatial_order(image.axes).index(letter) for letter in "ZYX"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (Z, Y, X)."""
        return self.grid.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, in the byte order of this machine."""
        return self.grid.array.dtype

    @property
    def pieces(self) -> tuple[int, int, int]:
        """Sides (Z, Y, X) of what lies in one file."""
        z, y, x = (self.image.array.pieces[self.image.axes.index(letter)] for letter in "ZYX")
        return z, y, x

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return a box; FileError where a chunk of it is damaged."""
        inside = dict(zip("ZYX", box, strict=True))
        with unpacking(self.image.path):
            found = self._array[tuple(inside.get(letter, slice(0, 1)) for letter in self.image.axes)]
        found = np.asarray(found).astype(self.dtype, copy=False)
        sizes = [n for n, letter in zip(found.shape, self.image.axes, strict=True) if letter in "ZYX"]
        return found.reshape(sizes).transpose(self._order)

    def planes(self, first: int, stop: int) -> NDArray[Any]:
        """Return planes along the slowest axis of the array, axes as it has them.

        The chunks that they lie in are unpacked once as long as planes are asked for in their order, and kept until
        then where they are not too large.
        """
        deep = self.image.array.pieces[self.image.axes.index(spatial_order(self.image.axes)[0])]
        plane = math.prod(self.shape) // self._depth * self.dtype.itemsize
        if deep * plane > _KEPT_BYTES or stop - first > deep:
            return self._slab(first, stop)
        pieces = []
        while first < stop:
            begin = first // deep * deep
            if self._kept is None or self._kept[0] != begin:
                self._kept = begin, self._slab(begin, min(begin + deep, self._depth))
            end = min(stop, begin + deep)
            pieces.append(self._kept[1][first - begin : end - begin])
            first = end
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _slab(self, first: int, stop: int) -> NDArray[Any]:
        axes = spatial_order(self.image.axes)
        box = tuple(slice(first, stop) if letter == axes[0] else slice(None) for letter in "ZYX")
        return self[box].transpose(["ZYX".index(letter) for letter in axes])

    @property
    def _depth(self) -> int:
        return self.shape["ZYX".index(spatial_order(self.image.axes)[0])]


def open_level(path: Path, level: int = 0, group: Path | None = None) -> Level:
    """Open a level of an image; errors as `micronet.io.read_volume`."""
    library()
    image = image_of(path, level, group)
    return Level(image)


def open_stack(source: Source, options: ReadOptions) -> Stack:
    """Open an OME-Zarr of which planes are read when they are asked for."""
    level = _level(source, options)
    return Stack(source.path, level.image.files, level.grid, spatial_order(level.image.axes), level.planes)


def read(source: Source, options: ReadOptions) -> Volume:
    """Read a level of an OME-Zarr."""
    level = _level(source, options)
    grid = level.grid
    return build_volume(source.path, level[(slice(None),) * 3], **_geometry_of(grid))


def read_label(source: Source, name: str, level: int = 0) -> Volume:
    """Read a level of one of the labels of an image."""
    found = open_level(source.path, level, source.path / "labels" / name)
    with reading(source.path):
        return build_volume(source.path, found[(slice(None),) * 3], **_geometry_of(found.grid))


def files_of(source: Source, level: int = 0) -> tuple[Path, ...]:
    """Return the files of a level, and the metadata of its image."""
    return image_of(source.path, level).files


def open_recording(source: Source, options: ReadOptions) -> Recording:
    """Open an OME-Zarr with an axis of time, of which one time point at a time is read."""
    library()
    image = image_of(source.path, options.level)
    check_axes(options, image.axes, source.path)
    array = _opened(image.array, source.path)

    def load(number: int) -> NDArray[Any]:
        with unpacking(source.path):
            part = tuple(slice(number, number + 1) if letter == "T" else slice(None) for letter in image.axes)
            return np.asarray(array[part]).squeeze(image.axes.index("T"))

    shape, dtype = image.array.shape, image.array.dtype
    return recording_of(
        source.path, shape, image.axes, dtype, load, lambda: None, interval_s=image.interval_s, **_told(image)
    )


def _level(source: Source, options: ReadOptions) -> Level:
    level = open_level(source.path, options.level)
    check_axes(options, level.image.axes, source.path)
    return level


def _told(image: Image) -> dict[str, Any]:
    """Return the geometry, with a note where chunks are missing."""
    shape, pieces = image.array.shape, image.array.pieces
    count = math.prod(-(-length // piece) for length, piece in zip(shape, pieces, strict=True))
    names = {"zarr.json", ".zarray", ".zattrs"}
    there = sum(1 for file in image.array.folder.rglob("*") if file.is_file() and file.name not in names)
    notes = image.geometry["notes"]
    size, held = math.prod(shape) * image.array.dtype.itemsize, there * math.prod(pieces) * image.array.dtype.itemsize
    if size > max(_EMPTY_BYTES, _EMPTY * held) or count > max(_EMPTY_CHUNKS, _EMPTY * there):
        raise FileError(f"'{image.path}': its metadata claim the shape {shape}, of {count:,} chunks it has {there:,}")
    if there < count:
        notes = (*notes, f"{count - there:,} of {count:,} chunks are not stored: they are read as {image.array.fill}")
    return image.geometry | {"notes": notes}


def _geometry_of(grid: Volume) -> dict[str, Any]:
    return {name: getattr(grid, name) for name in ("directions", "origin", "space", "units", "notes", "units_assumed")}


def _opened(array: ArrayMetadata, path: Path) -> Any:
    zarr = library()
    with unpacking(path):
        return zarr.open_array(bounded_store(array.folder, array.packing), mode="r", zarr_format=array.zarr_format)


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn whatever a codec or the library raises into a FileError that names the store."""
    try:
        yield
    except (MicronetError, MemoryError):
        raise
    except Exception as error:  # each codec has its own: RuntimeError, ValueError, OSError, zlib.error
        raise FileError(f"'{path}' is damaged or cut short: a chunk cannot be read ({one_line(error)})") from error
