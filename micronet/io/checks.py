"""What every reader checks, and the options they share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.names import existing, same_but_for_case, write_name
from micronet.core.volume import Volume

__all__ = [
    "ReadOptions",
    "build_volume",
    "check_axes",
    "check_dtype",
    "clean_axes",
    "from_file",
    "is_file",
    "is_store",
    "native",
    "one_line",
    "reading",
    "regular_file",
    "spatial_order",
    "to_zyx",
    "unstated_axes",
    "voxel_bytes",
]

_KINDS = {
    "c": "complex numbers",
    "S": "text",
    "U": "text",
    "O": "Python objects",
    "V": "records",
    "M": "dates",
    "m": "durations",
}
_SPATIAL = "ZYX"


@dataclass(frozen=True)
class ReadOptions:
    """What a person says about a file because the file itself does not.

    Parameters
    ----------
    axes : str, optional
        Meaning of the array axes, slowest first, such as ``"ZYX"``.
    spacing_um : (3,) array-like, optional
        Distance between voxels along (Z, Y, X) in µm; stands above what the file states.
    shape, dtype, byteorder : optional
        Of a headerless file: number of voxels in the order of `axes`, voxel type, ``"little"`` or ``"big"``.
    yield_to_file : bool
        `axes` are meant for another file and hold here only if this one states none; else they must agree.
    flat : bool
        A 2-D image (PNG, TIFF, .npy) is taken too, as a volume of one plane.
    level : int
        Which scale of an OME-Zarr, 0 being the finest; formats that have one scale do not look at it.
    """

    axes: str | None = None
    spacing_um: ArrayLike | None = None
    shape: Sequence[int] | None = None
    dtype: DTypeLike | None = None
    byteorder: str | None = None
    yield_to_file: bool = False
    flat: bool = False
    level: int = 0


def regular_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path; FileError unless it is a file that exists and can be opened."""
    found = Path(path)
    try:
        folder, there = found.is_dir(), found.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise FileError(f"'{found}' cannot be found ({one_line(error)})") from error
    if folder:
        raise FileError(f"'{found}' is a folder, expected a volume file")
    if not there:
        raise FileError(missing(found))
    if not found.is_file():
        raise FileError(f"'{found}' is not a regular file")
    if not os.access(found, os.R_OK):
        raise FileError(f"'{found}' cannot be opened: permission denied")
    return found


def missing(path: Path) -> str:
    """Return what is told of a file that is not there."""
    return f"'{path}' does not exist{_near(path)}"


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder that holds one volume, an OME-Zarr."""
    try:
        return Path(path).name.lower().endswith(".zarr") and Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file of this name; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _near(path: Path) -> str:
    """Return a word on the file that is there under nearly this name."""
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return ""
    if (other := existing(path)) != path:
        return f"; there is '{write_name(other.name)}', whose accents are put together differently"
    twins = [pair for pair in same_but_for_case([path.name, *names]) if pair[0] == path.name]
    return f"; there is '{write_name(twins[0][1])}', which differs in case" if twins else ""


def check_dtype(dtype: np.dtype[Any], path: Path) -> None:
    """Raise FileError unless voxels of this type are bool or real numbers of at most 64 bits."""
    if dtype.kind in _KINDS:
        raise FileError(f"'{path}' holds {_KINDS[dtype.kind]} ({dtype}), expected real numbers or bool")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise FileError(f"'{path}' holds voxels of type {dtype}, expected bool, integers or floats up to 64 bits")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the machine refuses while a file is read into a FileError that names it."""
    try:
        yield
    except MicronetError:
        raise
    except OSError as error:
        raise FileError(f"'{path}' cannot be read ({one_line(error)})") from error
    except MemoryError:
        raise FileError(f"'{path}' needs more memory than there is ({path.stat().st_size:,} bytes on disk)") from None


