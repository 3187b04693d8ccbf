"""Labels of a volume that is larger than memory: where something is annotated is told piece by piece, and that is read.

Labels of an OME-Zarr, and files whose planes are read one by one, are never whole in memory; a .seg.nrrd is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import InputError
from micronet.core.volume import Volume, bounding_box, share_grid, shared_part
from micronet.io import nrrd
from micronet.io.checks import ReadOptions
from micronet.io.formats import open_stack_with
from micronet.io.labels import (
    BACKGROUND,
    LUMEN,
    PAINT,
    Labels,
    check_counts,
    check_named,
    from_segments,
    group_of,
    is_segmentation,
    offset_in,
    told_values,
)
from micronet.io.seg_nrrd import read_segmentation
from micronet.io.source import Source
from micronet.io.stack import Stack
from micronet.io.zarr import open_level
from micronet.io.zarr_write import boxes_of

__all__ = ["PartOfVolume", "part_of", "read_labels_part", "reading_bytes"]

Box = tuple[slice, slice, slice]
Pieces = Callable[[], Iterator[tuple[Box, NDArray[Any]]]]


@dataclass(frozen=True, eq=False)
class PartOfVolume:
    """A box of a volume, with its labels.

    Parameters
    ----------
    whole : Volume
        The grid of the volume, whose length unit may have been settled by the labels.
    box : (slice, slice, slice)
    labels : Labels
        On the grid of the box.
    """

    whole: Volume
    box: Box
    labels: Labels


def part_of(grid: Volume, box: Sequence[slice]) -> Volume:
    """Return the grid of a box of a volume; its array is zeros that take no memory."""
    first = np.array([part.start for part in box], np.float64)
    shape = [part.stop - part.start for part in box]
    zeros = np.broadcast_to(np.zeros((), grid.array.dtype), shape)
    return replace(grid, array=zeros, origin=grid.origin + first @ grid.directions)


def reading_bytes(source: Source, options: ReadOptions) -> int:
    """Return about how many bytes it takes to read labels: those of pieces, or of all of a segmentation."""
    if is_segmentation(source):
        return 3 * nrrd.claimed_bytes(nrrd.read_header(source))
    if source.is_store:
        level = open_level(source.path, 0, group_of(source))
        return 8 * math.prod(level.pieces) * level.dtype.itemsize
    with open_stack_with(source, options) as stack:
        return 8 * math.prod(stack.shape[1:]) * stack.grid.array.itemsize


@dataclass(frozen=True, eq=False)
class _Source:
    """Labels that are gone through piece by piece; `first` is where their grid begins in the volume's."""

    grid: Volume
    pieces: Pieces
    first: tuple[int, int, int] = (0, 0, 0)
    cropped: bool = False
    words: str = ""
    how: str = "with the value {value}"
    left_out: tuple[str, ...] = ()

    @property
    def stop(self) -> list[int]:
        """Where their grid ends in the volume's."""
        return [at + length for at, length in zip(self.first, self.grid.shape, strict=True)]


def read_labels_part(
    source: Source,
    image: Volume,
    image_name: str,
    around: Sequence[int],
    check: Callable[[Box], None],
    *,
    lumen: str | None = None,
    background: str | None = None,
    options: ReadOptions,
) -> PartOfVolume:
    """Read labels of the smallest box of a volume that holds all of them, and so many voxels (Z, Y, X) around them.

    `check` is told the box before that is held, and may refuse it. Other parameters and errors are those of
    `micronet.io.read_labels`; the array of `image` is not looked at.
    """
    path = source.path
    with ExitStack() as files:
        if is_segmentation(source):
            found = _of_segments(source, image, lumen, background, options.spacing_um)
        else:
            check_named(path, lumen, background)
            found = _of_values(source, options, files)
        note = ""
        if not found.cropped:
            image, _, note = share_grid(image, found.grid, image_name, str(path))
        counts, low, high = _extent(found, path)
        counts[0] = math.prod(image.shape) - counts[LUMEN] - counts[BACKGROUND]
        check_counts(counts, path, found.how, PAINT)
        box = _around(low, high, around, image.shape)
        check(box)
        labels = np.zeros([part.stop - part.start for part in box], np.uint8)
        for place, values in found.pieces():
            _put(labels, box, place, values)
    description = f"{counts[LUMEN]:,} voxels lumen, {counts[BACKGROUND]:,} background of '{path.name}'{found.words}"
    notes = dict.fromkeys((*found.grid.notes, *([note] if note else []), *found.left_out))
    return PartOfVolume(image, box, Labels(part_of(image, box).with_array(labels), description, tuple(notes)))


