"""Annotations of several exclusive classes: segments by name, or a volume that holds their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.classes import BACKGROUND
from micronet.core.errors import InputError, setting
from micronet.core.names import folded, listed
from micronet.core.volume import Volume, bounding_box
from micronet.io import nrrd
from micronet.io.annotation import POINTS_ONLY, read_annotation
from micronet.io.checks import ReadOptions
from micronet.io.formats import read_with, suffix_of
from micronet.io.seg_nrrd import Segment, Segmentation, has_segments, points_only, read_segmentation
from micronet.io.source import Input, Source, opened

__all__ = ["ClassLabels", "read_classes"]

# Pairs of classes that a message tells, and values that are gathered for one: an image has millions.
_MOST_TOLD, _MOST_GATHERED = 3, 100


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """What each voxel is.

    Parameters
    ----------
    volume : Volume
        Array of uint8: 0 background, 1 the first class, ..
    counted : ndarray of bool, of the volume's shape, or None
        Where anything is annotated; None where everything is.
    description : str
        One line, to be shown to the person.
    """

    volume: Volume
    counted: NDArray[np.bool_] | None
    description: str


def read_classes(
    path: Input,
    names: Sequence[str],
    *,
    sparse: bool = False,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
    flat: bool = False,
) -> ClassLabels:
    """Read which of several exclusive classes each voxel is.

    Parameters
    ----------
    path : path-like or Source
        A .seg.nrrd, or an OME-Zarr image with labels, has a segment called as each class. Any other volume holds
        numbers: 0 background, 1 the first class, ..
    names : sequence of str
        Of the classes beside background, at most 254.
    sparse : bool
        Voxels without annotation do not count. What is background is then in a segment of that name, if there is one;
        of numbers 0 is not annotated, and background is the number after that of the last class.
    axes, spacing_um, flat
        As `micronet.io.read_annotation`.

    Raises
    ------
    InputError
        If a segment is missing, voxels are of two classes (it says how many, and where), or a number is no class.
    FileError
        If the file cannot be read.
    """
    with opened(path) as source:
        image = flat and source.path.suffix.lower() == ".png"
        segments = None if image else _segments(source, names, sparse, spacing_um)
        if segments is None:
            how = ReadOptions(axes, spacing_um, yield_to_file=True, flat=flat)
            volume, counted = _of_numbers(read_with(source, how), names, sparse, source.path)
        else:
            volume, counted = _of_segments(segments, sparse, source.path)
    counts = np.bincount(volume.array.ravel(), minlength=len(names) + 1)
    told = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts[1:], strict=True))
    return ClassLabels(volume, counted, f"classes of '{source.path.name}' ({told} voxels)")


def _segments(
    source: Source, names: Sequence[str], sparse: bool, spacing_um: ArrayLike | None
) -> Iterator[tuple[str, Volume]] | None:
    """Return the masks of classes, and of the background where that is annotated, one by one; None without segments."""
    suffix = suffix_of(source.path)
    if suffix in (".nrrd", ".nhdr") and has_segments(nrrd.read_header(source)):
        segmentation = read_segmentation(source, spacing_um=spacing_um)
        if points_only(segmentation.segments):
            raise InputError(f"'{source.path}' {POINTS_ONLY}")
        there = [segment.name for segment in segmentation.segments]
        wanted = [*names, *(_background(there) if sparse else [])]
        return ((name, segmentation.mask(_chosen(segmentation, name))) for name in wanted)
    if suffix == ".zarr" and (labels := import_module("micronet.io.zarr").labels_of(source.path)):
        wanted = [*names, *(_background(labels) if sparse else [])]
        return ((name, read_annotation(source, segment=name, spacing_um=spacing_um).mask) for name in wanted)
    return None


def _background(there: Sequence[str]) -> list[str]:
    """Return what background is called there, whatever its case, where it is annotated."""
    return [name for name in there if folded(name) == BACKGROUND][:1]


def _chosen(segmentation: Segmentation, name: str) -> Segment:
    try:
        return segmentation.choose(name)
    except InputError as error:
        raise InputError(str(error).replace(setting("segment"), setting("classes"))) from error


def _of_segments(
    segments: Iterator[tuple[str, Volume]], sparse: bool, path: Path
) -> tuple[Volume, NDArray[np.bool_] | None]:
    """Return the number of each voxel's class, and where any is annotated; InputError where there are two."""
    named: list[str] = []
    collisions: list[str] = []
    for name, mask in segments:
        if not named:
            grid, labels = mask, np.zeros(mask.shape, np.uint8)
        both = labels[mask.array]
        for number in np.unique(both[both > 0]).tolist():
            where = mask.array & (labels == number)
            collisions.append(f"{np.count_nonzero(where):,} are '{named[number - 1]}' and '{name}'{_place(where)}")
        named.append(name)
        labels[mask.array] = len(named)
    if collisions:
        more = f", and {len(collisions) - _MOST_TOLD} more pairs" if len(collisions) > _MOST_TOLD else ""
        raise InputError(
            f"'{path}': voxels of two classes, which exclude each other: {'; '.join(collisions[:_MOST_TOLD])}{more}; "
            "erase them in one of the two segments"
        )
    counted = labels > 0 if sparse else None
    if folded(named[-1]) == BACKGROUND:
        labels[labels == len(named)] = 0
    return grid.with_array(labels), counted


def _place(where: NDArray[np.bool_]) -> str:
    """Return where voxels lie: the first of them, and the box around all."""
    first = ", ".join(str(int(place)) for place in np.unravel_index(int(where.argmax()), where.shape))
    box = zip("zyx", bounding_box(where), strict=True)
    spans = ", ".join(f"{axis} {span.start} to {span.stop - 1}" for axis, span in box)
    return f" (the first at z, y, x = {first}; all in {spans})"


def _of_numbers(
    volume: Volume, names: Sequence[str], sparse: bool, path: Path
) -> tuple[Volume, NDArray[np.bool_] | None]:
    """Return the same of a volume that holds numbers; InputError for one that is of no class."""
    array: NDArray[Any] = volume.array
    last = len(names) + sparse
    labels = np.empty(array.shape, np.uint8)
    unknown = set[float]()
    for plane, out in zip(array, labels, strict=True):
        bad = plane[~((plane >= 0) & (plane <= last) & (plane == np.rint(plane)))]
        if bad.size and len(unknown) < _MOST_GATHERED:
            unknown |= set(np.unique(bad)[:_MOST_GATHERED].tolist())
        if not unknown:
            out[...] = plane
    if unknown:
        meant = [f"{number} {name}" for number, name in enumerate(names, 1)]
        meant = ["0 not annotated", *meant, f"{last} {BACKGROUND}"] if sparse else [f"0 {BACKGROUND}", *meant]
        found = listed([f"{value:g}" for value in sorted(unknown)])
        raise InputError(f"'{path}' holds numbers that are of no class: {found}; known are {', '.join(meant)}")
    if not sparse:
        return volume.with_array(labels), None
    counted = labels > 0
    labels[labels == last] = 0
    return volume.with_array(labels), counted
