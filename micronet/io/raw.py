"""Headerless voxels (.raw), whose shape and type the person must give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from micronet.errors import FileError, InputError
from micronet.io.atomic import atomic_path
from micronet.io.checks import ReadOptions, build_volume, check_dtype, from_file, unstated_axes
from micronet.io.recording import Recording, open_flat_recording, recording_axes
from micronet.io.stack import Stack, open_flat
from micronet.io.units import without_spacing
from micronet.volume import Volume

__all__ = ["open_recording", "open_stack", "read", "write"]


def read(path: Path, options: ReadOptions) -> Volume:
    """Read a file that holds exactly the voxels of `shape` and `dtype`, slowest axis first."""
    shape, dtype = _layout(path, options)
    array, notes = unstated_axes(from_file(path, dtype, shape, path), options, path)
    return build_volume(path, array, notes=(*notes, *_no_spacing(options)))


def open_stack(path: Path, options: ReadOptions) -> Stack:
    """Open such a file to read it plane by plane."""
    shape, dtype = _layout(path, options)
    return open_flat(path, 0, shape, dtype, options, notes=_no_spacing(options))


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open such a file with an axis of time."""
    shape, dtype = _layout(path, options)
    return open_flat_recording(path, shape, recording_axes(shape, options, path), dtype, notes=_no_spacing(options))


def write(path: Path, volume: Volume) -> None:
    """Write the voxels alone, (Z, Y, X) in C order, little-endian."""
    array = volume.array
    with atomic_path(path) as temporary:
        np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tofile(temporary)


def _layout(path: Path, options: ReadOptions) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape, slowest axis first, and voxel type, which the size of the file bears out."""
    if options.shape is None or options.dtype is None:
        raise InputError(f"'{path}' has no header: give its shape and voxel type (--shape Z,Y,X --dtype uint16)")
    try:
        shape = tuple(int(length) for length in options.shape)
        if any(length < 1 for length in shape):
            raise ValueError(shape)
    except (TypeError, ValueError):
        raise InputError(f"--shape {options.shape}: expected positive whole numbers, slowest axis first") from None
    try:
        dtype = np.dtype(options.dtype)
    except (TypeError, ValueError):
        raise InputError(f"--dtype {options.dtype}: expected a voxel type such as uint8, uint16, float32") from None
    check_dtype(dtype, path)
    if options.byteorder not in (None, "little", "big"):
        raise InputError(f"byteorder {options.byteorder!r}: expected 'little' or 'big'")
    if options.byteorder is not None or dtype.byteorder == "=":
        dtype = dtype.newbyteorder(">" if options.byteorder == "big" else "<")
    expected, present = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if present != expected:
        raise FileError(
            f"'{path}' holds {present:,} bytes, but the shape {shape} of {dtype.name} takes {expected:,} "
            "(--shape, --dtype)"
        )
    return shape, dtype


def _no_spacing(options: ReadOptions) -> tuple[str, ...]:
    return () if options.spacing_um is not None else (without_spacing(".raw"),)
