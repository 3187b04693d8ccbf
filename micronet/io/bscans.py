"""A folder of B-scans: one 2-D image a file (TIFF or PNG), in the natural order of their names."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from micronet.core.errors import FileError, MicronetError, setting
from micronet.core.names import name_key
from micronet.io import tiff
from micronet.io.checks import ReadOptions, check_dtype, clean_axes, one_line, reading, regular_file, spatial_order
from micronet.io.source import opened
from micronet.io.stack import Stack, build_grid
from micronet.io.units import without_spacing

__all__ = ["natural_order", "open_stack", "read_grey", "read_png"]

_TIFF = (".tif", ".tiff")
_SUFFIXES = (*_TIFF, ".png")
# Pillow's names of grey images, and what they hold.
_GREY = {"1": "bool", "L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}


def natural_order(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Return the key that sorts names as people do: scan2 before scan10.

    >>> sorted([Path("b10.tif"), Path("b9.tif"), Path("B1.tif")], key=natural_order)[-1].name
    'b10.tif'
    """
    parts = re.findall(r"(\D*)(\d*)", name_key(path.name))
    return [(text.casefold(), int(digits or -1)) for text, digits in parts], path.name


def open_stack(path: Path, options: ReadOptions) -> Stack:
    """Open a folder of B-scans to read it file by file.

    Parameters
    ----------
    path : Path
        The folder. Every TIFF and PNG in it is a B-scan, hidden files apart.
    options : ReadOptions
        `axes` says what files, rows and columns are; by default Z, Y (depth) and X.

    Raises
    ------
    FileError
        If the folder holds no image, images of several formats, or one that cannot be read; when the planes are read
        also if an image differs from the first in size or voxel type.
    """
    with reading(path):
        files = tuple(
            sorted(
                (file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.name[0] != "."),
                key=natural_order,
            )
        )
    if not files:
        raise FileError(f"'{path}' is a folder without B-scans ({', '.join(_SUFFIXES)})")
    formats = {".tif" if file.suffix.lower() in _TIFF else file.suffix.lower() for file in files}
    if len(formats) > 1:
        raise FileError(f"'{path}' holds images of several formats ({', '.join(sorted(formats))}), expected one")
    first = read_grey(files[0])
    axes = "ZYX" if options.axes is None else clean_axes(options.axes)
    notes = [f"{len(files)} B-scans, '{files[0].name}' to '{files[-1].name}'", *_gap(files)]
    if options.axes is None:
        notes.append(f"files are read as Z, rows as Y, columns as X, unless said otherwise {setting('axes')}")
    if options.spacing_um is None:
        notes.append(without_spacing("a folder of images"))
    grid = build_grid(path, (len(files), *first.shape), axes, first.dtype, notes=tuple(notes))

    def planes(start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, *first.shape), first.dtype)
        for file, plane in zip(files[start:stop], block, strict=True):
            image = read_grey(file)
            if image.shape != first.shape or image.dtype != first.dtype:
                raise FileError(
                    f"'{file}' holds {image.shape[0]} x {image.shape[1]} pixels of {image.dtype}, "
                    f"'{files[0].name}' {first.shape[0]} x {first.shape[1]} of {first.dtype}"
                )
            plane[...] = image
        return block

    return Stack(path, files, grid, spatial_order(axes), planes)


def read_grey(path: Path) -> NDArray[Any]:
    """Return a grey image, TIFF or PNG, as a 2-D array in the byte order of this machine."""
    found = regular_file(path)
    with reading(found):
        if found.suffix.lower() in _TIFF:
            with opened(found) as source:
                array = tiff.read_image(source)
            return array.astype(array.dtype.newbyteorder("="), copy=False)

    def grey(image: Image.Image) -> NDArray[Any]:
        if image.mode not in _GREY:
            raise FileError(f"'{found}' is a colour image ({image.mode}); convert it to grey values")
        return np.asarray(image).astype(_GREY[image.mode], copy=False)

    array = read_png(found, grey)
    check_dtype(array.dtype, found)
    return array


def read_png(path: Path, convert: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    """Return what `convert` makes of a PNG; FileError where it is none, or damaged."""
    found = regular_file(path)
    with reading(found):
        try:
            with _Bounded(found) as stream, Image.open(stream, formats=("PNG",)) as image:
                return convert(image)
        except MicronetError:
            raise
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise FileError(f"'{found}' is damaged or no PNG that can be read ({one_line(error)})") from error


class _Bounded(io.FileIO):
    """A file of which no more is read than it holds: Pillow makes room for as much as a chunk of a PNG claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left)) or b""


def _gap(files: tuple[Path, ...]) -> list[str]:
    """Return a note where the numbers in the names do not go up evenly: a B-scan may be missing."""
    numbers = [re.findall(r"\d+", file.stem)[-1:] for file in files]
    if not all(numbers):
        return []
    steps = np.diff([int(number[0]) for number in numbers])
    uneven = np.flatnonzero(steps != np.median(steps)) if steps.size else steps
    if not uneven.size:
        return []
    here = int(uneven[0])
    return [f"the numbering jumps from '{files[here].name}' to '{files[here + 1].name}': is a B-scan missing?"]
