"""The weights of a network in an HDF5 file that holds many: a group ``ARCHITECTURE/MODEL`` with an array a tensor."""

from __future__ import annotations

import hashlib
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import listed
from micronet.core.provenance import sha256_of
from micronet.io.checks import is_file
from micronet.io.hdf5 import own_member, require_h5py

__all__ = ["is_zoo", "read_tensors", "weights_sha256", "zoo_file"]

_NAMED = re.compile(r"(?P<file>.+\.(?:h5|hdf5))(?::(?P<group>[^:]+))?", re.IGNORECASE)
_MOST_ELEMENTS, _MOST_TENSORS, _DEEPEST = 125_000_000, 10_000, 8


def is_zoo(path: Path) -> bool:
    """Whether a path names weights in an HDF5 file: ``zoo.h5:ARCHITECTURE/MODEL``, or the file itself."""
    return _NAMED.fullmatch(str(path)) is not None and is_file(zoo_file(path))


def zoo_file(path: Path) -> Path:
    """Return the file that weights lie in: that before the colon, or of others `path` itself.

    >>> zoo_file(Path("zoo.h5:micranet/one")).name, zoo_file(Path("a.pt")).name
    ('zoo.h5', 'a.pt')
    """
    found = _NAMED.fullmatch(str(path))
    return Path(found["file"]) if found else path


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of weights: of their file, or of names, shapes and numbers of those among many in a file."""
    if not is_zoo(path):
        return sha256_of(path)
    digest = hashlib.sha256()
    for name, array in sorted(read_tensors(path).items()):
        digest.update(f"{name} {array.shape}\n".encode(errors="surrogateescape"))
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a group by name, those of groups in it with a point between the names; nothing is executed.

    Raises
    ------
    FileError
        If there is no such group (it lists those there are), one of its arrays is no array of real numbers, lies in
        another file, or is too large for a network; sizes are checked before memory is taken.
    InputError
        If h5py is missing.
    """
    found = _NAMED.fullmatch(str(path))
    name = (found["group"] if found else None) or ""
    file = zoo_file(path)
    require_h5py("HDF5")
    h5py = import_module("h5py")
    try:
        with h5py.File(file, "r") as zoo:
            group = _group(h5py, zoo, name, file)
            arrays = dict(_arrays(h5py, group, ""))
            if not arrays or len(arrays) > _MOST_TENSORS or sum(one.size for one in arrays.values()) > _MOST_ELEMENTS:
                raise InputError(f"{name} holds nothing, or more than any network")
            return {key: np.asarray(one[()], np.float32) for key, one in arrays.items()}
    except InputError as error:
        raise FileError(f"'{file}': {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise FileError(f"'{file}' is no HDF5 file that can be read") from error


def _group(h5py: Any, zoo: Any, name: str, file: Path) -> Any:
    parts = [part for part in name.split("/") if part]
    here = zoo
    for part in parts:
        here = own_member(h5py, here, part) if isinstance(here, h5py.Group) and part in here else None
    if len(parts) != 2 or not isinstance(here, h5py.Group):
        there = [
            f"{file.name}:{one}/{two}"
            for one in zoo
            if isinstance(zoo.get(one, getlink=True), h5py.HardLink) and isinstance(zoo[one], h5py.Group)
            for two in zoo[one]
        ]
        raise InputError(f"no model '{name}' in it {setting('model')}; there are {listed(sorted(there)) or 'none'}")
    return here


def _arrays(h5py: Any, group: Any, before: str, depth: int = 0) -> Any:
    """Yield the arrays of a group and of those in it, by name."""
    if depth > _DEEPEST:
        raise InputError("its groups lie too deep in each other")
    for key in group:
        found = own_member(h5py, group, key)
        if isinstance(found, h5py.Group):
            yield from _arrays(h5py, found, f"{before}{key}.", depth + 1)
            continue
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
            raise InputError(f"{before}{key} is no array of numbers")
        if found.external or found.is_virtual:
            raise InputError(f"{before}{key} lies in another file, which is not opened")
        if math.prod(found.shape) > _MOST_ELEMENTS or (found.chunks and math.prod(found.chunks) > _MOST_ELEMENTS):
            raise InputError(f"{before}{key} has the shape {found.shape}: too large for a network")
        yield f"{before}{key}", found
