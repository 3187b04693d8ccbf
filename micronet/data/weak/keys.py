"""What the head of a data-set file of labels of images says: where labels are from, its classes, how images are cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micronet.core.classes import check_classes
from micronet.core.errors import InputError
from micronet.core.names import existing
from micronet.data.dataset_file import SPLITS, as_toml, inside, kind_problem
from micronet.data.image_samples import Cut

__all__ = ["Keys"]

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
# Of what a mask without names is.
_ONE_CLASS = ("lumen",)


class Keys:
    """The keys that a file has beside those of every data set; `problems` gathers what is wrong with them.

    A value that is wrong counts as not given.

    Attributes
    ----------
    problems : list of str
    rest : dict
        The other keys of the file.
    source : {"table", "hdf5", "masks"}
        What says which classes an image holds.
    classes : tuple of str
        None where a table is to name them.
    cut : Cut
    foreground : str or None
        File, or array of an HDF5, of what crops are kept for.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], roots: list[Path]) -> None:
        self.problems: list[str] = []
        self._path, self._roots = path, roots
        self._values = {key: self._checked(key, value) for key, value in content.items() if key in _TYPES}
        self.rest = {key: value for key, value in content.items() if key not in _TYPES}
        sources = [key for key in ("table", "hdf5") if self._values.get(key) is not None]
        if len(sources) > 1:
            self.problems.append("table and hdf5 both say what images hold; give one of them")
        self.source = sources[0] if sources else "masks"
        self.classes = self._classes()
        self.cut = self._cut()
        self.foreground: str | None = self._values.get("foreground")

    def files(self) -> list[tuple[str | None, Path]]:
        """Return the files of the source, each with its split where they are given by split."""
        value = self._values.get(self.source)
        found = []
        for split, name in value.items() if isinstance(value, dict) else [(None, value)]:
            try:
                path = existing(self._path.parent / str(name))
                found.append((split, inside(self.source, path, self._roots)))
            except InputError as error:
                self.problems.append(str(error))
        return found

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
        named = self._values.get("classes")
        if named is None:
            return () if self._values.get("table") is not None else _ONE_CLASS
        try:
            if not all(isinstance(name, str) for name in named):
                raise InputError('must be an array of names, such as ["line", "ellipse"]')
            return check_classes(named)
        except InputError as error:
            self.problems.append(f"classes = {as_toml(named)}: {error}")
            return _ONE_CLASS

    def _cut(self) -> Cut:
        block = self._values.get("block")
        sizes = {key: self._sizes(key) for key in ("crop", "step")}
        area, share = self._values.get("area") or 1, self._values.get("share")
        for key in ("step", "foreground"):
            if self._values.get(key) is not None and self._values.get("crop") is None:
                self.problems.append(f"{key} is of crops, and there is no key crop")
        if share is not None and "foreground" not in self._values:
            self.problems.append("share is of the foreground, and there is no key foreground")
        for key, size in sizes.items():
            if block is not None and size is not None and any(length % block for length in size if length > 1):
                self.problems.append(f"{key} = {as_toml(self._values[key])} must be a multiple of block = {block}")
        return Cut(sizes["crop"], sizes["step"], area, block, _USUAL_SHARE if share is None else share)

    def _sizes(self, key: str) -> tuple[int, int, int] | None:
        """Return the size of a crop, or of a step: one length for Y and X (and Z of blocks), two or three."""
        value = self._values.get(key)
        if value is None:
            return None
        lengths = value if isinstance(value, list) else [value, value]
        whole = all(isinstance(length, int) and not isinstance(length, bool) and length > 0 for length in lengths)
        if not whole or len(lengths) not in (2, 3):
            self.problems.append(f"{key} = {as_toml(value)} must be [Y, X] or [Z, Y, X], or one length for Y and X")
            return None
        z, y, x = lengths if len(lengths) == 3 else (1, *lengths)
        return z, y, x


def _is_by_split(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(key in SPLITS and isinstance(file, str) for key, file in value.items())
