"""NumPy arrays (.npy): the bare array, without geometry and without pickle."""

from __future__ import annotations

import math
import tokenize
from pathlib import Path

import numpy as np

from micronet.errors import FileError
from micronet.io.atomic import atomic_path
from micronet.io.checks import ReadOptions, build_volume, check_dtype, one_line, unstated_axes
from micronet.io.units import without_spacing
from micronet.volume import Volume

__all__ = ["read", "write"]

_MAGIC = b"\x93NUMPY"


def read(path: Path, options: ReadOptions) -> Volume:
    """Read a .npy whose axes are `options.axes`, by default (Z, Y, X)."""
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise FileError(f"'{path}' is not a .npy file: it does not start with the NumPy magic")
        stream.seek(0)
        try:
            if np.lib.format.read_magic(stream) == (1, 0):
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                # Versions 2 and 3 have longer headers, and other letters in the names of records.
                shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        except (ValueError, TypeError, SyntaxError, EOFError, tokenize.TokenError) as error:
            raise FileError(f"'{path}': its .npy header cannot be read ({one_line(error)})") from error
        check_dtype(dtype, path)
        if any(length < 0 for length in shape):
            raise FileError(f"'{path}': its .npy header claims the shape {shape}")
        expected = math.prod(shape) * dtype.itemsize
        present = path.stat().st_size - stream.tell()
        if present != expected:
            raise FileError(f"'{path}': its header claims {expected:,} bytes of voxels, the file holds {present:,}")
        data = np.fromfile(stream, dtype)
    array = data.reshape(shape, order="F" if fortran_order else "C")
    array, notes = unstated_axes(array, options, path)
    if options.spacing_um is None:
        notes = (*notes, without_spacing(".npy"))
    return build_volume(path, array, notes=notes)


def write(path: Path, volume: Volume) -> None:
    """Write the bare array."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(volume.array), allow_pickle=False)
