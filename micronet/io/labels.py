"""What a person has painted on some voxels: 0 not annotated, 1 lumen, 2 background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import InputError, setting
from micronet.core.names import name_key, same_name
from micronet.core.volume import Volume, share_grid
from micronet.io import nrrd
from micronet.io.annotation import POINTS_ONLY
from micronet.io.checks import ReadOptions
from micronet.io.formats import files_of, read_with, suffix_of
from micronet.io.seg_nrrd import Segment, Segmentation, has_segments, points_only, read_segmentation
from micronet.io.source import Input, Source, opened
from micronet.io.zarr import read_label
from micronet.io.zarr_metadata import image_of, labels_of

__all__ = [
    "BACKGROUND",
    "LUMEN",
    "PAINT",
    "Labels",
    "check_counts",
    "check_named",
    "from_segments",
    "group_of",
    "is_segmentation",
    "label_files",
    "offset_in",
    "placed_on",
    "read_class_labels",
    "read_labels",
    "told_values",
]

LUMEN, BACKGROUND = 1, 2
#: What people call the two, folded.
_NAMES = {
    "lumen": {"lumen", "lumens", "vessel", "vessels", "foreground", "inside"},
    "background": {"background", "not lumen", "no lumen", "tissue", "outside", "bg"},
}
#: With fewer voxels of a class there is nothing to learn it from.
_LEAST = 10


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels on the grid of their volume.

    Parameters
    ----------
    volume : Volume
        Array of uint8: 0 not annotated, 1 lumen, 2 background.
    description : str
        One line, to be shown to the person.
    notes : tuple of str
        What had to be assumed, or was left out.
    """

    volume: Volume
    description: str
    notes: tuple[str, ...] = ()


def read_labels(
    path: Input,
    image: Volume,
    image_name: str,
    *,
    lumen: str | None = None,
    background: str | None = None,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
) -> tuple[Volume, Labels]:
    """Read labels of a volume: two segments of a .seg.nrrd, or a volume of any format that holds 0, 1 and 2.

    Parameters
    ----------
    path : path-like or Source
        The file; a NRRD with segment names is a segmentation whatever it is called. One that 3D Slicer has cropped to
        what was painted is put into its place.
    image : Volume
        What was painted on.
    image_name : str
        For messages.
    lumen, background : str, optional
        Names or indices of the segments; default: those that are called so.
    axes, spacing_um
        As `micronet.read_annotation`.

    Returns
    -------
    image : Volume
        Whose length unit may have been settled by the labels.
    labels : Labels

    Raises
    ------
    InputError
        If a class is missing or has fewer than 10 voxels, a voxel is both, every voxel is annotated, a value or segment
        is unknown, or the grid is another one; the message says what to paint.
    FileError
        If the file cannot be read.
    """
    with opened(path) as source:
        found = source.path
        if is_segmentation(source):
            segmentation = read_segmentation(source, spacing_um=spacing_um)
            volume, words, left_out = from_segments(segmentation, lumen, background)
            volume = placed_on(image, volume)
            how = "in a segment called '{name}'"
        else:
            check_named(found, lumen, background)
            plain = _read_plain(source, ReadOptions(axes, spacing_um, yield_to_file=True))
            volume, words, left_out = _from_values(plain, found), "", []
            how = "with the value {value}"
    image, volume, note = share_grid(image, volume, image_name, str(found))
    counts = np.bincount(volume.array.ravel(), minlength=3)
    check_counts(counts, found, how, PAINT)
    description = f"{counts[LUMEN]:,} voxels lumen, {counts[BACKGROUND]:,} background of '{found.name}'{words}"
    notes = dict.fromkeys((*volume.notes, *([note] if note else []), *left_out))
    return image, Labels(volume, description, tuple(notes))


def is_segmentation(source: Source) -> bool:
    """Whether labels are segments: those of a .seg.nrrd, whatever it is called."""
    return suffix_of(source.path) in (".nrrd", ".nhdr") and has_segments(nrrd.read_header(source))


def check_named(path: Path, lumen: str | None, background: str | None) -> None:
    """Raise InputError where segments are named of a file that has none."""
    if lumen or background:
        role = "lumen" if lumen else "background"
        raise InputError(f"'{path}' holds no segments that could be chosen by name {setting(role)}")


def group_of(source: Source) -> Path | None:
    """Return the folder of the labels that an OME-Zarr keeps beside its image; None where it is labels itself."""
    names = labels_of(source.path)
    if len(names) > 1:
        raise InputError(f"'{source.path}' keeps the labels {', '.join(names)}: copy those that were painted out of it")
    return source.path / "labels" / names[0] if names else None


def label_files(source: Source) -> tuple[Path, ...]:
    """Return the files that labels consist of, as `micronet.io.files_of` does."""
    if source.is_store and (group := group_of(source)) is not None:
        return image_of(source.path, 0, group).files
    return files_of(source)


