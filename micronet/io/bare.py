"""Bare voxels without geometry: NumPy arrays (.npy, without pickle), and files without header (.raw)."""

from __future__ import annotations

import math
import os
import tokenize
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import atomic_path
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, build_volume, check_dtype, from_file, native, one_line, unstated_axes
from micronet.io.recording import Recording, open_flat_recording, recording_axes
from micronet.io.source import Source
from micronet.io.stack import FlatData, Stack, open_flat
from micronet.io.units import without_spacing

__all__ = ["open_recording", "open_stack", "read", "write"]

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 1 << 16


class _Layout(NamedTuple):
    """Where the voxels lie: first byte, sizes, type, and whether the first axis is the fastest."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False


def read(source: Source, options: ReadOptions) -> Volume:
    """Read a file whose axes are `options.axes`, by default (Z, Y, X)."""
    path = source.path
    start, shape, dtype, fortran_order = _layout(source, options)
    with source.open() as stream:
        stream.seek(start)
        array = from_file(stream, dtype, shape[::-1] if fortran_order else shape, path)
    array, notes = unstated_axes(array.T if fortran_order else array, options, path)
    return build_volume(path, array, notes=(*notes, *_no_spacing(path, options)))


def shape_of(source: Source) -> tuple[int, ...]:
    """Return the shape of a .npy by its header, slowest axis first."""
    _, shape, _, fortran_order = _layout(source, ReadOptions())
    return shape[::-1] if fortran_order else shape


def read_array(source: Source) -> NDArray[Any]:
    """Read a .npy of any number of axes."""
    start, shape, dtype, fortran_order = _layout(source, ReadOptions())
    with source.open() as stream:
        stream.seek(start)
        array = from_file(stream, dtype, shape[::-1] if fortran_order else shape, source.path)
    return native(array.T if fortran_order else array)


def open_stack(source: Source, options: ReadOptions) -> Stack:
    """Open such a file to read it plane by plane."""
    start, shape, dtype, fortran_order = _layout(source, options)
    notes = _no_spacing(source.path, options)
    return open_flat(source, start, shape, dtype, options, fortran_order=fortran_order, notes=notes)


def open_recording(source: Source, options: ReadOptions) -> Recording:
    """Open such a file with an axis of time."""
    path = source.path
    start, shape, dtype, fortran_order = _layout(source, options)
    axes = recording_axes(shape, options, path)
    if fortran_order:
        shape, axes = shape[::-1], axes[::-1]
    return open_flat_recording(source, shape, axes, dtype, FlatData(path, start), notes=_no_spacing(path, options))


def write(path: Path, volume: Volume) -> None:
    """Write the voxels alone, (Z, Y, X) in C order; a .raw is little-endian."""
    array = volume.array
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if _has_header(path):
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        else:
            np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tofile(stream)


def _has_header(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _layout(source: Source, options: ReadOptions) -> _Layout:
    if not _has_header(source.path):
        return _Layout(0, *_told(source, options))
    with source.open() as stream:
        return _header(stream, source.path)


def _told(source: Source, options: ReadOptions) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape, slowest axis first, and voxel type, as the person says and the size of the file bears out."""
    path = source.path
    if options.shape is None or options.dtype is None:
        raise InputError(
            f"'{path}' has no header: give its shape, slowest axis first, and voxel type {setting('shape', 'dtype')}"
        )
    try:
        shape = tuple(int(length) for length in options.shape)
        if any(length < 1 for length in shape):
            raise ValueError(shape)
    except (TypeError, ValueError):
        raise InputError(
            f"shape {options.shape} {setting('shape')}: expected positive whole numbers, slowest axis first"
        ) from None
    try:
        dtype = np.dtype(options.dtype)
    except (TypeError, ValueError):
        raise InputError(
            f"voxel type '{options.dtype}' {setting('dtype')}: expected a voxel type such as uint8, uint16, float32"
        ) from None
    check_dtype(dtype, path)
    if options.byteorder not in (None, "little", "big"):
        raise InputError(f"byteorder {options.byteorder!r}: expected 'little' or 'big'")
    if options.byteorder is not None or dtype.byteorder == "=":
        dtype = dtype.newbyteorder(">" if options.byteorder == "big" else "<")
    expected, present = math.prod(shape) * dtype.itemsize, source.size
    if present != expected:
        raise FileError(
            f"'{path}' holds {present:,} bytes, but the shape {shape} of {dtype.name} takes {expected:,} "
            f"{setting('shape', 'dtype')}"
        )
    return shape, dtype


def _header(stream: BinaryIO, path: Path) -> _Layout:
    """Read the header of a .npy."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise FileError(f"'{path}' is not a .npy file: it does not start with the NumPy magic")
    stream.seek(0)
    try:
        if np.lib.format.read_magic(stream) == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            # Versions 2 and 3 have longer headers, and other letters in the names of records.
            length = int.from_bytes(stream.read(4), "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"it claims {length:,} bytes")
            stream.seek(-4, os.SEEK_CUR)
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    except (ValueError, TypeError, SyntaxError, EOFError, tokenize.TokenError, RecursionError, MemoryError) as error:
        # Python's parser calls brackets that are too deep a lack of memory; a header is 64 KiB at most.
        raise FileError(f"'{path}': its .npy header cannot be read ({one_line(error)})") from error
    check_dtype(dtype, path)
    if any(not 0 <= length < 1 << 40 for length in shape):
        raise FileError(f"'{path}': its .npy header claims the shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    present = os.fstat(stream.fileno()).st_size - stream.tell()
    if present != expected:
        raise FileError(f"'{path}': its header claims {expected:,} bytes of voxels, the file holds {present:,}")
    return _Layout(stream.tell(), shape, dtype, fortran_order)


def _no_spacing(path: Path, options: ReadOptions) -> tuple[str, ...]:
    return () if options.spacing_um is not None else (without_spacing(path.suffix.lower()),)
