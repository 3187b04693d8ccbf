"""Data sets: a TOML file says which volumes to train, validate and test on, and how to read them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.names import existing, name_key
from micronet.core.provenance import sha256_of
from micronet.core.volume import Volume, share_grid
from micronet.data.augmentation import FLIPS, Augmentation
from micronet.io import files_of, files_read_with, read_annotation, read_volume
from micronet.io.sidecar import refuse_second_log
from micronet.networks.normalize import image_statistics, log_intensity, standardize
from micronet.networks.padding import Padding

__all__ = [
    "SPLITS",
    "DataSet",
    "DataSetError",
    "Entry",
    "Sample",
    "dataset_files",
    "hashes",
    "load_split",
    "read_dataset",
]

SPLITS = ("train", "validation", "test")
_LARGEST_FILE = 1_000_000
_MOST_DOTS = 200
_MOST_USES = 1000
# A screen of problems is enough to begin with.
_MOST_PROBLEMS = 40
_AXES = ("z", "y", "x")


class DataSetError(InputError):
    """Everything that is wrong with a data set, one line each in `problems`."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} problems" if len(problems) > 1 else "one problem"
        lines = [f"  {problem}" for problem in problems[:_MOST_PROBLEMS]]
        if len(problems) > _MOST_PROBLEMS:
            lines.append(f"  .. and {len(problems) - _MOST_PROBLEMS:,} more")
        super().__init__(f"data set '{path}' has {count}:", *lines)


@dataclass(frozen=True)
class Entry:
    """One volume of a data set.

    Parameters
    ----------
    name : str
        How outputs and messages call it.
    split : {"train", "validation", "test"}
    image, annotation : Path
        Volume and mask, on the same grid.
    segment : str or int, optional
        Which segment of a .seg.nrrd annotation is the lumen.
    labels : {"mask", "sparse"}
        A mask annotates every voxel. A sparse annotation is a label volume: 0 not annotated, 1 lumen,
        2 background; only annotated voxels train, validate and test.
    intensity : {"as stored", "log"}
        ``"log"`` takes the natural logarithm first, for linear intensities; values below 1 count as 1.
    y_crop : int, optional
        Only depths below it are used; the image is normalised before the crop, as published.
    within : tuple of 3 (first, end) pairs, optional
        Voxels outside this box (z, y, x) count as not annotated. The image is still seen whole.
    axes, spacing_um : optional
        For files that do not state them.
    """

    name: str
    split: str
    image: Path
    annotation: Path
    segment: str | int | None = None
    labels: Literal["mask", "sparse"] = "mask"
    intensity: Literal["as stored", "log"] = "as stored"
    y_crop: int | None = None
    within: tuple[tuple[int, int], ...] | None = None
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class DataSet:
    """What a data-set file says; nothing is loaded yet.

    `caution` is a sentence to be shown wherever test scores are; `augmentation` takes the place of the recipe's.
    """

    path: Path
    name: str
    entries: tuple[Entry, ...]
    caution: str = ""
    augmentation: Augmentation | None = None

    def split(self, split: str) -> tuple[Entry, ...]:
        """Return the volumes of one split, in the order of the file."""
        return tuple(entry for entry in self.entries if entry.split == split)


@dataclass(frozen=True)
class Sample:
    """A volume in memory, kept as small as it was stored and normalised on use.

    `image` (Z, Y, X) is cropped, in the file's own number type (float32 after a logarithm); `mask` is bool;
    `weight` is bool, False where nothing is annotated, or None where everything is. `mean` and `sd` are those of
    the whole volume before the crop. `notes` say what had to be assumed for the annotation to lie on the image.
    """

    entry: Entry
    volume: Volume
    image: NDArray[Any]
    mask: NDArray[np.bool_]
    weight: NDArray[np.bool_] | None
    mean: float
    sd: float
    notes: tuple[str, ...] = ()

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

    @property
    def padded(self) -> str | None:
        """A line on what is mirrored of the cropped image for the network, None where nothing is."""
        return Padding(self.image.shape).note

    def normalized(self) -> NDArray[np.float32]:
        """Return the cropped image as the networks take it, float32 (Z, Y, X)."""
        return standardize(self.image, self.mean, self.sd)