def _read_plain(source: Source, options: ReadOptions) -> Volume:
    """Read labels that are no segments."""
    if source.is_store and (group := group_of(source)) is not None:
        found = read_label(source, group.name)
        return found if options.spacing_um is None else found.with_spacing(options.spacing_um)
    return read_with(source, options)


def from_segments(
    segmentation: Segmentation, lumen: str | None, background: str | None
) -> tuple[Volume, str, list[str]]:
    """Return labels, words on which segments they are, and notes on those that are left out."""
    path = segmentation.path
    if points_only(segmentation.segments):
        raise InputError(f"'{path}' {POINTS_ONLY}")
    one = _named(segmentation, "lumen", lumen)
    two = _named(segmentation, "background", background)
    others = [segment for segment in segmentation.segments if segment not in (one, two) and segment.voxels]
    if others and not (lumen and background):
        listed = ", ".join(f"'{segment.name}'" for segment in segmentation.segments)
        raise InputError(
            f"'{path}': what is segment '{others[0].name}', lumen or background? It holds {listed}; call one 'lumen', "
            f"one 'background', and name both to leave others out {setting('lumen', 'background')}, or name all to be "
            f"found {setting('classes')}"
        )
    array = np.zeros(segmentation.grid.shape, np.uint8)
    for segment, value in ((one, LUMEN), (two, BACKGROUND)):
        if segment is not None:
            mask = segmentation.labels[..., segment.layer] == segment.label_value
            if (both := int(np.count_nonzero(array[mask]))) > 0:
                raise InputError(
                    f"'{path}': {both:,} voxels are lumen and background at once; erase them in one of the two segments"
                )
            array[mask] = value
    words = "".join(f", {name} '{s.name}'" for name, s in (("lumen", one), ("background", two)) if s is not None)
    notes = [f"segment '{segment.name}' is left out" for segment in others]
    return segmentation.grid.with_array(array), words, notes


def _named(segmentation: Segmentation, role: str, wanted: str | None) -> Segment | None:
    """Return the segment of a role; InputError where it is asked for and not there, or several could be it."""
    if wanted is not None:
        try:
            return segmentation.choose(wanted)
        except InputError as error:
            raise InputError(str(error).replace(setting("segment"), setting(role))) from error
    found = [segment for segment in segmentation.segments if _folded(segment.name) in _NAMES[role]]
    exact = [segment for segment in found if same_name(_folded(segment.name), role)]
    if len(found) > 1 and len(exact) != 1:
        listed = ", ".join(f"'{segment.name}'" for segment in found)
        raise InputError(
            f"'{segmentation.path}': several segments could be the {role}: {listed}; name it {setting(role)}"
        )
    return next(iter(exact or found), None)


def _folded(name: str) -> str:
    return " ".join(name_key(name).casefold().replace("_", " ").replace("-", " ").split())


def placed_on(image: Volume, labels: Volume) -> Volume:
    """Return labels that were cropped on the grid of the image, where they are a part of that; else as they are."""
    first = offset_in(image, labels)
    if first is None:
        return labels
    array = np.zeros(image.shape, np.uint8)
    array[tuple(slice(at, at + length) for at, length in zip(first, labels.shape, strict=True))] = labels.array
    return replace(image, array=array, notes=labels.notes)


def offset_in(image: Volume, labels: Volume) -> tuple[int, int, int] | None:
    """Return where labels that were cropped begin in the grid of the image; None where they are no part of that."""
    if labels.shape == image.shape or "voxel" in (labels.units, image.units):
        return None
    if labels.space and image.space:
        labels = labels.in_space(image.space)
    told = labels.in_units(image.units)
    steps = np.linalg.norm(image.directions, axis=1)
    if np.abs(told.directions - image.directions).max() > 1e-3 * steps.min():
        return None
    offset = (told.origin - image.origin) @ np.linalg.inv(image.directions)
    first = np.rint(offset).astype(int)
    last = first + labels.shape
    if np.abs(offset - first).max() > 0.1 or (first < 0).any() or (last > image.shape).any():
        return None
    z, y, x = first.tolist()
    return z, y, x


def _from_values(volume: Volume, path: Path, names: Sequence[str] = ("lumen",)) -> Volume:
    """Return labels of a plain volume; InputError where it holds anything but 0, 1, 2, .. for classes and the rest."""
    array: NDArray[Any] = volume.array
    labels = np.empty(array.shape, np.uint8)
    for plane, out in zip(array, labels, strict=True):
        fits = (plane >= 0) & (plane <= len(names) + 1) & (plane == np.rint(plane))
        if not fits.all():
            value, count = plane[~fits][0], int(np.count_nonzero(array == plane[~fits][0]))
            raise InputError(
                f"'{path}' holds the value {value:g} ({max(count, 1):,} voxels), which is no label: "
                f"{told_values(names)}"
            )
        out[...] = plane
    return volume.with_array(labels)


