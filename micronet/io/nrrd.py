"""NRRD volumes: attached (.nrrd) and detached (.nhdr), raw, gzip or bzip2.

Source: http://teem.sourceforge.net/nrrd/format.html. A NRRD lists its axes fastest first (x, y, z), so the
array in C order is (Z, Y, X) and the rows of ``space directions`` are those of `Volume.directions` in
reverse.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, setting
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, build_volume, check_axes, regular_file
from micronet.io.inflate import inflate
from micronet.io.nrrd_geometry import axis_roles, geometry, interval, named_axes, tells_axes
from micronet.io.nrrd_header import ENCODINGS, TYPES, NrrdHeader, parse_header
from micronet.io.nrrd_write import write
from micronet.io.recording import Recording, open_flat_recording, recording_axes
from micronet.io.source import Source
from micronet.io.stack import FilePlanes, FlatData, Stack, build_grid

__all__ = [
    "claimed_bytes",
    "data_file",
    "open_recording",
    "open_stack",
    "read",
    "read_array",
    "read_header",
    "write",
]

_CODE_OF_TYPE = {name: code for code, names in TYPES.items() for name in names}

# Kinds of an axis that may be time; 3D Slicer calls it a list.
_TIME_KINDS = frozenset({"time", "list", "domain", "none", "???"})

_HEADER_LIMIT = 2 << 20
_MOST_LINES, _LONGEST_SKIP = 100_000, 64 << 20
_PIECE = 4 << 20


def read(source: Source, options: ReadOptions) -> Volume:
    """Read a 3-D NRRD; a further axis must have length 1."""
    path = source.path
    check_axes(options, "ZYX", path)
    header, data = read_array(source)
    spatial, sizes = _spatial_sizes(header, path)
    return build_volume(path, data.reshape(sizes), **geometry(header, spatial, stated=options.spacing_um is not None))


def open_stack(source: Source, options: ReadOptions) -> Stack:
    """Open a 3-D NRRD to read it plane by plane."""
    path = source.path
    check_axes(options, "ZYX", path)
    header, start = _header_and_end(source)
    dtype = _dtype(header)
    _sizes(header)
    spatial, sizes = _spatial_sizes(header, path)
    grid = build_grid(path, sizes, "ZYX", dtype, **geometry(header, spatial, stated=options.spacing_um is not None))
    data = _voxels(source, header, start, math.prod(sizes) * dtype.itemsize)
    planes = FilePlanes(source, data, sizes, dtype)
    return Stack(path, tuple(dict.fromkeys((path, data.path))), grid, "ZYX", planes, planes.close)


def open_recording(source: Source, options: ReadOptions) -> Recording:
    """Open a NRRD with a fourth axis, which is time, such as a sequence that 3D Slicer has written."""
    path = source.path
    check_axes(options, "ZYX", path)
    header, start = _header_and_end(source)
    dtype = _dtype(header)
    sizes = tuple(reversed(_sizes(header)))
    axes, notes = _axes_with_time(header, options, path)
    spatial = [axes[::-1].index(letter) for letter in "XYZ"]
    interval_s, lost = interval(header, spatial)
    placed = geometry(header, spatial, stated=options.spacing_um is not None)
    return open_flat_recording(
        source,
        sizes,
        axes,
        dtype,
        _voxels(source, header, start, math.prod(sizes) * dtype.itemsize),
        interval_s=interval_s,
        **placed | {"notes": (*placed["notes"], *notes, *lost)},
    )


def _axes_with_time(header: NrrdHeader, options: ReadOptions, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return a letter for each axis, slowest first, C for further ones of length 1; and a note on which is time."""
    sizes = header.integers("sizes")
    if options.axes is not None and not tells_axes(header):
        return recording_axes(tuple(reversed(sizes)), options, path), ()
    spatial, extra = axis_roles(header)
    long = [axis for axis in extra if sizes[axis] != 1]
    if len(long) > 1:
        raise FileError(f"'{path}' has {len(sizes)} axes ({named_axes(header)}), expected x, y, z and one of time")
    kinds = header.fields.get("kinds", "").split()
    kind = kinds[long[0]].lower() if long and kinds else "none"
    if kind not in _TIME_KINDS:
        raise FileError(f"'{path}': its axis of {sizes[long[0]]} is of kind '{kind}', not of time; save one channel")
    letters = ["C"] * len(sizes)
    for axis, letter in zip(spatial, "XYZ", strict=True):
        letters[axis] = letter
    for axis in long:
        letters[axis] = "T"
    stated = kind == "time" or header.fields.get("space", "").casefold().endswith(("-time", "st"))
    notes = [f"axis {axis + 1} of {sizes[axis]}, of kind '{kind}', is taken as time" for axis in long if not stated]
    return "".join(reversed(letters)), tuple(notes)


def _header_and_end(source: Source) -> tuple[NrrdHeader, int]:
    with source.open() as stream:
        return parse_header(_lines(stream, source.path), str(source.path)), stream.tell()


def _voxels(source: Source, header: NrrdHeader, start: int, expected: int) -> FlatData:
    """Return where the voxels lie, `expected` bytes; the header ends at byte `start`."""
    data_path = source.path
    if "data file" in header.fields:
        data_path, start = _data_path(source.path, header.fields["data file"]), 0
    with source.open(data_path) as stream:
        stream.seek(start)
        encoding, skip = _find_content(stream, header, expected, data_path)
        return FlatData(data_path, stream.tell(), skip, encoding)


