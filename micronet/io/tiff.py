"""TIFF volumes: ImageJ stacks, OME-TIFF and plain multi-page files.

The page order and the meaning of the pages are taken from ImageJ's or OME's description; the pages of a plain TIFF are
slices along Z, as Fiji reads them.
"""

from __future__ import annotations

import logging
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffFileError, TiffPageSeries

from micronet.core.errors import FileError, InputError, setting
from micronet.core.volume import Volume, upright
from micronet.io.checks import (
    ReadOptions,
    build_volume,
    check_axes,
    check_dtype,
    clean_axes,
    one_line,
    spatial_order,
    to_zyx,
)
from micronet.io.recording import Recording, open_flat_recording, recording_axes, recording_of
from micronet.io.source import Source
from micronet.io.stack import FilePlanes, FlatData, Stack, build_grid
from micronet.io.tiff_guard import Pages, check_packed, check_pages, check_size
from micronet.io.tiff_ome import ome_pixels, ome_shape, ome_spacing
from micronet.io.tiff_series import stack_series
from micronet.io.tiff_spacing import imagej_spacing, settled_spacing
from micronet.io.tiff_write import write
from micronet.io.units import SECONDS_PER

__all__ = ["open_recording", "open_stack", "read", "read_image", "write"]

# Formats whose reading in tifffile opens further files, or trusts sizes that nothing has checked.
_OFF = {"is_ome": False, "is_mmstack": False, "is_ndtiff": False}

