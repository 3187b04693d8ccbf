"""Data sets of a yes or no: which classes each image, crop or block holds, from a table, an HDF5, masks or blocks.

``labels = "image"`` in a data-set file says so; datasets/README.md has its keys.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import check_classes
from micronet.core.errors import InputError, MicronetError, setting
from micronet.core.names import existing, name_key
from micronet.core.ram import Allowance
from micronet.core.ram import size as bytes_text
from micronet.data.augmentation import Box
from micronet.data.dataset import load_entry, read_image
from micronet.data.dataset_file import (
    SPLITS,
    DataSet,
    DataSetError,
    Entry,
    Found,
    as_toml,
    inside,
    kind_problem,
    read_content,
    roots_of,
    understood,
)
from micronet.data.image_samples import Cut, ImageSample, Part, block_labels, boxes_of, mask_labels, whole_box
from micronet.io import read_volume
from micronet.io.class_table import read_class_table
from micronet.io.hdf5_images import ImageGroup, open_groups
from micronet.networks.normalize import image_statistics

__all__ = ["Images", "open_images"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "labels": (str,),
    "classes": (list,),
    "table": (str, dict),
    "hdf5": (str, dict),
    "block": (int,),
    "crop": (int, list),
    "step": (int, list),
    "area": (int,),
    "foreground": (str,),
    "share": (int, float),
}
_USUAL_SHARE = 0.1
# A voxel's difference from the mean, and its square.
_STATISTICS_BYTES = 16
# Of what a mask without names is.
_ONE_CLASS = ("lumen",)


@dataclass(frozen=True)
class Images:
    """A data set of images in memory, or open: its classes, how images are cut, and the images of each split."""

    dataset: DataSet
    classes: tuple[str, ...]
    cut: Cut
    samples: Mapping[str, list[ImageSample]]


def open_images(path: str | os.PathLike[str], also_in: Sequence[str | os.PathLike[str]] = ()) -> Images:
    """Read a data-set file whose labels are of images, and load what it lists.

    Parameters
    ----------
    path, also_in
        As `micronet.data.dataset.read_dataset`.

    Returns
    -------
    Images
        Arrays of an HDF5 stay in their file, and are read crop by crop.

    Raises
    ------
    FileError
        If the file cannot be read or is no TOML.
    InputError
        If its labels are not of images.
    DataSetError
        With everything else that is wrong with it, its table and its images, at once.
    """
    path = Path(path)
    content = read_content(path)
    if content.get("labels") != "image":
        raise InputError(
            f"data set '{path}' does not say labels = \"image\", of which images and classes are learned; others train "
            f"the networks that segment {setting('network')}"
        )
    opened = _Opened(path, content, also_in)
    samples = opened.samples()
    if opened.problems:
        raise DataSetError(path, opened.problems)
    return Images(opened.dataset, opened.classes, opened.cut, samples)


class _Opened:
    """What a file says as far as it can be understood; `problems` gathers what is wrong."""

    def __init__(self, path: Path, content: Mapping[str, Any], also_in: Sequence[str | os.PathLike[str]]) -> None:
        self.path, self.problems = path, list[str]()
        self._roots = roots_of(path, also_in)
        self._keys = {key: self._checked(key, value) for key, value in content.items() if key in _TYPES}
        self.classes = self._classes()
        self.cut = self._cut()
        self._labels: dict[tuple[str, str], tuple[int, ...]] = {}
        self._groups: dict[tuple[str, str], ImageGroup] = {}
        sources = [key for key in ("table", "hdf5") if self._keys.get(key) is not None]
        if len(sources) > 1:
            self.problems.append("table and hdf5 both say what images hold; give one of them")
        defaults = content.get("defaults", {})
        self._usual_split = defaults.get("split") if isinstance(defaults, dict) else None
        rows = self._table_rows() if sources == ["table"] else self._group_rows() if sources == ["hdf5"] else []
        self.source = sources[0] if sources else "masks"
        rest = {key: value for key, value in content.items() if key not in _TYPES}
        self.dataset, found, wrong = understood(path, rest, also_in, rows)
        self.problems += wrong
        self._found = [replace(one, entry=self._placed(one.entry)) for one in found]
        entries = tuple(one.entry for one in self._found)
        self.dataset = replace(self.dataset, entries=entries)

    def _checked(self, key: str, value: Any) -> Any:
        """Return the value of a key; None, and the problem told, where it is wrong."""
        problem = kind_problem(key, value, _TYPES)
        if not problem and key in ("block", "area") and value < 1:
            problem = f"{key} = {as_toml(value)} must be at least 1"
        if not problem and key == "share" and not 0 <= value <= 1:
            problem = f"share = {as_toml(value)} must lie in 0..1"
        if not problem and isinstance(value, dict) and not _is_by_split(value):
            problem = f'{key} = {as_toml(value)} must be a file, or a file for each split: {{ train = "..", .. }}'
        if problem:
            self.problems.append(problem)
        return None if problem else value

    def _classes(self) -> tuple[str, ...]:
        named = self._keys.get("classes")
        if named is None:
            return () if self._keys.get("table") is not None else _ONE_CLASS
        try:
            if not all(isinstance(name, str) for name in named):
                raise InputError('must be an array of names, such as ["line", "ellipse"]')
            return check_classes(named)
        except InputError as error:
            self.problems.append(f"classes = {as_toml(named)}: {error}")
            return _ONE_CLASS

    def _cut(self) -> Cut:
        block = self._keys.get("block")
        sizes = {key: self._sizes(key) for key in ("crop", "step")}
        area, share = self._keys.get("area") or 1, self._keys.get("share")
        for key in ("step", "foreground"):
            if self._keys.get(key) is not None and self._keys.get("crop") is None:
                self.problems.append(f"{key} is of crops, and there is no key crop")
        if share is not None and "foreground" not in self._keys:
            self.problems.append("share is of the foreground, and there is no key foreground")
        for key, size in sizes.items():
            if block is not None and size is not None and any(length % block for length in size if length > 1):
                self.problems.append(f"{key} = {as_toml(self._keys[key])} must be a multiple of block = {block}")
        return Cut(sizes["crop"], sizes["step"], area, block, _USUAL_SHARE if share is None else share)

    def _sizes(self, key: str) -> tuple[int, int, int] | None:
        """Return the size of a crop, or of a step: one length for Y and X (and Z of blocks), two or three."""
        value = self._keys.get(key)
        if value is None:
            return None
        lengths = value if isinstance(value, list) else [value, value]
        whole = all(isinstance(length, int) and not isinstance(length, bool) and length > 0 for length in lengths)
        if not whole or len(lengths) not in (2, 3):
            self.problems.append(f"{key} = {as_toml(value)} must be [Y, X] or [Z, Y, X], or one length for Y and X")
            return None
        z, y, x = lengths if len(lengths) == 3 else (1, *lengths)
        return z, y, x

    def _files(self, key: str) -> list[tuple[str | None, Path]]:
        """Return the files of a key, each with its split where they are given by split."""
        value = self._keys[key]
        found = []
        for split, name in value.items() if isinstance(value, dict) else [(None, value)]:
            try:
                found.append((split, inside(key, existing(self.path.parent / name), self._roots)))
            except InputError as error:
                self.problems.append(str(error))
        return found

    def _split_of(self, stated: str | None, own: str | None, where: str) -> str | None:
        split = stated or own or self._usual_split
        if split is None:
            self.problems.append(f"{where}: its split is not stated; give a file for each split")
        return split

    def _table_rows(self) -> list[dict[str, Any]]:
        """Return a volume for each line of the tables."""
        rows = []
        for stated, path in self._files("table"):
            try:
                table = read_class_table(path, self.classes)
            except MicronetError as error:
                self.problems.append(str(error))
                continue
            if self.classes and table.classes != self.classes:
                self.problems.append(f"'{path.name}' has the classes {', '.join(table.classes)}, another table others")
            self.classes = self._known(table.classes, path)
            self.problems += table.problems
            if stated is None and table.rows and table.rows[0].split is None and self._usual_split is None:
                self.problems.append(f"'{path.name}' has no column split; give a table for each split, or that column")
                continue
            for row in table.rows:
                split = stated or row.split or self._usual_split or ""
                self._labels[split, name_key(row.name)] = row.labels
                file = os.path.relpath(path, self.path.parent)
                rows.append({"name": row.name, "split": split, "annotation": file})
        return rows

    def _known(self, classes: tuple[str, ...], path: Path) -> tuple[str, ...]:
        try:
            return check_classes(classes)
        except InputError as error:
            self.problems.append(f"'{path.name}': {error}")
            return classes

    def _group_rows(self) -> list[dict[str, Any]]:
        """Return a volume for each group of the HDF5 files."""
        rows = []
        for stated, path in self._files("hdf5"):
            try:
                groups, wrong = open_groups(path)
            except MicronetError as error:
                self.problems.append(str(error))
                continue
            self.problems += wrong
            for group in groups:
                split = self._split_of(stated, group.split, f"'{path.name}', group {group.name}")
                if split is not None:
                    self._groups[split, name_key(group.name)] = group
                    # A path of its own, so that no two groups are the same image; `_placed` gives the file.
                    file = os.path.join(os.path.relpath(path, self.path.parent), group.name)
                    rows.append({"name": group.name, "split": split, "image": file, "annotation": file})
        return rows

    def _placed(self, entry: Entry) -> Entry:
        if self._group_of(entry) is not None:
            entry = replace(entry, image=entry.image.parent, annotation=entry.image.parent)
        return replace(entry, may_be_empty=True, classes=self.classes if len(self.classes) > 1 else ())

    def _group_of(self, entry: Entry) -> ImageGroup | None:
        return self._groups.get((entry.split, name_key(entry.name)))

    # --- images ---

    def samples(self) -> dict[str, list[ImageSample]]:
        """Load the images of each split."""
        found: dict[str, list[ImageSample]] = {split: [] for split in SPLITS}
        kept: dict[Any, Any] = {}
        for one in self._found:
            try:
                if (sample := self._sample(one, kept)) is not None:
                    found[one.entry.split].append(sample)
            except MicronetError as error:
                self.problems += [f"volume {one.entry.name}: {line}" for line in str(error).split("\n")]
        return found

    def _sample(self, one: Found, kept: dict[Any, Any]) -> ImageSample | None:
        if one.wrong:
            return None
        group = self._group_of(one.entry)
        if group is not None:
            return self._of_group(one.entry, group)
        if self.source == "table":
            return self._of_table(one.entry, kept)
        if self.cut.block is not None and (sample := self._of_blocks(one.entry, kept)) is not None:
            return sample
        loaded = load_entry(one.entry, kept)
        foreground = self._foreground(one.entry, loaded.image.shape)
        return _told(ImageSample.of_sample(loaded, len(self.classes), self._cut_of(loaded.image.shape), foreground))

    def _cut_of(self, shape: Sequence[int]) -> Cut:
        """Return how an image is cut: along an axis on which it is shorter than a crop, it is taken whole."""
        size = self.cut.size
        if size is not None and any(length < least for length, least in zip(shape, size, strict=True)):
            raise InputError(f"it has {' x '.join(map(str, shape))} voxels, fewer than a crop (key: crop)")
        return self.cut

    def _of_table(self, entry: Entry, kept: dict[Any, Any]) -> ImageSample | None:
        if self.cut.size is not None or self.cut.block is not None:
            raise InputError(
                "a table says what an image holds, not which of its crops or blocks does: leave out crop and block, or "
                "give masks"
            )
        labels = self._labels.get((entry.split, name_key(entry.name)))
        if labels is None:
            raise InputError("no line of the table is of it")
        volume, mean, sd = read_image(entry, kept)
        image = np.ascontiguousarray(volume.array[:, : entry.y_crop])
        part = Part(whole_box(image.shape), np.array(labels, np.int8))
        return ImageSample(entry, image.shape, partial(_cut, image), mean, sd, (part,))

    def _of_blocks(self, entry: Entry, kept: dict[Any, Any]) -> ImageSample | None:
        """Return an image whose annotation has one element a block; None where it is a mask."""
        block = self.cut.block or 1
        volume, mean, sd = read_image(entry, kept)
        grid = read_volume(entry.annotation, axes=entry.axes, spacing_um=entry.spacing_um, flat=True).array
        image = volume.array
        if grid.shape == image.shape or grid.dtype == bool:
            return None
        expected = tuple(-(-length // block) for length in image.shape)
        if grid.shape != expected:
            raise InputError(
                f"'{entry.annotation}' has {_by(grid.shape)} elements, expected {_by(image.shape)}, one a voxel, or "
                f"{_by(expected)}, one a block of {block}"
            )
        labels = block_labels(grid, len(self.classes))
        return replace(
            ImageSample.of_blocks(entry.name, image, labels, block, self._cut_of(image.shape)),
            entry=entry,
            mean=mean,
            sd=sd,
        )

    def _foreground(self, entry: Entry, shape: Sequence[int]) -> NDArray[np.bool_] | None:
        pattern = self._keys.get("foreground")
        if pattern is None:
            return None
        path = existing(self.path.parent / pattern.replace("{name}", entry.name))
        path = inside("foreground", path, self._roots)
        found = read_volume(path, axes=entry.axes, spacing_um=entry.spacing_um, flat=True)
        array: NDArray[np.bool_] = found.array[:, : entry.y_crop] != 0
        if array.shape != tuple(shape):
            raise InputError(f"foreground '{path}' has {_by(array.shape)} voxels, its image {_by(shape)}")
        return array

    def _of_group(self, entry: Entry, group: ImageGroup) -> ImageSample:
        shape = group.data.shape
        read = partial(_read_plane if group.data.ndim == 2 else _cut, group.data)
        full = (1, *shape) if group.data.ndim == 2 else tuple(shape)
        _check_memory(group.data, full if self.cut.size is None else (*self.cut.size[:1], *full[1:]))
        # Of a volume plane by plane.
        mean, sd = image_statistics(read(whole_box(full)) if group.data.ndim == 2 else group.data)
        parts = [Part(box, labels) for box, labels in self._labels_of(group, full)]
        return _told(ImageSample(entry, full, read, mean, sd, tuple(parts), self.cut.block))

    def _labels_of(self, group: ImageGroup, shape: tuple[int, ...]) -> list[tuple[Box, NDArray[np.int8]]]:
        """Return the crops of a group with their labels: those of its image, or by the masks that it holds."""
        count, label = len(self.classes), group.label
        if label.shape == (count,):
            if self.cut.size is not None or self.cut.block is not None:
                raise InputError("its label is of the image, and does not say which crops or blocks hold a class")
            values = label[...]
            if not np.isin(values, (0, 1, -1)).all():
                raise InputError(f"its label must be 1, 0, or -1 where not known, found {values.tolist()}")
            return [(whole_box(shape), values.astype(np.int8))]
        read = self._mask_reader(group, shape)
        cut, found = self._cut_of(shape), []
        foreground = self._group_foreground(group)
        for box in boxes_of(shape, cut):
            if foreground is None or (foreground(box) != 0).mean() >= cut.share:
                found.append((box, read(box)))
        return found

    def _group_foreground(self, group: ImageGroup) -> Callable[[Box], NDArray[Any]] | None:
        name = self._keys.get("foreground")
        if name is None:
            return None
        array = group.arrays.get(name)
        if array is None or array.shape != group.data.shape:
            raise InputError(f"it has no array {name} of the shape of data, which foreground names")
        return partial(_read_plane if array.ndim == 2 else _cut, array)

    def _mask_reader(self, group: ImageGroup, shape: tuple[int, ...]) -> Callable[[Box], NDArray[np.int8]]:
        """Return what gives the labels of a crop by the group's masks."""
        count, label, data = len(self.classes), group.label, group.data
        if label.shape == data.shape:  # numbers of classes
            numbers = partial(_read_plane if data.ndim == 2 else _cut, label)
            return lambda box: mask_labels(_within(numbers(box), count), None, count, self.cut)
        if label.shape == (count, *data.shape):
            each = [partial(_read_plane if data.ndim == 2 else _cut, _Member(label, k)) for k in range(count)]
            return lambda box: np.concatenate([mask_labels(one(box) != 0, None, 1, self.cut) for one in each])
        raise InputError(
            f"label has the shape {_by(label.shape)}, expected {count} (a number each class), {_by(data.shape)} or "
            f"{count} x {_by(data.shape)} (masks)"
        )


