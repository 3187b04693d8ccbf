"""The writer of NRRD volumes: attached (.nrrd) and detached (.nhdr), raw, gzip or bzip2, whole or plane by plane."""

from __future__ import annotations

import bz2
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError
from micronet.core.files import atomic_path
from micronet.core.volume import Volume
from micronet.io.checks import voxel_bytes
from micronet.io.nrrd_geometry import geometry_fields, space_of
from micronet.io.nrrd_header import ENCODINGS, TYPES, NrrdHeader, format_whole, header_text

__all__ = ["write", "write_array", "write_planes"]

_DATA_SUFFIX = {"raw": ".raw", "gzip": ".raw.gz", "bzip2": ".raw.bz2"}

#: Fields that stay true of another array on the same grid.
_CARRIED = ("content", "measurement frame", "centerings", "labels", "thicknesses")

# Level 2 of zlib: on masks and probabilities a few times faster than the default 6, files a little larger.
_GZIP_LEVEL = 2
_PIECE = 4 << 20


def write(path: Path, volume: Volume, planes: Iterable[NDArray[Any]] | None = None) -> None:
    """Write a volume with its geometry, and what of its NRRD header is true of any array on its grid.

    With `planes` the voxels come from there, in pieces along Z, and the volume's array only tells shape and type.

    The encoding of the source file is kept, gzip where there is none. Fields that describe the values (``old
    min``, ``sample units``) and the segments of a segmentation are not carried on.
    """
    fields = geometry_fields(volume)
    pairs: dict[str, str] = {}
    encoding = "gzip"
    source = volume.header.get("nrrd")
    if isinstance(source, NrrdHeader):
        encoding = ENCODINGS[source.text("encoding").lower()]
        same_axes = source.integers("sizes") == list(reversed(volume.shape)) and space_of(source) == volume.space
        carried = _CARRIED if same_axes else ("content",)
        fields |= {name: source.fields[name] for name in carried if name in source.fields}
        pairs |= {key: text for key, text in source.pairs.items() if not key.startswith("Segment")}
    if planes is None:
        write_array(path, volume.array, fields, pairs, encoding)
    else:
        write_planes(path, planes, volume.shape, volume.array.dtype, fields, pairs, encoding)


def write_array(
    path: Path,
    array: NDArray[Any],
    fields: Mapping[str, str],
    pairs: Mapping[str, str],
    encoding: str = "gzip",
) -> None:
    """Write an array (axes slowest first) under a header; for .nhdr the voxels go to a second file beside it.

    Raises
    ------
    FileError
        If NRRD has no name for the voxel type, or the file cannot be written.
    """
    array = np.ascontiguousarray(array.astype(np.uint8) if array.dtype == bool else array)
    write_planes(path, [array], array.shape, array.dtype, fields, pairs, encoding)


def write_planes(
    path: Path,
    planes: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fields: Mapping[str, str],
    pairs: Mapping[str, str],
    encoding: str = "gzip",
) -> None:
    """Write an array that comes in pieces along its slowest axis; `shape` and `dtype` are those of the whole."""
    code = dtype.str[1:]
    if code not in TYPES:
        raise FileError(
            f"cannot write '{path}': NRRD has no voxels of type {dtype}; "
            "convert to bool, an integer of 8 to 64 bits, float32 or float64"
        )
    big = dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big")
    fields = dict(fields) | {
        "type": TYPES[code][0],
        "dimension": format_whole([len(shape)]),
        "sizes": format_whole(shape[::-1]),
        "encoding": encoding,
    }
    if dtype.itemsize > 1:
        fields["endian"] = "big" if big else "little"
    if path.suffix.lower() != ".nhdr":
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            stream.write(header_text(fields, pairs, path).encode() + b"\n")
            _deflate(stream, planes, encoding)
        return
    data_path = path.with_suffix(_DATA_SUFFIX[encoding])
    if not data_path.name.isprintable():
        raise FileError(f"cannot write '{path}': a header cannot name '{data_path.name}'; write .nrrd instead")
    fields["data file"] = data_path.name
    # The inner file gets its name first: a header never stands beside voxels that are not there yet.
    with atomic_path(path) as temporary, atomic_path(data_path) as data_temporary:
        temporary.write_text(header_text(fields, pairs, path), encoding="utf-8", newline="\n")
        with data_temporary.open("wb") as stream:
            _deflate(stream, planes, encoding)


def _deflate(stream: BinaryIO, planes: Iterable[NDArray[Any]], encoding: str) -> None:
    if encoding == "raw":
        for plane in planes:
            stream.write(voxel_bytes(plane))
        return
    compressor = bz2.BZ2Compressor() if encoding == "bzip2" else zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    for plane in planes:
        content = voxel_bytes(plane)
        for start in range(0, len(content), _PIECE):
            stream.write(compressor.compress(content[start : start + _PIECE]))
    stream.write(compressor.flush())
