"""Which blocks of a volume hold lumen, as a person has said it: a table, a small volume of blocks, or any mask."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.volume import Volume, share_grid
from micronet.io import nrrd, read_annotation, read_volume
from micronet.io.class_table import apart_by
from micronet.io.formats import suffix_of
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.io.seg_nrrd import has_segments
from micronet.io.source import Source

__all__ = ["Blocks", "blocks_of_labels", "blocks_of_mask", "count_of", "is_table", "read_blocks"]

Labels = NDArray[np.uint8]

_COLUMNS = ("z", "y", "x", "lumen")
_LARGEST_TABLE = 100_000_000
_ANSWERS = {"0": BACKGROUND, "1": LUMEN, "no": BACKGROUND, "yes": LUMEN}


@dataclass(frozen=True, eq=False)
class Blocks:
    """What is known of the blocks of a volume.

    Parameters
    ----------
    labels : ndarray of uint8, one element a block
        0 not known, 1 holds lumen, 2 does not. Blocks count from the first voxel; the last may be shorter.
    size : (z, y, x)
        Of a block in voxels.
    description : str
        One line, to be shown to the person.
    """

    labels: Labels
    size: tuple[int, int, int]
    description: str


def is_table(path: Path) -> bool:
    """Whether a file is a table of blocks, by its name."""
    return path.suffix.lower() == ".csv"


def count_of(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Return how many blocks there are along each axis.

    >>> count_of((50, 100, 16), (8, 8, 8))
    (7, 13, 2)
    """
    return tuple(-(-length // edge) for length, edge in zip(shape, size, strict=True))


def blocks_of_mask(mask: NDArray[np.bool_], size: Sequence[int]) -> Labels:
    """Return for each block of a mask whether it holds lumen: 1, or 2 where not."""
    return np.where(_any(mask, size), LUMEN, BACKGROUND).astype(np.uint8)


def blocks_of_labels(labels: NDArray[Any], size: Sequence[int]) -> Labels:
    """Return what labels (0 not annotated, 1 lumen, 2 background) say of blocks.

    One with lumen holds some; one that is background throughout holds none; of others nothing is known.
    """
    lumen, open_ = _any(labels == LUMEN, size), _any(labels == 0, size)
    return np.where(lumen, LUMEN, np.where(open_, 0, BACKGROUND)).astype(np.uint8)


def _any(mask: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.bool_]:
    for axis, edge in enumerate(size):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], edge), axis=axis)
    return mask


def read_blocks(source: Source, image: Volume, image_name: str, size: Sequence[int]) -> tuple[Volume, Blocks]:
    """Read what is known of the blocks of a volume.

    Parameters
    ----------
    source : Source
        A table (.csv) with the columns z, y, x (a voxel of the block, counted from 0) and lumen (0 or 1); a volume with
        one voxel a block (0 not known, 1 lumen, 2 none); or a mask or labels on the image's grid, of which blocks are
        made. One with a 2 holds labels (0 not annotated, 1 lumen, 2 background), any other a mask.
    image : Volume
    image_name : str
        For messages.
    size : (z, y, x)
        Of a block in voxels.

    Returns
    -------
    image : Volume
        Whose length unit may have been settled by the file.
    blocks : Blocks

    Raises
    ------
    MicronetError
        If the file cannot be read, says two things of one block or of one outside, or has the grid of neither.
    """
    z, y, x = (min(edge, length) for edge, length in zip(size, image.shape, strict=True))
    edges = (z, y, x)  # a block ends where the volume does
    counts = count_of(image.shape, edges)
    if is_table(source.path):
        labels = _of_table(source.path, image.shape, edges)
    else:
        found = _volume(source)
        if found.shape == counts and found.shape != image.shape:
            labels = _told(found.array, source.path)
        else:
            try:
                image, found, _ = share_grid(image, found, image_name, str(source.path))
            except InputError as error:
                one = " x ".join(map(str, counts))
                raise InputError(f"{error}; a volume of blocks has a voxel for each, {one}") from error
            labels = blocks_of_labels(_values(found.array, source.path), edges)
    yes, no = (int(np.count_nonzero(labels == value)) for value in (LUMEN, BACKGROUND))
    by = " x ".join(map(str, edges))
    told = f"of {labels.size:,} blocks of {by} voxels {yes:,} hold lumen, {no:,} do not"
    unknown = labels.size - yes - no
    more = f", of {unknown:,} nothing is known" if unknown else ""
    return image, Blocks(labels, edges, f"{told}{more} ('{source.path.name}')")


