"""Headerless voxels (.raw), whose shape and type the person must give."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from micronet.errors import FileError, InputError
from micronet.io.atomic import atomic_path
from micronet.io.checks import ReadOptions, build_volume, check_dtype, unstated_axes
from micronet.io.units import without_spacing
from micronet.volume import Volume

__all__ = ["read", "write"]


def read(path: Path, options: ReadOptions) -> Volume:
    """Read a file that holds exactly the voxels of `shape` and `dtype`, slowest axis first."""
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
    array, notes = unstated_axes(np.fromfile(path, dtype).reshape(shape), options, path)
    if options.spacing_um is None:
        notes = (*notes, without_spacing(".raw"))
    return build_volume(path, array, notes=notes)


def write(path: Path, volume: Volume) -> None:
    """Write the voxels alone, (Z, Y, X) in C order, little-endian."""
    array = volume.array
    with atomic_path(path) as temporary:
        np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tofile(temporary)