def read_dataset(path: str | os.PathLike[str], also_in: Sequence[str | os.PathLike[str]] = ()) -> DataSet:
    """Read a data-set file; `datasets/README.md` describes the format.

    Parameters
    ----------
    path : path-like
        TOML. Paths in it are relative to its own folder, and may not leave it: a data set may come from elsewhere.
        One in a folder called ``datasets`` may also use what lies beside that folder.
    also_in : sequence of path-like
        Further folders that it may name files in. Symbolic links are followed first, here and above.

    Returns
    -------
    DataSet

    Raises
    ------
    FileError
        If the file cannot be read or is no TOML.
    DataSetError
        If keys are unknown, missing or of the wrong type, names repeat, or no volume trains: all of it at once.
    """
    path = Path(path)
    content = _content(path)
    problems = _unknown_keys(content)
    augmentation = None
    try:
        augmentation = _augmentation(content["augmentation"]) if "augmentation" in content else None
    except InputError as error:
        problems.append(f"augmentation: {error}")
    own = path.resolve().parent
    roots = [own.parent if own.name == "datasets" else own, *(Path(folder).resolve() for folder in also_in)]
    entries, wrong = _entries(path, content, roots)
    problems += [*wrong, *_listed_twice(entries)]
    if not any(entry.split == "train" for entry in entries) and not problems:
        problems.append('no volume with split = "train"')
    problems += _overlaps(entries)
    if problems:
        raise DataSetError(path, problems)
    name, caution = str(content.get("name", path.stem)), str(content.get("caution", ""))
    return DataSet(path, name, tuple(entries), caution, augmentation)


def _content(path: Path) -> dict[str, Any]:
    """Return the tables of the file; FileError where it cannot be read, or would take too long to."""
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"cannot read data set '{path}': it is no file")
        if path.stat().st_size > _LARGEST_FILE:
            raise FileError(f"'{path}' has {path.stat().st_size:,} bytes: too large for a data-set file")
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.split("\n"), 1):
            if line.count(".") > _MOST_DOTS:  # tomllib takes seconds for a.b.c. .., hours for a file of it
                raise ValueError(f"line {number} has more than {_MOST_DOTS} dots")
        return tomllib.loads(text)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot read data set '{path}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # tomllib's own, and those of numbers and nesting
        raise FileError(f"data set '{path}' is not valid TOML: {error}") from error


def _unknown_keys(content: Mapping[str, Any]) -> list[str]:
    unknown = set(content) - {"name", "caution", "augmentation", "defaults", "volume"}
    known = "name, caution, [augmentation], [defaults], [[volume]]"
    return [f"unknown key '{key}'; known: {known}" for key in sorted(unknown)]