def one_line(error: BaseException | str) -> str:
    """Return what a library says of a file as one line of bounded length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def from_file(source: Path | BinaryIO, dtype: np.dtype[Any], shape: Sequence[int], path: Path) -> NDArray[Any]:
    """Return an array of exactly this shape from what is left of a file; FileError where that has become shorter."""
    count = math.prod(shape)
    found: NDArray[Any] = np.fromfile(source, dtype, count)
    if found.size < count:
        raise FileError(f"'{path}' was cut short while it was read: {found.size:,} of {count:,} voxels are left")
    return found.reshape(shape)


def native(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array C-contiguous in the byte order of this machine, copied only where it is not."""
    if not array.dtype.isnative:
        writeable = array.flags.writeable
        array = array.byteswap(inplace=writeable).view(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array)


def voxel_bytes(array: NDArray[Any]) -> memoryview:
    """Return the voxels of an array in C order as flat bytes, copied only where they lie otherwise."""
    return memoryview(cast(Any, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))


def clean_axes(axes: str) -> str:
    """Return axis letters in upper case; InputError unless Z, Y and X stand once among single letters."""
    letters = axes.strip().upper()
    if len(set(letters)) != len(letters) or not set(letters) <= set("ZYXTC") or not set(_SPATIAL) <= set(letters):
        raise InputError(
            f"axes '{axes}' {setting('axes')}: "
            "expected Z, Y and X once each, slowest first, such as ZYX (T and C may join)"
        )
    return letters


def check_axes(options: ReadOptions, stated: str, path: Path) -> None:
    """Raise InputError where the person contradicts the axes that a file states."""
    if options.axes is None or options.yield_to_file:
        return
    if spatial_order(clean_axes(options.axes)) != spatial_order(stated):
        raise InputError(
            f"'{path}' states its axes itself ({stated}); '{options.axes}' {setting('axes')} contradicts that"
        )


def to_zyx(array: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """Return the array with its axes in the order (Z, Y, X); further axes must have length 1.

    Parameters
    ----------
    array : ndarray
        As the file holds it.
    axes : str
        One letter an axis.
    path : Path
        For the message.

    Raises
    ------
    FileError
        If there is a further axis longer than 1, or one of the three is missing.
    """
    if len(axes) != array.ndim:
        raise InputError(
            f"'{path}': '{axes}' {setting('axes')} names {len(axes)} axes, the file has {array.ndim}: {array.shape}"
        )
    named = ", ".join(f"{letter} {length}" for letter, length in zip(axes, array.shape, strict=True))
    extra = [i for i, letter in enumerate(axes) if letter not in _SPATIAL]
    if any(array.shape[i] != 1 for i in extra):
        raise FileError(
            f"'{path}' has more than the axes Z, Y, X ({named}); save one channel and time point as a volume; "
            f"infer.py takes all time points {setting('time_lapse')}"
        )
    left = "".join(letter for letter in axes if letter in _SPATIAL)
    if sorted(left) != sorted(_SPATIAL):
        raise FileError(f"'{path}' is not a 3-D volume: its axes are ({named}), expected Z, Y and X")
    array = array.reshape([n for i, n in enumerate(array.shape) if i not in extra])
    return array.transpose([left.index(letter) for letter in _SPATIAL])


def unstated_axes(array: NDArray[Any], options: ReadOptions, path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return as (Z, Y, X) the array of a file that does not state its axes, with the note that it takes."""
    if options.axes is not None:
        return to_zyx(array, clean_axes(options.axes), path), ()
    if array.ndim != 3:
        more = f"more than a 3-D volume; name its axes, such as TZYX {setting('axes')}"
        what = "no 3-D volume" if array.ndim < 3 else more
        raise FileError(f"'{path}' has the shape {array.shape}: {what}")
    note = (
        f"the file does not say what its axes mean: they are read as Z, Y, X, unless said otherwise {setting('axes')}"
    )
    return array, (note,)


def build_volume(path: Path, array: NDArray[Any], **geometry: Any) -> Volume:
    """Return a Volume, naming the file where it cannot be one."""
    if 0 in array.shape:
        raise FileError(f"'{path}' has no voxels: its shape is {array.shape}")
    try:
        return Volume(native(array), **geometry)
    except InputError as error:
        raise FileError(f"'{path}': {error}") from error


def spatial_order(axes: str) -> str:
    """Return the letters Z, Y and X of `axes`, in their order."""
    return "".join(letter for letter in axes if letter in _SPATIAL)