def _of_segments(
    source: Source, image: Volume, lumen: str | None, background: str | None, spacing_um: ArrayLike | None
) -> _Source:
    """Return the labels of a segmentation, which is read whole; 3D Slicer may have cropped it."""
    grid, words, left_out = from_segments(read_segmentation(source, spacing_um=spacing_um), lumen, background)
    first = offset_in(image, grid)
    z, y, x = first or (0, 0, 0)
    place = (slice(z, z + grid.shape[0]), slice(y, y + grid.shape[1]), slice(x, x + grid.shape[2]))

    def pieces() -> Iterator[tuple[Box, NDArray[Any]]]:
        yield place, grid.array

    return _Source(grid, pieces, (z, y, x), first is not None, words, "in a segment called '{name}'", tuple(left_out))


def _of_values(source: Source, options: ReadOptions, files: ExitStack) -> _Source:
    """Return labels that a store or another file holds as numbers."""
    if source.is_store:
        level = open_level(source.path, 0, group_of(source))
        grid = level.grid if options.spacing_um is None else level.grid.with_spacing(options.spacing_um)
        return _Source(grid, lambda: ((box, level[box]) for box in boxes_of(level.shape, level.pieces)))
    stack = files.enter_context(open_stack_with(source, options))
    return _Source(stack.grid, lambda: _planes(stack))


def _planes(stack: Stack) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Yield the planes along the slowest axis of a file, and where they lie."""
    depth, height, width = stack.grid.shape
    order = [stack.axes.index(letter) for letter in "ZYX"]
    for at in range(stack.shape[0]):
        own = {"Z": slice(0, depth), "Y": slice(0, height), "X": slice(0, width), stack.axes[0]: slice(at, at + 1)}
        yield (own["Z"], own["Y"], own["X"]), stack.read(at, at + 1).transpose(order)


def _extent(found: _Source, path: Path) -> tuple[list[int], NDArray[np.intp], NDArray[np.intp]]:
    """Return how many voxels have each label, and first and end of all that is annotated along each axis."""
    counts, low, high = [0, 0, 0], np.array(found.stop, np.intp), np.zeros(3, np.intp)
    for place, values in found.pieces():
        fits = (values >= 0) & (values <= BACKGROUND) & (values == np.rint(values))
        if not fits.all():
            raise InputError(f"'{path}' holds the value {values[~fits][0]:g}, which is no label: {told_values()}")
        counts[LUMEN] += int(np.count_nonzero(values == LUMEN))
        counts[BACKGROUND] += int(np.count_nonzero(values == BACKGROUND))
        inner = bounding_box(values)
        if inner[0].stop:
            low = np.minimum(low, [one.start + at.start for one, at in zip(inner, place, strict=True)])
            high = np.maximum(high, [one.stop + at.start for one, at in zip(inner, place, strict=True)])
    return counts, low, high


def _around(low: NDArray[np.intp], high: NDArray[np.intp], around: Sequence[int], shape: Sequence[int]) -> Box:
    z, y, x = (
        slice(max(int(first) - more, 0), min(int(stop) + more, length))
        for first, stop, more, length in zip(low, high, around, shape, strict=True)
    )
    return z, y, x


def _put(labels: NDArray[np.uint8], box: Box, place: Box, values: NDArray[Any]) -> None:
    """Put what lies of a piece in a box into it."""
    if (shared := shared_part(place, box)) is not None:
        inner, outer = shared
        labels[outer] = values[inner]
