"""The data-set file: a TOML that says which volumes to train, validate and test on, and how to read them."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from micronet.core.classes import BACKGROUND, MOST_CLASSES, check_classes
from micronet.core.errors import SETTINGS, FileError, InputError, MicronetError, setting
from micronet.core.names import existing, name_key
from micronet.data.augmentation import FLIPS, Augmentation
from micronet.data.folders import folder_tables
from micronet.io.images import parse_colour

__all__ = [
    "NOTHING_TRAINS",
    "SPLITS",
    "DataSet",
    "DataSetError",
    "Entry",
    "Found",
    "absence_of",
    "as_toml",
    "classes_in",
    "inside",
    "kind_problem",
    "read_all",
    "read_content",
    "read_dataset",
    "roots_of",
    "understood",
]

SPLITS = ("train", "validation", "test")
#: The problem of a data set that lists no volume to train on.
NOTHING_TRAINS = 'no volume with split = "train"'
_LARGEST_FILE = 1_000_000
_MOST_DOTS = 200
_MOST_USES = 1000
_DEEPEST = 3  # nests of a value that a message shows
# A screen of problems is enough to begin with.
_MOST_PROBLEMS = 40
_AXES = ("z", "y", "x")


class DataSetError(InputError):
    """Everything that is wrong with a data set, one line each in `problems`, in the words of its file."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        problems = [_in_its_words(problem) for problem in problems]
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
    colours : tuple of (str, (red, green, blue))
        Name and colour of every class, of a mask that is a colour-coded PNG.
    classes : tuple of str
        Names of several exclusive classes beside background; none where lumen is told from background.
    may_be_empty : bool
        No lumen need be annotated: of the images of a folder, many may have none.
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
    colours: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    classes: tuple[str, ...] = ()
    may_be_empty: bool = False


@dataclass(frozen=True)
class DataSet:
    """What a data-set file says; nothing is loaded yet.

    `caution` is a sentence to be shown wherever test scores are; `augmentation` takes the place of the recipe's.
    `classes` are those of every volume.
    """

    path: Path
    name: str
    entries: tuple[Entry, ...]
    caution: str = ""
    augmentation: Augmentation | None = None
    classes: tuple[str, ...] = ()

    def split(self, split: str) -> tuple[Entry, ...]:
        """Return the volumes of one split, in the order of the file."""
        return tuple(entry for entry in self.entries if entry.split == split)


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
    dataset, _, problems = read_all(Path(path), also_in)
    if problems:
        raise DataSetError(dataset.path, problems)
    return dataset


@dataclass(frozen=True)
class Found:
    """A volume that the file lists, and the keys whose values were left out because they are wrong."""

    entry: Entry
    wrong: frozenset[str]

    @property
    def readable(self) -> bool:
        """Whether it is known how its files are to be read."""
        return not self.wrong & _READ_BY


def read_all(path: Path, also_in: Sequence[str | os.PathLike[str]]) -> tuple[DataSet, list[Found], list[str]]:
    """Return what a file says as far as it can be understood, and what is wrong with it."""
    content = read_content(path)
    if content.get("labels") == "image":
        raise InputError(
            f"data set '{path}' says what each image holds (labels = \"image\"), which trains micranet "
            f"{setting('network')}"
        )
    return understood(path, content, also_in)


