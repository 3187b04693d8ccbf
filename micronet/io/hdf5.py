"""Pairs of image and annotation in one HDF5 file, for tools that train from such; h5py is an extra."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.files import atomic_path
from micronet.core.volume import Volume

__all__ = ["own_member", "require_h5py", "write_one", "write_pairs"]


def require_h5py(what: str = f"an HDF5 file {setting('hdf5')}") -> None:
    """Raise InputError, which says what needs it, where the package h5py is missing."""
    if find_spec("h5py") is None:
        raise InputError(f"{what} needs the package h5py: pip install h5py")


def own_member(h5py: Any, group: Any, name: str) -> Any:
    """Return what a group holds under a name; InputError where it is a link to elsewhere."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{name} is a link, which is not followed")
    return group[name]


def write_pairs(path: Path, pairs: Iterable[tuple[str, str, Volume, Volume]]) -> None:
    """Write images as ``data/<name>`` and their masks as ``label/<name>``, one pair in memory at a time.

    Parameters
    ----------
    path : Path
        The file; it appears whole or not at all.
    pairs : iterable of (name, split, image, mask)
        The two of a pair lie on the same grid. Masks are written as uint8, 0 and 1. The attributes of every array
        are ``axes`` ("ZYX"), ``split``, and, where it is known, ``spacing_um`` along (Z, Y, X).

    Raises
    ------
    InputError
        If h5py is missing.
    FileError
        If the file cannot be written.
    """
    with _writing(path) as file:
        for name, split, image, mask in pairs:
            for group, array in (("data", image.array), ("label", mask.array.astype(np.uint8))):
                _write_array(file, f"{group}/{name}", array, image).attrs["split"] = split


def write_one(path: Path, image: Volume, mask: NDArray[np.bool_]) -> None:
    """Write an image as ``vol_data`` and its mask as ``vol_labels``, 0 and 1, both float16.

    Parameters
    ----------
    path : Path
        The file; it appears whole or not at all.
    image : Volume
        float16 holds whole numbers up to 2048 exactly, and none above 65504. Both arrays have the attributes ``axes``
        ("ZYX") and, where it is known, ``spacing_um`` along (Z, Y, X).
    mask : ndarray of shape (Z, Y, X), bool

    Raises
    ------
    InputError
        If h5py is missing.
    FileError
        If the file cannot be written.
    """
    with _writing(path) as file:
        for name, array in (("vol_data", image.array), ("vol_labels", mask)):
            _write_array(file, name, array.astype(np.float16), image)


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """Open a file that appears whole or not at all."""
    require_h5py()
    h5py = import_module("h5py")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        yield file


def _write_array(file: Any, name: str, array: NDArray[Any], grid: Volume) -> Any:
    """Write an array with its axes and spacing; return it as h5py has it."""
    data = file.create_dataset(name, data=array, compression="gzip", compression_opts=4)
    data.attrs["axes"] = "ZYX"
    if grid.spacing_um is not None:
        data.attrs["spacing_um"] = grid.spacing_um
    return data
