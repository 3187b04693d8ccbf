"""NumPy arrays (.npy): the bare array, without geometry and without pickle."""

from __future__ import annotations

import math
import os
import tokenize
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from micronet.errors import FileError
from micronet.io.atomic import atomic_path
from micronet.io.checks import ReadOptions, build_volume, check_dtype, from_file, one_line, unstated_axes
from micronet.io.recording import Recording, open_flat_recording, recording_axes
from micronet.io.stack import Stack, open_flat
from micronet.io.units import without_spacing
from micronet.volume import Volume

__all__ = ["open_recording", "open_stack", "read", "write"]

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 1 << 16


def read(path: Path, options: ReadOptions) -> Volume:
    """Read a .npy whose axes are `options.axes`, by default (Z, Y, X)."""
    with path.open("rb") as stream:
        shape, fortran_order, dtype = _header(stream, path)
        array = from_file(stream, dtype, shape[::-1] if fortran_order else shape, path)
    array = array.T if fortran_order else array
    array, notes = unstated_axes(array, options, path)
    return build_volume(path, array, notes=(*notes, *_no_spacing(options)))


def open_stack(path: Path, options: ReadOptions) -> Stack:
    """Open such a file to read it plane by plane."""
    with path.open("rb") as stream:
        shape, fortran_order, dtype = _header(stream, path)
        start = stream.tell()
    return open_flat(path, start, shape, dtype, options, fortran_order=fortran_order, notes=_no_spacing(options))


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open such a file with an axis of time."""
    with path.open("rb") as stream:
        shape, fortran_order, dtype = _header(stream, path)
        start = stream.tell()
    axes = recording_axes(shape, options, path)
    if fortran_order:
        shape, axes = shape[::-1], axes[::-1]
    return open_flat_recording(path, shape, axes, dtype, start=start, notes=_no_spacing(options))


def write(path: Path, volume: Volume) -> None:
    """Write the bare array."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(volume.array), allow_pickle=False)


def _header(stream: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the first axis is the fastest, and voxel type; `stream` is left at the first voxel."""
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
    present = path.stat().st_size - stream.tell()
    if present != expected:
        raise FileError(f"'{path}': its header claims {expected:,} bytes of voxels, the file holds {present:,}")
    return shape, fortran_order, dtype


def _no_spacing(options: ReadOptions) -> tuple[str, ...]:
    return () if options.spacing_um is not None else (without_spacing(".npy"),)