def _entries(path: Path, content: Mapping[str, Any], roots: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Return the volumes that the file lists, and what is wrong with the others."""
    defaults, tables = content.get("defaults", {}), content.get("volume", [])
    if not isinstance(defaults, dict) or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise DataSetError(path, ["defaults must be a table [defaults], volumes tables [[volume]]"])
    entries, problems = [], []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(_entry(defaults | table, path.parent, roots))
        except InputError as error:
            problems.append(f"volume {table.get('name', number)}: {error}")
    return entries, problems


def _listed_twice(entries: Sequence[Entry]) -> list[str]:
    seen: set[tuple[str, str]] = set()
    problems = []
    for entry in entries:
        if (name_key(entry.name), entry.split) in seen:
            problems.append(f"volume {entry.name}: listed twice in split '{entry.split}'")
        seen.add((name_key(entry.name), entry.split))
    return problems


def _augmentation(table: Any) -> Augmentation:
    if not isinstance(table, dict):
        raise InputError("must be a table [augmentation]")
    known = {field.name: type(getattr(FLIPS, field.name)) for field in fields(Augmentation)}
    for key, value in table.items():
        if key not in known:
            raise InputError(f"unknown key '{key}'; known: {', '.join(known)}")
        kinds = (int, float) if known[key] is float else (known[key],)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"{key} = {value!r} must be {'a number' if known[key] is float else known[key].__name__}")
    return replace(FLIPS, **table)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "split": (str,),
    "image": (str,),
    "annotation": (str,),
    "segment": (str, int),
    "labels": (str,),
    "intensity": (str,),
    "y_crop": (int,),
    "within": (dict,),
    "axes": (str,),
    "spacing_um": (int, float, list),
}
_CHOICES = {"split": SPLITS, "labels": ("mask", "sparse"), "intensity": ("as stored", "log")}


def _entry(table: Mapping[str, Any], folder: Path, roots: Sequence[Path]) -> Entry:
    unknown = sorted(set(table) - set(_TYPES))
    if unknown:
        raise InputError(f"unknown key '{unknown[0]}'; known: {', '.join(_TYPES)}")
    for key in ("name", "split", "image", "annotation"):
        if key not in table:
            raise InputError(f"'{key}' is missing")
    for key, value in table.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise InputError(f"{key} = {value!r} must be {' or '.join(kind.__name__ for kind in _TYPES[key])}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise InputError(f"{key} = {value!r} must be one of: {', '.join(_CHOICES[key])}")
    values = dict(table)
    for key in ("image", "annotation"):
        values[key] = _inside(key, existing(folder / values[key].replace("{name}", values["name"])), roots)
    if "y_crop" in values and values["y_crop"] < 1:
        raise InputError(f"y_crop = {values['y_crop']} must be at least 1")
    if "within" in values:
        values["within"] = _box(values["within"])
    if "spacing_um" in values:
        values["spacing_um"] = _spacing(values["spacing_um"])
    assert set(values) <= {field.name for field in fields(Entry)}  # noqa: S101 - _TYPES lists the fields
    return Entry(**values)


def _inside(key: str, path: Path, roots: Sequence[Path]) -> Path:
    """Return a path that lies in one of the folders once links are followed; InputError for another."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{key} = '{path}' cannot be found ({error})") from error
    if not any(found.is_relative_to(root) for root in roots):
        raise InputError(
            f"{key} = '{path}' lies outside the data set's folder, which is refused; "
            f"allow a further folder {setting('also_in')}"
        )
    return path


def _box(table: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    box = []
    for axis in _AXES:
        pair = table.get(axis, [0, 2**31])
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(edge, int) for edge in pair)
            or not 0 <= pair[0] < pair[1]
        ):
            raise InputError(f"within.{axis} = {pair!r} must be [first, end] with 0 <= first < end")
        box.append((pair[0], pair[1]))
    if set(table) - set(_AXES):
        raise InputError(f"within has keys {', '.join(sorted(table))}; known: z, y, x")
    return tuple(box)


def _spacing(value: float | list[Any]) -> tuple[float, float, float]:
    lengths = value if isinstance(value, list) else [value] * 3
    if len(lengths) != 3 or not all(isinstance(length, int | float) and length > 0 for length in lengths):
        raise InputError(f"spacing_um = {value!r} must be one positive length, or three: [z, y, x]")
    z, y, x = (float(length) for length in lengths)
    return z, y, x


def _overlaps(entries: Sequence[Entry]) -> list[str]:
    """Report voxels of one image that are in two splits."""
    by_image: dict[Path, list[Entry]] = {}
    for entry in entries:
        by_image.setdefault(entry.image.resolve(), []).append(entry)
    problems = []
    for image, uses in by_image.items():
        if len(uses) > _MOST_USES:
            problems.append(f"'{image.name}' is listed {len(uses):,} times, at most {_MOST_USES} are read")
            continue
        problems += [_overlap(entry, other) for entry, other in combinations(uses, 2) if not _apart(entry, other)]
    return problems