def roots_of(path: Path, also_in: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the folders that a data-set file may name files in."""
    own = path.resolve().parent
    return [own.parent if own.name == "datasets" else own, *(Path(folder).resolve() for folder in also_in)]


def understood(
    path: Path,
    content: Mapping[str, Any],
    also_in: Sequence[str | os.PathLike[str]],
    rows: Sequence[Mapping[str, Any]] = (),
) -> tuple[DataSet, list[Found], list[str]]:
    """Return what the tables of a file say as `read_all`; `rows` are volumes that it lists elsewhere."""
    problems = _unknown_keys(content)
    augmentation, wrong = _augmentation(content.get("augmentation"))
    problems += [f"augmentation: {problem}" for problem in wrong]
    roots = roots_of(path, also_in)
    defaults, tables = _tables(path, content)
    listed, wrong = _of_folder(content, path)
    listed += [dict(row) for row in rows]
    problems += wrong
    tables = [*listed, *tables]
    found, wrong = _entries(defaults, tables, path.parent, roots)
    colours, classes, more = _told_apart(content, [defaults, *tables])
    problems += more
    found = [
        Found(
            replace(one.entry, colours=colours, classes=classes, may_be_empty=number < len(listed)),
            one.wrong | {"classes"} if more else one.wrong,
        )
        for number, one in enumerate(found)
    ]
    splits = [(defaults | table).get("split") for table in tables]
    problems += [*wrong, *_listed_twice([one.entry for one in found if "split" not in one.wrong])]
    if "train" not in splits and all(split in SPLITS for split in splits):  # a slip of the pen is told already
        problems.append(NOTHING_TRAINS)
    problems += _overlaps([one.entry for one in found if not one.wrong & {"split", "within"}])
    name, caution = str(content.get("name", path.stem)), str(content.get("caution", ""))
    return DataSet(path, name, tuple(one.entry for one in found), caution, augmentation, classes), found, problems


def classes_in(path: Path) -> tuple[str, ...]:
    """Return the classes that a data-set file names; none where it cannot be read, which who opens it will say."""
    try:
        return _told_apart(read_content(path), ())[1]
    except MicronetError:
        return ()


def read_content(path: Path) -> dict[str, Any]:
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
    unknown = set(content) - {"name", "caution", "folder", "colours", "classes", "augmentation", "defaults", "volume"}
    known = "name, caution, folder, colours, classes, [augmentation], [defaults], [[volume]]"
    return [f"unknown key '{key}'; known: {known}" for key in sorted(unknown)]


def _tables(path: Path, content: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the table of the defaults, and that of each volume."""
    defaults, tables = content.get("defaults", {}), content.get("volume", [])
    if not isinstance(defaults, dict) or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise DataSetError(path, ["defaults must be a table [defaults], volumes tables [[volume]]"])
    return defaults, tables


def _entries(
    defaults: dict[str, Any], tables: Sequence[dict[str, Any]], folder: Path, roots: Sequence[Path]
) -> tuple[list[Found], list[str]]:
    """Return the volumes that the file lists, and what is wrong with them, with the others and with the defaults."""
    found = []
    problems = [f"[defaults]: {kind_problem(key, None, _TYPES)}" for key in defaults if key not in _TYPES]
    defaults = {key: value for key, value in defaults.items() if key in _TYPES}
    for number, table in enumerate(tables, 1):
        one, wrong = _entry(defaults | table, folder, roots)
        own = f"volume {table.get('name', number)}"
        for key, problem in wrong:
            of_all = key in defaults and key not in table and key not in _PATHS  # these depend on the volume's name
            problems.append(f"{'[defaults]' if of_all else own}: {problem}")
        if one is not None:
            found.append(one)
    return found, list(dict.fromkeys(problems))


def _of_folder(content: Mapping[str, Any], path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tables of the volumes that lie in the folder that a file names, and what is wrong with it."""
    folder = content.get("folder")
    if folder is None:
        return [], []
    if not isinstance(folder, str):
        return [], [f"folder = {as_toml(folder)} must be a string"]
    try:
        return folder_tables(path.parent, folder), []
    except InputError as error:
        return [], [str(error)]


_Colours = tuple[tuple[str, tuple[int, int, int]], ...]


def _told_apart(
    content: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]
) -> tuple[_Colours, tuple[str, ...], list[str]]:
    """Return name and colour of every class, the names of several classes, and what is wrong with them."""
    colours, problems = _colours(content.get("colours"))
    coloured = tuple(name for name, _ in colours if name != BACKGROUND)
    classes, wrong = _classes(content.get("classes", [*coloured] if len(coloured) > 1 else None))
    problems += wrong
    if classes and coloured and set(classes) != set(coloured):
        problems.append(f"classes are {', '.join(classes)}, colours name {', '.join(coloured)}: name the same")
        classes = coloured
    if classes and any("segment" in table for table in tables):
        problems.append("segment chooses one of several, classes names all: give one of the two")
    return colours, classes, problems


def _classes(named: Any) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of several classes, none where there are none, and what is wrong with them."""
    if named is None:
        return (), []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return (), [f'classes = {as_toml(named)} must be an array of names, such as ["lumen", "wall"]']
    if not 1 < len(named) < MOST_CLASSES:
        alone = f"; one alone is segment = {as_toml(named[0])}" if len(named) == 1 else ""
        return (), [f"classes must be 2 to {MOST_CLASSES - 1}, found {len(named)}{alone}"]
    try:
        return check_classes(named), []
    except InputError as error:
        return (), [f"classes: {error}"]


def _colours(table: Any) -> tuple[_Colours, list[str]]:
    """Return name and colour of every class, and what is wrong with them."""
    if table is None:
        return (), []
    example = 'colours = { lumen = "#ffffff" }'
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        return (), [f"colours must be a table of names and colours, such as {example}"]
    try:
        found = tuple((name, parse_colour(value)) for name, value in table.items())
    except InputError as error:
        return (), [f"colours: {error}"]
    if len({colour for _, colour in found}) < len(found):
        return (), ["colours: two classes have the same colour"]
    if not set(table) - {BACKGROUND}:
        return (), [f"colours must name one class beside {BACKGROUND} or more, such as {example}; found {len(found)}"]
    return found, []


def _listed_twice(entries: Sequence[Entry]) -> list[str]:
    seen: set[tuple[str, str]] = set()
    problems = []
    for entry in entries:
        if (name_key(entry.name), entry.split) in seen:
            problems.append(f"volume {entry.name}: listed twice in split '{entry.split}'")
        seen.add((name_key(entry.name), entry.split))
    return problems


def _augmentation(table: Any) -> tuple[Augmentation | None, list[str]]:
    """Return what the table says, None where there is none, and what is wrong with it."""
    if table is None:
        return None, []
    if not isinstance(table, dict):
        return None, ["must be a table [augmentation]"]
    known = {field.name: type(getattr(FLIPS, field.name)) for field in fields(Augmentation)}
    kinds = {key: (int, float) if kind is float else (kind,) for key, kind in known.items()}
    problems = []
    for key, value in table.items():
        if problem := kind_problem(key, value, kinds):
            problems.append(problem)
            continue
        try:
            replace(FLIPS, **{key: value})
        except InputError as error:
            problems.append(str(error))
    return (None if problems else replace(FLIPS, **table)), problems


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
_PATHS = ("image", "annotation")
_NEEDED = ("name", "split", *_PATHS)
# A wrong value of one of these, left out, would make the volume another one.
_READ_BY = {"classes", "segment", "labels", "intensity", "y_crop", "within", "axes", "spacing_um"}
# What TOML calls a value.
_KINDS = {str: "a string", int: "an integer", float: "a number", list: "an array", dict: "a table"}


def _entry(table: Mapping[str, Any], folder: Path, roots: Sequence[Path]) -> tuple[Found | None, list[tuple[str, str]]]:
    """Return the volume of a table, None where it cannot be told which it is, and all that is wrong, by its key."""
    problems = [(key, f"'{key}' is missing") for key in _NEEDED if key not in table]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if problem := kind_problem(key, value, _TYPES):
            problems.append((key, problem))
            continue
        try:
            values[key] = _value(key, value)
        except InputError as error:
            problems.append((key, str(error)))
    for key in [key for key in _PATHS if key in values]:
        if "{name}" in values[key] and "name" not in values:
            del values[key]
            continue
        try:
            path = existing(folder / values[key].replace("{name}", values.get("name", "")))
            values[key] = inside(key, path, roots)
        except InputError as error:
            problems.append((key, str(error)))
            del values[key]
    wrong = frozenset({*_NEEDED, *table} - set(values))
    if wrong & {"name", "image", "annotation"}:
        # It is told of whole volumes when they are loaded; this one never is.
        paths = [(key, values[key]) for key in _PATHS if key in values]
        return None, problems + [(key, absence) for key, path in paths if (absence := absence_of(key, path))]
    assert set(values) <= {field.name for field in fields(Entry)}  # noqa: S101 - _TYPES lists the fields
    return Found(Entry(**{"split": "", **values}), wrong), problems


def absence_of(key: str, path: Path) -> str:
    """Return that a file which a key names is not there, an empty string where it is."""
    # A name that no disk can have is there nowhere, which os.path does not complain about.
    return "" if os.path.exists(path) else f"{key} = {as_toml(str(path))} is not there"


def kind_problem(key: str, value: Any, known: Mapping[str, tuple[type, ...]]) -> str:
    """Return what is wrong with a key or the kind of its value, an empty string where nothing is."""
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"unknown key '{key}'; {meant}known: {', '.join(known)}"
    if isinstance(value, known[key]) and not isinstance(value, bool):
        return ""
    kinds = [kind for kind in known[key] if kind is not int or float not in known[key]]
    return f"{key} = {as_toml(value)} must be {' or '.join(_KINDS[kind] for kind in kinds)}"


def _value(key: str, value: Any) -> Any:
    """Return what the value of a key stands for; InputError for one that it may not have."""
    if key in _CHOICES and value not in _CHOICES[key]:
        choices = ", ".join(map(as_toml, _CHOICES[key]))
        raise InputError(f"{key} = {as_toml(value)} must be one of: {choices}")
    if key == "y_crop" and value < 1:
        raise InputError(f"y_crop = {value} must be at least 1")
    if key == "within":
        return _box(value)
    return _spacing(value) if key == "spacing_um" else value


def as_toml(value: Any, depth: int = 0) -> str:
    """Return a value as a TOML file has it; of deep nests only what is outside."""
    if depth > _DEEPEST:
        return ".."
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {as_toml(one, depth + 1)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(as_toml(one, depth + 1) for one in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def _in_its_words(problem: str) -> str:
    """Return a problem that names keys of the file where it named settings; others stay (`core.errors.setting`)."""

    def named(found: re.Match[str]) -> str:
        keys = [name for name in found[1].split(", ") if name in _TYPES or name == "classes"]
        if not keys:
            return "" if found[1] in _NO_KEY else found[0]
        return f" (key{'' if len(keys) == 1 else 's'}: {', '.join(keys)})"

    return re.sub(f" {SETTINGS.pattern}", named, problem)


# Settings of other scripts, for which a data set has no key.
_NO_KEY = ("shape, dtype", "shape", "dtype", "time_lapse")


def inside(key: str, path: Path, roots: Sequence[Path]) -> Path:
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
            raise InputError(f"within.{axis} = {as_toml(pair)} must be [first, end] with 0 <= first < end")
        box.append((pair[0], pair[1]))
    if set(table) - set(_AXES):
        raise InputError(f"within has keys {', '.join(sorted(table))}; known: z, y, x")
    return tuple(box)


def _spacing(value: float | list[Any]) -> tuple[float, float, float]:
    lengths = value if isinstance(value, list) else [value] * 3
    if len(lengths) != 3 or not all(isinstance(length, int | float) and length > 0 for length in lengths):
        raise InputError(f"spacing_um = {as_toml(value)} must be one positive length, or three: [z, y, x]")
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
