"""Data sets whose labels are of images: from a table, an HDF5, masks or blocks, loaded, or all that is wrong with them.

``labels = "image"`` in a data-set file says so; datasets/README.md has its keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import check_classes
from micronet.core.errors import InputError, MicronetError, setting
from micronet.core.names import existing, name_key
from micronet.data.augmentation import Box
from micronet.data.dataset import load_entry, read_image
from micronet.data.dataset_file import (
    NOTHING_TRAINS,
    SPLITS,
    DataSet,
    DataSetError,
    Entry,
    Found,
    inside,
    read_content,
    roots_of,
    understood,
)
from micronet.data.image_samples import Cut, ImageSample, Part, block_labels, whole_box
from micronet.data.weak.groups import sample_of_group
from micronet.data.weak.keys import Keys
from micronet.io import read_volume
from micronet.io.class_table import read_class_table
from micronet.io.hdf5_images import ImageGroup, open_groups

__all__ = ["Images", "open_images"]


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
        self.path = path
        self._roots = roots_of(path, also_in)
        self._keys = Keys(path, content, self._roots)
        self.problems, self.classes, self.cut = self._keys.problems, self._keys.classes, self._keys.cut
        self._labels: dict[tuple[str, str], tuple[int, ...]] = {}
        self._groups: dict[tuple[str, str], ImageGroup] = {}
        defaults = content.get("defaults", {})
        self._usual_split = defaults.get("split") if isinstance(defaults, dict) else None
        source = self._keys.source
        rows = self._table_rows() if source == "table" else self._group_rows() if source == "hdf5" else []
        dataset, found, wrong = understood(path, self._keys.rest, also_in, rows)
        # Of a source that could not be read at all is told why, and not that nothing is in it.
        self.problems += [one for one in wrong if rows or not self.problems or one != NOTHING_TRAINS]
        self._found = [replace(one, entry=self._placed(one.entry)) for one in found]
        self.dataset = replace(dataset, entries=tuple(one.entry for one in self._found))

    def _split_of(self, stated: str | None, own: str | None, where: str) -> str | None:
        split = stated or own or self._usual_split
        if split is None:
            self.problems.append(f"{where}: its split is not stated; give a file for each split")
        return split

    def _table_rows(self) -> list[dict[str, Any]]:
        """Return a volume for each line of the tables."""
        rows = []
        for stated, path in self._keys.files():
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
        for stated, path in self._keys.files():
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
            return _told(sample_of_group(one.entry, group, len(self.classes), self.cut, self._keys.foreground))
        if self._keys.source == "table":
            return self._of_table(one.entry, kept)
        if self.cut.block is not None and (sample := self._of_blocks(one.entry, kept)) is not None:
            return sample
        loaded = load_entry(one.entry, kept)
        self.cut.check(loaded.image.shape)
        foreground = self._foreground(one.entry, loaded.image.shape)
        return _told(ImageSample.of_sample(loaded, len(self.classes), self.cut, foreground))

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
        self.cut.check(image.shape)
        labels = block_labels(grid, len(self.classes))
        found = ImageSample.of_blocks(entry.name, image, labels, block, self.cut)
        return replace(found, entry=entry, mean=mean, sd=sd)

    def _foreground(self, entry: Entry, shape: Sequence[int]) -> NDArray[np.bool_] | None:
        pattern = self._keys.foreground
        if pattern is None:
            return None
        path = existing(self.path.parent / pattern.replace("{name}", entry.name))
        path = inside("foreground", path, self._roots)
        found = read_volume(path, axes=entry.axes, spacing_um=entry.spacing_um, flat=True)
        array: NDArray[np.bool_] = found.array[:, : entry.y_crop] != 0
        if array.shape != tuple(shape):
            raise InputError(f"foreground '{path}' has {_by(array.shape)} voxels, its image {_by(shape)}")
        return array


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _cut(array: Any, box: Box) -> NDArray[Any]:
    found: NDArray[Any] = array[tuple(slice(first, end) for first, end in box)]
    return found


def _told(sample: ImageSample) -> ImageSample:
    """Return a sample with a note where no crop of it is seen."""
    if sample.parts:
        return sample
    return replace(sample, notes=(*sample.notes, f"volume {sample.entry.name}: no crop of it has enough foreground"))
