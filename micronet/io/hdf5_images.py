"""Images in one HDF5 file, a group each: ``NAME/data`` and ``NAME/label``; h5py is an extra."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from micronet.core.errors import FileError, InputError
from micronet.io.checks import one_line
from micronet.io.hdf5 import own_member, require_h5py

__all__ = ["ImageGroup", "open_groups"]

_DATA, _LABEL, _SPLIT = "data", "label", "split"
# What h5py raises where a file is damaged, or holds what NumPy has no type for.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
_MOST_ELEMENTS, _LARGEST_CHUNK = 1 << 34, 1 << 30


@dataclass(frozen=True)
class ImageGroup:
    """One image: its arrays, of which parts are read as they are indexed, and its split where the group states one.

    `data` is (Y, X) or (Z, Y, X); `arrays` holds all of the group by name, `data` and ``label`` among them.
    """

    name: str
    split: str | None
    data: Any
    label: Any
    arrays: Mapping[str, Any]


def open_groups(path: Path) -> tuple[list[ImageGroup], list[str]]:
    """Open a file; return its images in the order of their names, and what is wrong with others.

    The file stays open while one of them is used. Nothing outside of it is opened: links and arrays that lead
    elsewhere are refused, as are arrays that hold other than numbers.

    Raises
    ------
    InputError
        If h5py is missing.
    FileError
        If the file is none.
    """
    require_h5py(f"'{path}'")
    h5py = import_module("h5py")
    if not path.is_file():
        raise FileError(f"'{path}' is not there")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileError(f"'{path}' is no HDF5 file that can be read") from error
    found, problems = [], []
    try:
        names = sorted(file)
    except _UNREADABLE as error:
        raise FileError(f"'{path}' cannot be read: {one_line(error)}") from error
    for name in names:
        try:
            found.append(_group(h5py, file, name))
        except InputError as error:
            problems.append(f"'{path.name}', group {name}: {error}")
        except _UNREADABLE as error:
            problems.append(f"'{path.name}', group {name}: it cannot be read ({one_line(error)})")
    if not found and not problems:
        problems.append(f"'{path.name}' holds no group")
    return found, problems


def _group(h5py: Any, file: Any, name: str) -> ImageGroup:
    group = own_member(h5py, file, name)
    if not isinstance(group, h5py.Group):
        raise InputError(f"it is no group with {_DATA} and {_LABEL}")
    arrays = {key: _array(h5py, group, key) for key in group}
    if missing := [key for key in (_DATA, _LABEL) if key not in arrays]:
        raise InputError(f"{missing[0]} is missing")
    data = arrays[_DATA]
    if data.ndim not in (2, 3):
        raise InputError(f"{_DATA} has {data.ndim} axes, expected (Y, X) or (Z, Y, X)")
    return ImageGroup(name, _split(group), data, arrays[_LABEL], arrays)


def _split(group: Any) -> str | None:
    """Return the split that a group states, as text of any of HDF5's kinds; InputError where it is something else."""
    value = group.attrs.get(_SPLIT)
    if getattr(value, "shape", None) == (1,):
        value = value[0]
    if value is None or isinstance(value, str):
        return value
    try:
        return bytes.decode(value)
    except (TypeError, UnicodeDecodeError):
        raise InputError(f"its attribute {_SPLIT} is no text") from None


def _array(h5py: Any, group: Any, name: str) -> Any:
    found = own_member(h5py, group, name)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "buif":
        raise InputError(f"{name} is no array of numbers")
    if found.external or found.is_virtual:
        raise InputError(f"{name} lies in another file, which is not opened")
    if 0 in found.shape or math.prod(found.shape) > _MOST_ELEMENTS:
        raise InputError(f"{name} has the shape {found.shape}: nothing, or too much, to be read")
    if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > _LARGEST_CHUNK:
        raise InputError(f"{name} is packed in pieces of {found.chunks}, which is too much at a time")
    return found