# What tifffile is known to raise on damaged files.
_DAMAGE = (
    TiffFileError,
    struct.error,
    zlib.error,
    LZMAError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read(source: Source, options: ReadOptions) -> Volume:
    """Read a 3-D TIFF."""
    path = source.path
    with _decoding(path), _opened(source) as tif:
        series, shape, axes, geometry = _layout(tif, path, options)
        for page in series.pages:
            check_packed(tif, page, path)
        array: NDArray[Any] = to_zyx(series.asarray().reshape(shape), axes, path)
    return build_volume(path, array, **geometry)


def open_stack(source: Source, options: ReadOptions) -> Stack:
    """Open a 3-D TIFF to read it plane by plane."""
    path = source.path
    with ExitStack() as opened:
        with _decoding(path):
            tif = opened.enter_context(_opened(source))
            series, shape, axes, geometry = _layout(tif, path, options)
            grid = build_grid(path, shape, axes, series.dtype or np.dtype("V1"), **geometry)
        order = spatial_order(axes)
        sizes = tuple(size for size, letter in zip(shape, axes, strict=True) if letter in order)
        if series.dataoffset is not None:  # all voxels in one piece, which is how ImageJ writes more than 4 GB
            dtype = grid.array.dtype.newbyteorder(tif.byteorder)
            flat = FilePlanes(source, FlatData(path, series.dataoffset, exact=False), sizes, dtype)
            return Stack(path, (path,), grid, order, flat, flat.close)
        opened.pop_all()

    def planes(first: int, stop: int) -> NDArray[Any]:
        if len(series.pages) != sizes[0]:
            raise FileError(
                f"'{path}' has {len(series.pages)} pages for {sizes[0]} planes along {order[0]}, so it cannot be "
                "read plane by plane; save it again as a stack of slices"
            )
        with _decoding(path):
            return np.stack([_plane(tif, series, number, path).reshape(sizes[1:]) for number in range(first, stop)])

    return Stack(path, (path,), grid, order, planes, tif.close)


def open_recording(source: Source, options: ReadOptions) -> Recording:
    """Open a TIFF with an axis of time: an ImageJ hyperstack, an OME-TIFF, or a plain one whose axes are told."""
    path = source.path
    with ExitStack() as opened:
        with _decoding(path):
            tif = opened.enter_context(_opened(source))
            series, shape, axes, geometry = _layout(tif, path, options, time=True)
        dtype = np.dtype(series.dtype or "V1").newbyteorder(tif.byteorder)
        geometry["interval_s"] = _interval_s(tif, path)
        pages = shape[:-2] if axes.endswith("YX") else ()
        if series.dataoffset is not None:
            data = FlatData(path, series.dataoffset, exact=False)
            return open_flat_recording(source, shape, axes, dtype, data, **geometry)
        if "T" not in axes[:-2] or len(series.pages) != math.prod(pages):
            raise FileError(
                f"'{path}' has {len(series.pages)} pages for {shape} ({axes}), so it cannot be read time point by time "
                "point; save it again as a stack of slices"
            )
        numbers = np.moveaxis(np.arange(len(series.pages)).reshape(pages), axes.index("T"), 0)

        def load(number: int) -> NDArray[Any]:
            with _decoding(path):
                planes = [_plane(tif, series, int(page), path) for page in numbers[number].ravel()]
            return np.stack(planes).reshape(*numbers.shape[1:], *shape[-2:])

        recording = recording_of(path, shape, axes, dtype, load, tif.close, **geometry)
        opened.pop_all()
    return recording


def is_image(source: Source) -> bool:
    """Whether a TIFF holds a single grey image."""
    with _decoding(source.path), _opened(source) as tif:
        return len(tif.pages) == 1 and sorted(tif.series[0].axes) == ["X", "Y"]


def read_image(source: Source) -> NDArray[Any]:
    """Read a TIFF of one page as a 2-D array."""
    path = source.path
    with _decoding(path), _opened(source) as tif:
        series = tif.series[0]
        check_dtype(series.dtype or np.dtype("V1"), path)
        check_size(tif, series, path)
        if len(tif.pages) != 1 or sorted(series.axes) != ["X", "Y"]:
            raise FileError(
                f"'{path}' is no single grey image: it holds {series.shape} ({series.axes}); "
                "a folder is read as one scan, one B-scan a file"
            )
        check_packed(tif, series.pages[0], path)
        return series.asarray()


def _opened(source: Source) -> TiffFile:
    path, stream = source.path, source.open()
    pages = check_pages(stream, path)
    stream.seek(0)
    # tifffile looks at four pages and takes the others to be like the first; so it does with all pages of ImageJ.
    off = _OFF if pages.alike else _OFF | {"is_uniform": False}
    tif = TiffFile(stream, **off)  # type: ignore[arg-type]
    if tif.is_imagej:
        try:
            _check_imagej_pages(tif, pages, path)
        except BaseException:
            tif.close()
            raise
    return tif


def _check_imagej_pages(tif: TiffFile, pages: Pages, path: Path) -> None:
    """Raise FileError where an ImageJ description tells of fewer pages than there are, or pages are not alike."""
    if not pages.alike:
        raise FileError(
            f"'{path}': its pages are stored in different ways, which an ImageJ stack cannot be; save it again in Fiji"
        )
    series = tif.series[0]
    named = series.size // (tif.pages.first.size or 1)
    if pages.number > named:
        raise FileError(
            f"'{path}': its ImageJ description names {named:,} pages, the file holds {pages.number:,}; "
            "open all of them in Fiji and save it again"
        )


def _plane(tif: TiffFile, series: TiffPageSeries, number: int, path: Path) -> NDArray[Any]:
    page = series.pages[number]
    if page is None:
        raise ValueError(f"page {number} is missing")
    check_packed(tif, page, path)
    return page.asarray()


def _layout(
    tif: TiffFile, path: Path, options: ReadOptions, *, time: bool = False
) -> tuple[TiffPageSeries, tuple[int, ...], str, dict[str, Any]]:
    """Return what holds the voxels, its shape and axes, and the arguments of `Volume` beside the array."""
    page = tif.pages.first
    ome = ome_pixels(page.description, path)
    series, notes = stack_series(tif, path, described=ome is not None or tif.is_imagej)
    check_dtype(series.dtype or np.dtype("V1"), path)
    check_size(tif, series, path)
    if page.photometric == 0:
        notes.append("the TIFF shows small values bright (MinIsWhite); voxels are read as they are stored")
    shape, axes = series.shape, series.axes
    if ome is not None and not tif.is_imagej:
        shape, axes = ome_shape(ome, series, path)
    if "S" in axes:
        raise FileError(f"'{path}' is a colour image (RGB); convert it to one channel of grey values")
    stated = set(axes) <= set("ZYXTC")
    if not stated and time and len(shape) > 3:
        axes = recording_axes(shape, options, path)
    elif not stated and options.axes is not None:
        axes = clean_axes(options.axes)
    elif not stated and len(axes) == 3 and axes.endswith("YX"):
        axes = "ZYX"
        notes.append(
            "the TIFF does not say what its pages are: slices along Z are taken, "
            f"unless said otherwise {setting('axes')}"
        )
    else:
        check_axes(options, axes, path)
    if sorted(axes) in (["T", "X", "Y"], ["C", "X", "Y"]):
        what = "time points" if "T" in axes else "channels"
        raise FileError(
            f"'{path}' states that its {shape[0]} pages are {what}, not slices along Z; "
            "if they are slices, say so in Fiji (Image > Properties) and save it again"
        )
    if len(axes) < 3:
        raise FileError(f"'{path}' is a 2-D image of {shape} voxels, expected a 3-D volume")
    # The axes are settled before memory is taken for the voxels.
    one = tuple(1 if time and letter == "T" else length for length, letter in zip(shape, axes, strict=True))
    to_zyx(np.broadcast_to(np.uint8(0), one), axes, path)
    lengths, unit_names = imagej_spacing(tif) if tif.is_imagej else ome_spacing(ome)
    spacing, units, note = settled_spacing(lengths, unit_names, path, options)
    geometry = {"directions": upright(spacing), "units": units, "notes": (*notes, *([note] if note else []))}
    return series, shape, axes, geometry


def _interval_s(tif: TiffFile, path: Path) -> float | None:
    """Return the seconds from one time point to the next, None where they are not stated."""
    if tif.is_imagej:
        metadata = tif.imagej_metadata or {}
        seconds = metadata.get("finterval")
        unit = str(metadata.get("tunit", "s")).strip()
    else:
        ome = ome_pixels(tif.pages.first.description, path) or {}
        seconds, unit = ome.get("TimeIncrement"), ome.get("TimeIncrementUnit", "s")
    factor = SECONDS_PER.get(unit)
    return None if seconds is None or factor is None else float(seconds) * factor


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn what tifffile raises and logs of a damaged file into a FileError."""
    with _collect_errors() as logged:
        try:
            yield
        except (FileError, InputError):
            raise
        except _DAMAGE as error:
            raise _damaged(path, one_line(error)) from error
    # Where a description claims more pages than there are, tifffile logs it and goes on with what is there.
    if logged:
        raise _damaged(path, one_line(logged[0]))


@contextmanager
def _collect_errors() -> Iterator[list[str]]:
    """Take what tifffile would log, which would end on the terminal, and give the errors.

    A tag that cannot be read is no error here: were it one that matters, the page could not be read either.
    """
    messages: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno >= logging.ERROR and "TiffTag" not in message:
            messages.append(message)
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(take)
    try:
        yield messages
    finally:
        logger.removeFilter(take)


def _damaged(path: Path, reason: str) -> FileError:
    return FileError(f"'{path}' is damaged or no TIFF that can be read ({reason})")