def _volume(source: Source) -> Volume:
    """Return a mask or labels; a segmentation of 3D Slicer is a mask."""
    if suffix_of(source.path) in (".nrrd", ".nhdr") and has_segments(nrrd.read_header(source)):
        return read_annotation(source).mask
    return read_volume(source)


def _values(array: NDArray[Any], path: Path) -> Labels:
    """Return labels of what is a mask or labels already."""
    if not np.isfinite(array).all() or array.min() < 0:
        raise InputError(f"'{path}': values of blocks are 0, 1 and 2, or those of a mask")
    if (array == BACKGROUND).any():
        if array.max() > BACKGROUND:
            raise InputError(
                f"'{path}': found {array.max():g}; expected 0 not known, 1 lumen, 2 none, or a mask without a 2"
            )
        return np.asarray(array, np.uint8)
    return np.where(array > 0, LUMEN, BACKGROUND).astype(np.uint8)


def _told(array: NDArray[Any], path: Path) -> Labels:
    if not np.isin(array, (0, LUMEN, BACKGROUND)).all():
        raise InputError(f"'{path}': a volume of blocks holds 0 not known, 1 lumen, 2 none, and nothing else")
    return np.asarray(array, np.uint8)


def _of_table(path: Path, shape: Sequence[int], size: Sequence[int]) -> Labels:
    labels = np.zeros(count_of(shape, size), np.uint8)
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise FileError(f"'{path}' is larger than any table of blocks")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(line for line in stream if line.strip() and not line.startswith("#"))
            names = [name.strip().lower() for name in next(rows, [])]
            if not set(_COLUMNS) <= set(names):
                raise InputError(
                    f"'{path}': the first line names the columns {', '.join(_COLUMNS)}; found {names[:9]}"
                    f"{apart_by(names)}"
                )
            places = [names.index(name) for name in _COLUMNS]
            for number, row in enumerate(rows, 2):
                _note(
                    labels,
                    [row[i].strip() if i < len(row) else "" for i in places],
                    shape,
                    size,
                    f"'{path}', row {number}",
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"'{path}' cannot be read as a table of blocks: {error}") from error
    return labels


def _note(labels: Labels, cells: Sequence[str], shape: Sequence[int], size: Sequence[int], where: str) -> None:
    """Put one row of a table into the labels."""
    *at, answer = cells
    if answer.lower() not in _ANSWERS:
        raise InputError(f"{where}: lumen is 0 or 1, found '{answer}'")
    try:
        voxel = [float(cell) for cell in at]
        if not all(math.isfinite(value) for value in voxel):
            raise ValueError
    except ValueError:
        raise InputError(f"{where}: z, y and x are numbers, found {', '.join(map(repr, at))}") from None
    # The centre of voxel 0 is at 0: what a viewer gives with decimals belongs to the nearest.
    nearest = [math.floor(value + 0.5) for value in voxel]
    if not all(0 <= value < length for value, length in zip(nearest, shape, strict=True)):
        raise InputError(f"{where}: the voxel {tuple(nearest)} lies outside of the volume, {tuple(shape)}")
    block = tuple(value // edge for value, edge in zip(nearest, size, strict=True))
    value = _ANSWERS[answer.lower()]
    if labels[block] not in (0, value):
        raise InputError(
            f"{where}: the block of voxel {tuple(nearest)} was said to be the other before {setting('block')}"
        )
    labels[block] = value