def read_class_labels(
    path: Input,
    image: Volume,
    image_name: str,
    names: Sequence[str],
    *,
    background: str | None = None,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
) -> tuple[Volume, Labels]:
    """Read labels of several classes: segments of a .seg.nrrd, or a volume of any format that holds their numbers.

    Parameters
    ----------
    path, image, image_name, axes, spacing_um
        As `read_labels`.
    names : sequence of str
        Of the classes, which are those of their segments; at most 254.
    background : str, optional
        Name or index of the segment that is none of them; default: the one that is called so.

    Returns
    -------
    image : Volume
        Whose length unit may have been settled by the labels.
    labels : Labels
        0 not annotated, 1 the first class, 2 the second, .., and the number after that of the last is background; so
        are the numbers in a file without segments.

    Raises
    ------
    InputError, FileError
        As `read_labels`.
    """
    last = len(names) + 1
    if last > np.iinfo(np.uint8).max:
        raise InputError(f"at most {np.iinfo(np.uint8).max - 1} classes are taught at once, found {len(names)}")
    with opened(path) as source:
        found = source.path
        if is_segmentation(source):
            segmentation = read_segmentation(source, spacing_um=spacing_um)
            volume, left_out = _of_classes(segmentation, names, background)
            volume, how = placed_on(image, volume), "in a segment called '{name}'"
        else:
            if background is not None:
                raise InputError(f"'{found}' holds no segments that could be chosen by name {setting('background')}")
            plain = _read_plain(source, ReadOptions(axes, spacing_um, yield_to_file=True))
            volume, left_out, how = _from_values(plain, found, names), [], "with the value {value}"
    image, volume, note = share_grid(image, volume, image_name, str(found))
    counts = np.bincount(volume.array.ravel(), minlength=last + 1)
    each = [*((name, number, "on some of it") for number, name in enumerate(names, 1)), _background(last)]
    check_counts(counts, found, how, each)
    told = ", ".join(f"{counts[number]:,} {name} ({number})" for name, number, _ in each)
    notes = dict.fromkeys((*volume.notes, *([note] if note else []), *left_out))
    return image, Labels(volume, f"voxels of '{found.name}': {told}", tuple(notes))


def _of_classes(segmentation: Segmentation, names: Sequence[str], background: str | None) -> tuple[Volume, list[str]]:
    """Return the numbers of classes, and notes on segments that are left out."""
    path = segmentation.path
    if points_only(segmentation.segments):
        raise InputError(f"'{path}' {POINTS_ONLY}")
    chosen: list[tuple[str, Segment]] = []
    for name in names:
        try:
            chosen.append((name, segmentation.choose(name)))
        except InputError as error:
            raise InputError(str(error).replace(setting("segment"), setting("classes"))) from error
    named = {segment.index for _, segment in chosen} if background is None else set()
    left = replace(segmentation, segments=tuple(one for one in segmentation.segments if one.index not in named))
    if (rest := _named(left, "background", background)) is not None:
        chosen.append(("background", rest))
    if len({segment.index for _, segment in chosen}) < len(chosen):
        raise InputError(f"'{path}': one segment cannot be two classes {setting('classes', 'background')}")
    array = np.zeros(segmentation.grid.shape, np.uint8)
    for number, (name, segment) in enumerate(chosen, 1):
        mask = segmentation.labels[..., segment.layer] == segment.label_value
        if taken := np.unique(array[mask][array[mask] > 0]).tolist():
            other, both = chosen[taken[0] - 1][0], int(np.count_nonzero(array[mask] == taken[0]))
            raise InputError(
                f"'{path}': {both:,} voxels are {other} and {name} at once; erase them in one of the two segments"
            )
        array[mask] = number
    used = {segment.index for _, segment in chosen}
    others = [segment for segment in segmentation.segments if segment.index not in used and segment.voxels]
    return segmentation.grid.with_array(array), [f"segment '{segment.name}' is left out" for segment in others]


def _background(value: int) -> tuple[str, int, str]:
    return "background", value, "where none of the others is, some close by and some far away"


#: What is to be painted where there is too little of it: name, value, where.
PAINT = (("lumen", LUMEN, "inside some lumens"), _background(BACKGROUND))


def told_values(names: Sequence[str] = ("lumen",)) -> str:
    """Return what the numbers of labels mean."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(("not annotated", *names, "background")))


def check_counts(
    counts: Sequence[int] | NDArray[np.integer], path: Path, how: str, each: Sequence[tuple[str, int, str]]
) -> None:
    """Raise InputError where there is nothing to learn from, or nothing to find; it says what to paint."""
    for name, value, what in each:
        paint = f"paint strokes {what}, {how.format(name=name, value=value)}"
        if counts[value] == 0:
            raise InputError(f"'{path}': no voxel is annotated as {name}; {paint}")
        if counts[value] < _LEAST:
            some = f"only {counts[value]} voxel{'s are' if counts[value] > 1 else ' is'} annotated as {name}"
            raise InputError(f"'{path}': {some}, at least {_LEAST} are needed; {paint}")
    if counts[0] == 0:
        raise InputError(
            f"'{path}': every voxel is annotated, nothing is left to find; leave voxels out (0), or train on whole "
            "volumes (train_micronet.py)"
        )