def _check_memory(array: Any, box: Sequence[int]) -> None:
    """Refuse an array of which more is held at a time than fits into memory, before any of it is read."""
    needed = math.prod(box) * (array.dtype.itemsize + _STATISTICS_BYTES)
    allowance = Allowance.of(None)
    if not allowance.fits(needed):
        raise InputError(
            f"of its data, {_by(array.shape)}, {_by(box)} are held at a time: about {bytes_text(needed)} of memory "
            f"needed, {allowance.words}; cut it into smaller images"
        )


class _Member:
    """One mask of several in an array of a file, which is read as it is indexed."""

    def __init__(self, array: Any, number: int) -> None:
        self._array, self._number = array, number

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        found: NDArray[Any] = self._array[(self._number, *index)]
        return found


def _is_by_split(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(key in SPLITS and isinstance(file, str) for key, file in value.items())


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _cut(array: Any, box: Box) -> NDArray[Any]:
    found: NDArray[Any] = array[tuple(slice(first, end) for first, end in box)]
    return found


def _read_plane(array: Any, box: Box) -> NDArray[Any]:
    return _cut(array, box[1:])[None]


def _within(numbers: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return numbers of classes; InputError where there are others."""
    if numbers.dtype != bool and not np.isin(numbers, range(classes + 1)).all():
        found = [f"{number:g}" for number in np.unique(numbers)[-5:]]
        raise InputError(f"a mask holds {', '.join(found)}, expected 0 to {classes}, the numbers of the classes")
    return numbers


def _told(sample: ImageSample) -> ImageSample:
    """Return a sample with a note where no crop of it is seen."""
    if sample.parts:
        return sample
    return replace(sample, notes=(*sample.notes, f"volume {sample.entry.name}: no crop of it has enough foreground"))
