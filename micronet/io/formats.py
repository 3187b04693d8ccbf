"""Choose the reader or writer of a volume by the suffix of its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from numpy.typing import ArrayLike, DTypeLike

from micronet.core.errors import FileError, MicronetError
from micronet.core.volume import Volume
from micronet.io.checks import ReadOptions, is_store, reading, regular_file
from micronet.io.recording import Recording
from micronet.io.source import Input, Source, opened
from micronet.io.stack import Stack

__all__ = [
    "VOLUME_SUFFIXES",
    "files_of",
    "files_read_with",
    "is_png_path",
    "is_volume_path",
    "open_recording",
    "open_stack",
    "open_stack_with",
    "read_volume",
    "read_with",
    "suffix_of",
    "volume_stem",
    "write_volume",
]

# Each module has read(source, options), open_stack(source, options) and write(path, volume); it is imported when a file
# of its own comes.
_MODULES = {
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "bare",
    ".raw": "bare",
    ".zarr": "zarr",
}

#: The suffixes of files that can be read and written.
VOLUME_SUFFIXES = tuple(_MODULES)

_SEGMENTATION_SUFFIXES = (".seg.nrrd", ".seg.nhdr")
_LONG_SUFFIXES = (*_SEGMENTATION_SUFFIXES, ".ome.tiff", ".ome.tif", ".nii.gz", ".ome.zarr")


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the suffix that decides the format, in lower case; FileError when it is none of the known ones.

    >>> suffix_of("scan.NII.gz"), suffix_of("scan.ome.tif")
    ('.nii.gz', '.tif')
    """
    name = Path(path).name.lower()
    for suffix in sorted(_MODULES, key=len, reverse=True):
        if name.endswith(suffix) and name != suffix:
            return suffix
    raise FileError(f"'{path}': no volume format has this suffix; known: {', '.join(VOLUME_SUFFIXES)}")