def _spatial_sizes(header: NrrdHeader, path: Path) -> tuple[list[int], tuple[int, ...]]:
    """Return which axes of the file span space, and the shape (Z, Y, X); a further axis must have length 1."""
    spatial, extra = axis_roles(header)
    sizes = header.integers("sizes")
    if any(sizes[axis] != 1 for axis in extra):
        raise FileError(
            f"'{path}' has {len(sizes)} axes ({named_axes(header)}), expected three: x, y, z; "
            f"for a segmentation name one segment {setting('segment')}, else save one channel or time point; "
            f"infer.py takes all time points {setting('time_lapse')}"
        )
    return spatial, tuple(sizes[axis] for axis in reversed(spatial))


def read_header(source: Source) -> NrrdHeader:
    """Read only the header of a NRRD file."""
    return _header_and_end(source)[0]


def claimed_bytes(header: NrrdHeader) -> int:
    """Return how many bytes the voxels take by a header."""
    return math.prod(_sizes(header)) * _dtype(header).itemsize


def data_file(source: Source) -> Path | None:
    """Return the file that holds the voxels of a detached header, None when they are in the file itself."""
    header = read_header(source)
    return _data_path(source.path, header.fields["data file"]) if "data file" in header.fields else None


def read_array(source: Source) -> tuple[NrrdHeader, NDArray[Any]]:
    """Return the header and the array in the file's byte order, axes slowest first (``sizes`` reversed)."""
    header, start = _header_and_end(source)
    sizes, dtype, expected = _sizes(header), _dtype(header), claimed_bytes(header)
    data = _voxels(source, header, start, expected)
    with source.open(data.path) as stream:
        stream.seek(data.start)
        content = inflate(stream, data.encoding, expected, data.path, skip=data.skip)
    return header, np.frombuffer(content, dtype).reshape(sizes[::-1])


def _lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    """Yield the lines of a header; `stream` is left behind the last one taken."""
    limit = _HEADER_LIMIT
    # No file without the magic is read further than this: it may be gigabytes without a line end.
    first = stream.readline(64)
    while first:
        limit -= len(first)
        if limit < 0:
            raise FileError(f"'{path}': its NRRD header is longer than {_HEADER_LIMIT >> 20} MiB")
        try:
            yield first.decode("utf-8")
        except UnicodeDecodeError:
            yield first.decode("latin-1")
        first = stream.readline(limit + 1)


def _sizes(header: NrrdHeader) -> list[int]:
    sizes = header.integers("sizes")
    if header.integers("dimension") != [len(sizes)]:
        raise FileError(
            f"'{header.name}': its NRRD header has {len(sizes)} sizes, dimension {header.fields['dimension']}"
        )
    if not 1 <= len(sizes) <= 16 or min(sizes) < 1:
        raise FileError(f"'{header.name}': 'sizes: {header.fields['sizes'][:80]}' should be 1 to 16 positive numbers")
    return sizes


def _dtype(header: NrrdHeader) -> np.dtype[Any]:
    name = " ".join(header.text("type").split()).lower()
    if name not in _CODE_OF_TYPE:
        raise FileError(f"'{header.name}' holds voxels of type '{name}', expected integers, float or double")
    dtype = np.dtype(_CODE_OF_TYPE[name])
    if dtype.itemsize == 1:
        return dtype
    endian = header.text("endian").lower()
    if endian not in ("little", "big"):
        raise FileError(f"'{header.name}': 'endian: {endian}' should be little or big")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _find_content(stream: BinaryIO, header: NrrdHeader, expected: int, path: Path) -> tuple[str, int]:
    """Return the encoding and the bytes to skip of what is encoded; `stream` is left where that begins."""
    name = header.text("encoding").lower()
    if name not in ENCODINGS:
        raise FileError(f"'{header.name}': encoding '{name}' cannot be read; save it as raw, gzip or bzip2")
    encoding = ENCODINGS[name]
    line_skip, byte_skip = (_skip(header, name) for name in ("line skip", "byte skip"))
    if line_skip < 0 or byte_skip < -1 or (byte_skip == -1 and encoding != "raw"):
        raise FileError(f"'{header.name}': line skip {line_skip}, byte skip {byte_skip} cannot be followed")
    # What is skipped is read all the same; no header is as long.
    if line_skip > _MOST_LINES or (encoding != "raw" and byte_skip > _LONGEST_SKIP):
        raise FileError(f"'{header.name}': line skip {line_skip:,}, byte skip {byte_skip:,} are more than is followed")
    for _ in range(line_skip):
        line = stream.readline(_PIECE)
        while line and not line.endswith(b"\n"):  # one without an end is not kept whole
            line = stream.readline(_PIECE)
        if not line:
            raise FileError(f"'{header.name}': line skip {line_skip} goes past the end of '{path}'")
    if byte_skip == -1:
        # The voxels are the last bytes of the file, whatever stands before them.
        byte_skip = max(os.fstat(stream.fileno()).st_size - stream.tell() - expected, 0)
    return encoding, byte_skip


def _skip(header: NrrdHeader, name: str) -> int:
    if name not in header.fields:
        return 0
    if len(header.fields[name].split()) != 1:
        raise FileError(f"'{header.name}': '{name}: {header.fields[name]}' should be one whole number")
    return header.integers(name)[0]


def _data_path(header_path: Path, name: str) -> Path:
    """Return the data file of a detached header; FileError unless it lies in the header's own folder."""
    if name.split()[0:1] == ["LIST"] or "%" in name:
        raise FileError(f"'{header_path}' spreads its voxels over several files; save it as one .nrrd")
    folder = header_path.parent.resolve()
    try:
        data_path = (header_path.parent / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(f"'{header_path}': its data file '{name}' cannot be found ({error})") from error
    if Path(name).is_absolute() or ".." in Path(name).parts or not data_path.is_relative_to(folder):
        raise FileError(f"'{header_path}': its data file '{name}' lies outside the header's folder, which is refused")
    return regular_file(header_path.parent / name)