def _apart(entry: Entry, other: Entry) -> bool:
    if entry.split == other.split:
        return True
    everywhere = ((0, 2**31),) * 3
    boxes = zip(entry.within or everywhere, other.within or everywhere, strict=True)
    return any(a_end <= b_first or b_end <= a_first for (a_first, a_end), (b_first, b_end) in boxes)


def _overlap(other: Entry, entry: Entry) -> str:
    return (
        f"volume {entry.name}: '{entry.image.name}' is in {other.split} and in {entry.split}; "
        "separate them with within = { z = [first, end] }, or list it once"
    )


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
    images: dict[tuple[Any, ...], tuple[Volume, float, float]] = {}  # the same image in two splits is read once
    for split in splits:
        for entry in dataset.split(split):
            try:
                samples[split].append(_load(entry, images))
            except MicronetError as error:
                problems.append(f"volume {entry.name} ({split}): {error}")
    if problems:
        raise DataSetError(dataset.path, problems)
    return samples


def _load(entry: Entry, images: dict[tuple[Any, ...], tuple[Volume, float, float]]) -> Sample:
    key = (entry.image.resolve(), entry.intensity, entry.axes, entry.spacing_um)
    if key not in images:
        volume = read_volume(entry.image, axes=entry.axes, spacing_um=entry.spacing_um)
        if entry.intensity == "log":
            refuse_second_log(entry.image)
            volume = volume.with_array(log_intensity(volume.array))
        images[key] = (volume, *image_statistics(volume.array))
    volume, mean, sd = images[key]
    volume, mask, weight, notes = _read_labels(entry, volume)
    depth = slice(None, entry.y_crop)
    image, mask = volume.array[:, depth], mask[:, depth]
    weight = None if weight is None else np.ascontiguousarray(weight[:, depth])
    counted = mask if weight is None else mask & weight
    if not counted.any():
        raise InputError(f"'{entry.annotation}': no lumen voxel is annotated inside the crop")
    return Sample(entry, volume, np.ascontiguousarray(image), np.ascontiguousarray(mask), weight, mean, sd, notes)


def _read_labels(
    entry: Entry, volume: Volume
) -> tuple[Volume, NDArray[np.bool_], NDArray[np.bool_] | None, tuple[str, ...]]:
    """Return the image, whose length unit may be settled by the annotation, its mask and weight, and notes."""
    weight: NDArray[np.bool_] | None = None
    if entry.labels == "sparse":
        labels = read_volume(entry.annotation, axes=entry.axes, spacing_um=entry.spacing_um)
        if not np.isin(labels.array, (0, 1, 2)).all():
            raise InputError(
                f"'{entry.annotation}': sparse labels are 0 (not annotated), 1 (lumen), 2 (background); "
                f"found {np.unique(labels.array)[:8].tolist()}"
            )
        volume, _, note = share_grid(volume, labels, str(entry.image), str(entry.annotation))
        mask, weight = labels.array == 1, labels.array != 0
    else:
        segment = None if entry.segment is None else str(entry.segment)
        annotation = read_annotation(entry.annotation, segment=segment, axes=entry.axes, spacing_um=entry.spacing_um)
        volume, _, note = share_grid(volume, annotation.mask, str(entry.image), str(entry.annotation))
        mask = annotation.mask.array
    if entry.within is not None:
        inside = np.zeros(mask.shape, bool)
        inside[tuple(slice(first, end) for first, end in entry.within)] = True
        weight = inside if weight is None else weight & inside
    return volume, mask, weight, (note,) if note else ()


def dataset_files(dataset: DataSet) -> list[Path]:
    """Return every file that a data set consists of, its own included."""
    paths = [path for entry in dataset.entries for path in (entry.image, entry.annotation)]
    return [dataset.path, *(file for path in paths for file in files_read_with(path))]


def hashes(dataset: DataSet) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every image and annotation, by volume, for the record of a run."""
    return {
        f"{entry.split}/{entry.name}": {
            "image": sha256_of(*files_of(entry.image)),
            "annotation": sha256_of(*files_of(entry.annotation)),
        }
        for entry in dataset.entries
    }