def is_volume_path(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file is that of an image volume that can be read.

    Hidden files, segmentations (.seg.nrrd) and the voxels (.raw) of a detached header (.nhdr) beside them are
    not.
    """
    file = Path(path)
    name = file.name.lower()
    if name.startswith(".") or name.endswith(_SEGMENTATION_SUFFIXES) or not name.endswith(VOLUME_SUFFIXES):
        return False
    return not (name.endswith(".raw") and file.with_suffix(".nhdr").exists())


def is_png_path(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file is that of a PNG, a 2-D image where such are taken; hidden files are none."""
    name = Path(path).name.lower()
    return name.endswith(".png") and not name.startswith(".")


def volume_stem(path: str | os.PathLike[str]) -> str:
    """Return the name of a volume without folder and suffix, long suffixes included.

    >>> volume_stem("a/scan.nii.gz"), volume_stem("b.seg.nrrd"), volume_stem("c.v2.tif")
    ('scan', 'b', 'c.v2')
    """
    name = Path(path).name
    for suffix in (*_LONG_SUFFIXES, *VOLUME_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def files_of(path: Input, level: int = 0) -> tuple[Path, ...]:
    """Return the files that a volume consists of: itself, and the voxels of a detached NRRD header.

    Of an OME-Zarr these are its metadata, and the chunks of the level.

    Raises
    ------
    FileError
        If a NRRD header cannot be read, or names a data file that is missing or outside its folder.
    """
    if is_store(path.path if isinstance(path, Source) else path):
        with opened(path) as source:
            return tuple(import_module("micronet.io.zarr").files_of(source, level))
    file = path.path if isinstance(path, Source) else regular_file(path)
    if not file.name.lower().endswith((".nrrd", ".nhdr")):
        return (file,)
    with opened(path) as source:
        voxels: Path | None = import_module("micronet.io.nrrd").data_file(source)
    return (file,) if voxels is None else (file, voxels)


def files_read_with(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the files that reading an input may read: those of a volume, or all of a folder of B-scans or a store.

    Such a folder is the first of them. Nothing is refused here: of what cannot be read it is the path itself.
    """
    path = Path(path)
    try:
        if is_store(path):
            return (path, *(file for file in path.rglob("*") if file.is_file()))
        return (path, *path.iterdir()) if path.is_dir() else files_of(path)
    except (MicronetError, OSError):
        return (path,)


def read_volume(
    path: Input,
    *,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    byteorder: str | None = None,
    flat: bool = False,
    level: int = 0,
) -> Volume:
    """Read a 3-D volume: NRRD, NIfTI, TIFF, .npy, headerless .raw or OME-Zarr, chosen by suffix.

    Parameters
    ----------
    path : path-like or Source
        The file. The voxels of a detached NRRD (.nhdr) must lie in the header's own folder.
    axes : str, optional
        Meaning of the array axes, slowest first, such as ``"ZYX"`` or ``"XYZ"``, for files that do not say:
        .npy, .raw and plain TIFF. Axes are never guessed from sizes; without this they are Z, Y, X, and a
        note says so.
    spacing_um : (3,) array-like, optional
        Distance between voxels along (Z, Y, X) in µm; stands above what the file states.
    shape, dtype, byteorder : optional
        Of a .raw file, which must have exactly that size: number of voxels in the order of `axes`, voxel
        type, and ``"little"`` (the default) or ``"big"``. Other formats state theirs, and these are not
        looked at.
    level : int
        Which scale of an OME-Zarr, 0 being the finest.
    flat : bool
        Take a 2-D image too (grey PNG, TIFF, .npy), as a volume of one plane.

    Returns
    -------
    Volume
        Array C-contiguous, (Z, Y, X), in the byte order of this machine; the geometry as the file has it, to
        the bit. `Volume.notes` says what had to be assumed.

    Raises
    ------
    FileError
        If the file is missing, damaged, not a 3-D volume of real numbers, or holds more or less than its
        header claims, which is checked before memory is taken.
    InputError
        If an option is malformed, or `axes` contradicts what the file states.
    """
    return read_with(path, ReadOptions(axes, spacing_um, shape, dtype, byteorder, flat=flat, level=level))


def read_with(path: Input, options: ReadOptions) -> Volume:
    """Read a volume as `read_volume` does, the options in one object."""
    with opened(path) as source, reading(source.path):
        plane = import_module("micronet.io.images").read_plane(source, options) if options.flat else None
        volume: Volume = _module(source.path).read(source, options) if plane is None else plane
    return volume if options.spacing_um is None else volume.with_spacing(options.spacing_um)


def open_stack(
    path: Input,
    *,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    byteorder: str | None = None,
    flat: bool = False,
    level: int = 0,
) -> Stack:
    """Open a volume, or a folder of B-scans, of which planes are read when they are asked for.

    Parameters
    ----------
    path, axes, spacing_um, shape, dtype, byteorder, flat, level
        As `read_volume`; `path` may also be a folder of 2-D images, see `micronet.io.bscans`.

    Returns
    -------
    Stack
        To be used in a ``with`` block.

    Raises
    ------
    FileError, InputError
        As `read_volume`. What is wrong with the voxels shows when they are read.
    """
    return open_stack_with(path, ReadOptions(axes, spacing_um, shape, dtype, byteorder, flat=flat, level=level))


def open_stack_with(path: Input, options: ReadOptions) -> Stack:
    """Open a volume as `open_stack` does, the options in one object."""
    stack: Stack
    if not isinstance(path, Source) and Path(path).is_dir() and not is_store(path):
        stack = import_module("micronet.io.bscans").open_stack(Path(path), options)
    else:
        with ExitStack() as files:
            source = _source(path, files)
            with reading(source.path):
                plane = import_module("micronet.io.images").open_plane(source, options) if options.flat else None
                stack = _module(source.path).open_stack(source, options) if plane is None else plane
            files.callback(stack.close)
            stack = replace(stack, read=source.checked(stack.read), close=files.pop_all().close, source=source)
    return stack if options.spacing_um is None else replace(stack, grid=stack.grid.with_spacing(options.spacing_um))


def open_recording(
    path: Input,
    *,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    level: int = 0,
) -> Recording:
    """Open a file that holds a volume at several time points, of which one at a time is read.

    TIFF (ImageJ, OME, or plain with `axes`), NIfTI with four axes, NRRD with a fourth axis of any place whose kind is
    no colour or vector, .npy and .raw with `axes`, OME-Zarr with an axis of time.

    Parameters
    ----------
    path, axes, spacing_um, shape, dtype, level
        As `read_volume`; `axes` has the letter T as well, such as ``"TZYX"``.

    Returns
    -------
    Recording
        To be used in a ``with`` block.

    Raises
    ------
    FileError, InputError
        As `read_volume`, and if there is only one time point. What is wrong with the voxels shows when they are read.
    """
    options = ReadOptions(axes, spacing_um, shape, dtype, level=level)
    with ExitStack() as files:
        source = _source(path, files)
        with reading(source.path):
            recording: Recording = _module(source.path).open_recording(source, options)
        files.callback(recording.close)
        recording = replace(recording, load=source.checked(recording.load), close=files.pop_all().close)
    return recording if spacing_um is None else replace(recording, grid=recording.grid.with_spacing(spacing_um))


def write_volume(path: str | os.PathLike[str], volume: Volume) -> Path:
    """Write a volume in the format that the suffix names; the file appears whole or not at all.

    ==============  =========================================  ============================================
    suffix          voxel types                                geometry
    ==============  =========================================  ============================================
    .nrrd, .nhdr    (u)int8-64, float32, float64; bool as 0/1  all, to the bit
    .nii, .nii.gz   (u)int8-64, float32, float64; bool as 0/1  all, as float32; an unstated space as LPS
    .tif, .tiff     uint8, uint16, float32; bool as 0/255      spacing; an origin or turned axes are refused
    .ome.tif        (u)int8-32, float32, float64; bool: 0/255  spacing; an origin or turned axes are refused
    .ome.zarr       bool as 0/1, (u)int8-64, float32, float64  spacing and origin; turned axes are refused
    .npy, .raw      bool, (u)int8-64, float16-64               none: the bare array, (Z, Y, X), little-endian
    ==============  =========================================  ============================================

    Parameters
    ----------
    path : path-like
        The file; its folder must exist.
    volume : Volume
        What its own format's header held is carried on where the format is the same.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileError
        If the suffix is unknown or that of a segmentation, the format cannot hold this voxel type or geometry, or
        the writing fails.
    """
    target = Path(path)
    if target.name.lower().endswith(_SEGMENTATION_SUFFIXES):
        raise FileError(f"cannot write '{target}': that is the name of a segmentation; write_segmentation writes one")
    _module(target).write(target, volume)
    return target


def _source(path: Input, files: ExitStack) -> Source:
    """Return an open source, which `files` closes unless it was open before."""
    if isinstance(path, Source):
        return path
    source = Source(path)
    files.callback(source.close)
    return source


def _module(path: Path) -> ModuleType:
    return import_module(f"micronet.io.{_MODULES[suffix_of(path)]}")
