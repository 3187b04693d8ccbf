"""2-D images as volumes of one plane, where a caller takes such: grey PNG, TIFF and .npy, and colour-coded masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.io import bare, bscans, tiff
from micronet.io.checks import ReadOptions, build_volume
from micronet.io.source import Source
from micronet.io.stack import Stack, build_grid
from micronet.io.units import without_spacing

__all__ = ["open_plane", "parse_colour", "read_colours", "read_plane"]

# Of a mask, colours that are told when they are unknown.
_MOST_TOLD = 5


def read_plane(source: Source, options: ReadOptions) -> Volume | None:
    """Return a 2-D image as a volume (1, Y, X); None where the file is none.

    Parameters
    ----------
    source : Source
        A PNG, a TIFF of one page, a .npy of two axes (Y, X).
    options : ReadOptions
        The voxel size is looked at.

    Raises
    ------
    FileError
        If it is a colour image, or damaged.
    """
    path, suffix = source.path, source.path.suffix.lower()
    array: NDArray[Any]
    if suffix == ".png" or (suffix in (".tif", ".tiff") and tiff.is_image(source)):
        array = bscans.read_grey(path)
    elif suffix == ".npy" and len(bare.shape_of(source)) == 2:
        array = bare.read_array(source)
    else:
        return None
    notes = (without_spacing("an image"),) if options.spacing_um is None else ()
    return build_volume(path, np.ascontiguousarray(array)[None], notes=notes)


def open_plane(source: Source, options: ReadOptions) -> Stack | None:
    """Return a 2-D image as a stack of one plane; as `read_plane`."""
    volume = read_plane(source, options)
    if volume is None:
        return None
    grid = build_grid(source.path, volume.shape, "ZYX", volume.array.dtype, notes=volume.notes)
    return Stack(source.path, (source.path,), grid, "ZYX", lambda first, stop: volume.array[first:stop])


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour such as ``"#ff8000"``; InputError for another text.

    >>> parse_colour("#ff8000")
    (255, 128, 0)
    """
    digits = text.removeprefix("#")
    if not text.startswith("#") or len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
        raise InputError(f"'{text}' is no colour such as \"#ff8000\" (red, green, blue)")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def read_colours(path: Path, numbers: Mapping[tuple[int, int, int], int]) -> NDArray[np.uint8]:
    """Return the labels of a colour-coded PNG, (1, Y, X).

    Parameters
    ----------
    path : Path
        Of any of PNG's modes; an alpha channel must be opaque.
    numbers : mapping of (red, green, blue) to int
        The label of each colour.

    Raises
    ------
    FileError
        If it is no PNG, or damaged.
    InputError
        If it has another colour, or is transparent.
    """

    def converted(image: Image.Image) -> NDArray[np.uint8]:
        rgba = np.asarray(image.convert("RGBA"))
        if not (rgba[..., 3] == 255).all():
            raise InputError(f"'{path}' is transparent in places: a colour-coded mask has full colours")
        return rgba[..., :3]

    picture = bscans.read_png(path, converted)
    labels = np.zeros(picture.shape[:2], np.uint8)
    known = np.zeros(picture.shape[:2], bool)
    for colour, number in numbers.items():
        here = (picture == np.array(colour, np.uint8)).all(axis=2)
        labels[here] = number
        known |= here
    if not known.all():
        found, counts = np.unique(picture[~known], axis=0, return_counts=True)
        order = np.argsort(-counts)[:_MOST_TOLD]
        told = ", ".join(f"#{bytes(found[one].tolist()).hex()} ({counts[one]:,} pixels)" for one in order)
        more = ", .." if len(found) > _MOST_TOLD else ""
        raise InputError(f"'{path}' has colours that are of no class: {told}{more}")
    return labels[None]
