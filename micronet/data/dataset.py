"""Data sets in memory: the volumes that a data-set file lists, loaded, or everything that is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import BACKGROUND
from micronet.core.errors import InputError, MicronetError
from micronet.core.provenance import sha256_of
from micronet.core.volume import Volume, share_grid
from micronet.data.dataset_file import (
    SPLITS,
    DataSet,
    DataSetError,
    Entry,
    absence_of,
    classes_in,
    read_all,
    read_dataset,
)
from micronet.io import files_of, files_read_with, read_annotation, read_volume
from micronet.io.checks import build_volume
from micronet.io.classes import read_classes
from micronet.io.images import read_colours
from micronet.io.sidecar import refuse_second_log
from micronet.networks.normalize import image_statistics, log_intensity, standardize

__all__ = [
    "SPLITS",
    "DataSet",
    "DataSetError",
    "Entry",
    "Sample",
    "check_dataset",
    "classes_in",
    "dataset_files",
    "hashes",
    "load_entry",
    "load_split",
    "open_dataset",
    "read_dataset",
    "read_image",
]


@dataclass(frozen=True)
class Sample:
    """A volume in memory, kept as small as it was stored and normalised on use.

    `image` (Z, Y, X) is cropped, in the file's own number type (float32 after a logarithm); `mask` is bool;
    `weight` is bool, False where nothing is annotated, or None where everything is. `mean` and `sd` are those of
    the whole volume before the crop. `notes` say what had to be assumed for the annotation to lie on the image.
    `classes` is None where lumen is told from background; else uint8, 0 background, 1 the first class of the entry,
    .., and `mask` is where it is not 0.
    """

    entry: Entry
    volume: Volume
    image: NDArray[Any]
    mask: NDArray[np.bool_]
    weight: NDArray[np.bool_] | None
    mean: float
    sd: float
    notes: tuple[str, ...] = ()
    classes: NDArray[np.uint8] | None = None

    @property
    def target(self) -> NDArray[Any]:
        """What a network is to say: `classes` where there are several, else `mask`."""
        return self.mask if self.classes is None else self.classes

    @property
    def names(self) -> tuple[str, ...]:
        """What the numbers of `target` mean, background first."""
        return (BACKGROUND, *(self.entry.classes or ("lumen",)))

    @classmethod
    def of(
        cls,
        name: str,
        volume: Volume,
        mask: NDArray[np.bool_],
        weight: NDArray[np.bool_] | None = None,
        y_crop: int | None = None,
    ) -> Sample:
        """Return a volume that is in memory already, with its uncropped mask and weight, as one to train on."""
        entry = Entry(name, "train", Path(), Path(), y_crop=y_crop)
        depth = slice(None, y_crop)
        image, inside = np.ascontiguousarray(volume.array[:, depth]), np.ascontiguousarray(mask[:, depth])
        counted = None if weight is None else np.ascontiguousarray(weight[:, depth])
        return cls(entry, volume, image, inside, counted, *image_statistics(volume.array))

    def normalized(self) -> NDArray[np.float32]:
        """Return the cropped image as the networks take it, float32 (Z, Y, X)."""
        return standardize(self.image, self.mean, self.sd)


def open_dataset(
    path: str | os.PathLike[str], also_in: Sequence[str | os.PathLike[str]] = ()
) -> tuple[DataSet, dict[str, list[Sample]]]:
    """Read a data-set file and load its volumes, as `read_dataset` and `load_split`.

    What is wrong with the file and what is wrong with the volumes is told together, by one DataSetError.
    """
    dataset, found, problems = read_all(Path(path), also_in)
    if not problems:
        return dataset, load_split(dataset)
    for one in found:
        kept: _Images = {}  # for one volume: none of them will be trained on
        problems += [f"volume {one.entry.name}: {problem}" for problem in _try_load(one.entry, kept, one.readable)[1]]
    raise DataSetError(dataset.path, problems)


def check_dataset(path: str | os.PathLike[str]) -> bool:
    """Read a data-set file and each of its volumes, one at a time; DataSetError with all that is wrong, as above.

    Returns whether all of them are images of one plane.
    """
    flat = True
    dataset, found, problems = read_all(Path(path), ())
    for one in found:
        sample, wrong = _try_load(one.entry, {}, one.readable)
        problems += [f"volume {one.entry.name}: {problem}" for problem in wrong]
        flat = flat and sample is not None and sample.volume.shape[0] == 1
    if problems:
        raise DataSetError(dataset.path, problems)
    return flat


def load_split(dataset: DataSet, splits: Sequence[str] = SPLITS) -> dict[str, list[Sample]]:
    """Load the volumes of some splits, or report everything that is wrong with them.

    Parameters
    ----------
    dataset : DataSet
    splits : sequence of str

    Returns
    -------
    dict of str to list of Sample

    Raises
    ------
    DataSetError
        Naming every volume that is missing, damaged, without lumen inside its crop, or on another grid than its
        annotation.
    """
    problems: list[str] = []
    samples: dict[str, list[Sample]] = {split: [] for split in splits}
    images: _Images = {}
    for split in splits:
        for entry in dataset.split(split):
            sample, wrong = _try_load(entry, images)
            problems += [f"volume {entry.name} ({split}): {problem}" for problem in wrong]
            if sample is not None:
                samples[split].append(sample)
    if problems:
        raise DataSetError(dataset.path, problems)
    return samples


# Images with mean and standard deviation, by how they are read: the same one in two splits is read once.
_Images = dict[tuple[Any, ...], tuple[Volume, float, float]]


def _try_load(entry: Entry, images: _Images, readable: bool = True) -> tuple[Sample | None, list[str]]:
    """Load a volume; return it, or None and all that is wrong with its files.

    Where it is not known how to read them, it is only looked whether they are there.
    """
    named = (("image", entry.image), ("annotation", entry.annotation))
    missing = [absence for key, path in named if (absence := absence_of(key, path))]
    if missing or not readable:
        return None, missing
    problems, image, labels = [], None, None
    try:
        image = read_image(entry, images)
    except MicronetError as error:
        problems.append(str(error))
    try:
        labels = _read_labels(entry)
    except MicronetError as error:
        problems.append(str(error))
    if image is None or labels is None:
        return None, problems
    try:
        return _combined(entry, image, labels), []
    except MicronetError as error:
        return None, [str(error)]


def load_entry(entry: Entry, images: _Images) -> Sample:
    """Load one volume; InputError with all that is wrong with its files. `images` keeps those that were read."""
    sample, problems = _try_load(entry, images)
    if sample is None:
        raise InputError(*problems)
    return sample


def read_image(entry: Entry, images: _Images) -> tuple[Volume, float, float]:
    """Return the image of a volume with its mean and standard deviation; MicronetError where it cannot be read."""
    key = (entry.image.resolve(), entry.intensity, entry.axes, entry.spacing_um)
    if key not in images:
        volume = read_volume(entry.image, axes=entry.axes, spacing_um=entry.spacing_um, flat=True)
        if entry.intensity == "log":
            refuse_second_log(entry.image)
            volume = volume.with_array(log_intensity(volume.array))
        images[key] = (volume, *image_statistics(volume.array))
    return images[key]


def _combined(entry: Entry, found: tuple[Volume, float, float], read: _Labels) -> Sample:
    volume, mean, sd = found
    labels, weight = read
    # The annotation may settle the length unit of the image.
    volume, labels, note = share_grid(volume, labels, str(entry.image), str(entry.annotation))
    notes = (note,) if note else ()
    if entry.within is not None:
        inside = np.zeros(labels.shape, bool)
        inside[tuple(slice(first, end) for first, end in entry.within)] = True
        weight = inside if weight is None else weight & inside
    depth = slice(None, entry.y_crop)
    image, target = (np.ascontiguousarray(array[:, depth]) for array in (volume.array, labels.array))
    mask: NDArray[np.bool_] = target != 0 if entry.classes else target
    weight = None if weight is None else np.ascontiguousarray(weight[:, depth])
    counted = mask if weight is None else mask & weight
    if not counted.any() and not entry.may_be_empty:
        what = "voxel of a class" if entry.classes else "lumen voxel"
        raise InputError(f"'{entry.annotation}': no {what} is annotated inside the crop")
    return Sample(entry, volume, image, mask, weight, mean, sd, notes, target if entry.classes else None)


# What an annotation says, bool or the numbers of classes; and where it says anything, None where everywhere.
_Labels = tuple[Volume, NDArray[np.bool_] | None]


def _read_labels(entry: Entry) -> _Labels:
    if entry.colours and entry.annotation.suffix.lower() == ".png":
        return _read_colours(entry), None
    how: dict[str, Any] = {"axes": entry.axes, "spacing_um": entry.spacing_um, "flat": True}
    if entry.classes:
        found = read_classes(entry.annotation, entry.classes, sparse=entry.labels == "sparse", **how)
        return found.volume, found.counted
    if entry.labels == "mask":
        segment = None if entry.segment is None else str(entry.segment)
        return read_annotation(entry.annotation, segment=segment, **how).mask, None
    labels = read_volume(entry.annotation, **how)
    if not np.isin(labels.array, (0, 1, 2)).all():
        raise InputError(
            f"'{entry.annotation}': sparse labels are 0 (not annotated), 1 (lumen), 2 (background); "
            f"found {np.unique(labels.array)[:8].tolist()}"
        )
    return labels.with_array(labels.array == 1), labels.array != 0


def _read_colours(entry: Entry) -> Volume:
    """Return what a colour-coded PNG says: the number of the class, or whether it is the only one."""
    named = dict(entry.colours)
    order = [BACKGROUND, *(entry.classes or (name for name in named if name != BACKGROUND))]
    numbers = {colour: order.index(name) for name, colour in named.items()}
    if BACKGROUND not in named and (0, 0, 0) not in numbers:
        numbers[(0, 0, 0)] = 0
    found = read_colours(entry.annotation, numbers)
    labels = build_volume(entry.annotation, found if entry.classes else found == 1)
    return labels if entry.spacing_um is None else labels.with_spacing(entry.spacing_um)


def dataset_files(dataset: DataSet) -> list[Path]:
    """Return every file that a data set consists of, its own included."""
    paths = [path for entry in dataset.entries for path in (entry.image, entry.annotation)]
    return [dataset.path, *(file for path in dict.fromkeys(paths) for file in files_read_with(path))]


def hashes(dataset: DataSet) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every image and annotation, by volume, for the record of a run."""
    known: dict[Path, str] = {}  # many volumes may share a file

    def of(path: Path) -> str:
        if path not in known:
            known[path] = sha256_of(*files_of(path))
        return known[path]

    return {
        f"{entry.split}/{entry.name}": {"image": of(entry.image), "annotation": of(entry.annotation)}
        for entry in dataset.entries
    }
