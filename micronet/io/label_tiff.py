"""Masks as a label TIFF, which Fiji, ImageJ and napari open with its spacing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.files import atomic_path
from micronet.core.volume import Volume
from micronet.io.tiff_spacing import imagej_resolution, imagej_unit

__all__ = ["write_label_tiff"]

# ImageJ addresses voxels with 32 bits.
_LARGEST = (1 << 32) - (1 << 20)


def write_label_tiff(
    path: str | os.PathLike[str],
    masks: Iterable[NDArray[Any]],
    volume: Volume,
    *,
    count: int | None = None,
    interval_s: float | None = None,
    largest: int = 1,
) -> Path:
    """Write masks as an ImageJ TIFF: 0 outside, 1 in the lumen; or labels as they are.

    ImageJ shows 0 black and the largest label white. There is no colour table: that makes another type of
    image in ImageJ, "8-bit color", which not every plugin takes. TIFF holds the spacing, but neither the origin
    nor turned axes: these are left out, voxels stay where they are in the array.

    Parameters
    ----------
    path : path-like
        The file; it appears whole or not at all.
    masks : iterable of ndarray of shape (Z, Y, X), bool or integers
        One mask, or one a time point, made when it is asked for.
    volume : Volume
        Its shape is that of each mask; it tells the spacing.
    count : int, optional
        Number of time points; without it there is one mask, and no axis of time.
    interval_s : float, optional
        Seconds from one time point to the next.
    largest : int
        No label is above it. Up to 255 they take a byte each, up to 65535 two.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If a mask, its labels, or the number of masks is not as said, or `largest` is above 65535.
    FileError
        If the file cannot be written, or is larger than ImageJ can open.
    """
    from tifffile import imwrite  # only those who write labels wait for it

    target = Path(path)
    number = 1 if count is None else count
    dtype = _voxel_type(number * volume.array.size, largest, target)
    with atomic_path(target) as temporary:
        imwrite(
            temporary,
            (plane.astype(dtype) for mask in _checked(masks, volume.shape, number, largest) for plane in mask),
            shape=volume.shape if count is None else (count, *volume.shape),
            dtype=dtype,
            imagej=True,
            photometric="minisblack",
            resolution=_resolution(volume, target),
            metadata=_metadata(volume, count, interval_s, largest),
        )
    return target


def _voxel_type(voxels: int, largest: int, target: Path) -> np.dtype[Any]:
    """Return the smallest type that holds the labels; InputError where none does, FileError where a file cannot."""
    if largest > np.iinfo(np.uint16).max:
        raise InputError(f"a label TIFF holds labels up to {np.iinfo(np.uint16).max}, not {largest}")
    dtype = np.dtype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)
    if voxels * dtype.itemsize > _LARGEST:
        raise FileError(f"cannot write '{target}': ImageJ opens no TIFF above 4 GB; the .seg.nrrd holds the same masks")
    return dtype


def _resolution(volume: Volume, target: Path) -> tuple[tuple[int, int], tuple[int, int]] | None:
    return None if volume.spacing_um is None else imagej_resolution(*volume.spacing_um[1:], target)


def _metadata(volume: Volume, count: int | None, interval_s: float | None, largest: int) -> dict[str, Any]:
    """Return what ImageJ reads from the description: axes, grey values shown, steps along Z and in time."""
    metadata: dict[str, Any] = {"axes": "ZYX" if count is None else "TZYX", "min": 0.0, "max": float(largest)}
    if volume.spacing_um is not None:
        metadata |= {"spacing": volume.spacing_um[0], "unit": imagej_unit("um")}
    if interval_s is not None:
        metadata |= {"finterval": interval_s, "tunit": "s"}
    return metadata


def _checked(
    masks: Iterable[NDArray[Any]], shape: tuple[int, ...], number: int, largest: int
) -> Iterator[NDArray[Any]]:
    """Yield the masks one by one, each of which may be a file as large as memory; InputError where they do not fit."""
    found = 0
    for mask in masks:
        if mask.shape != shape or mask.dtype.kind not in "bui":
            raise InputError(f"labels of shape {mask.shape}, {mask.dtype}, do not fit the grid {shape}")
        if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= largest:
            raise InputError(f"labels from {mask.min()} to {mask.max()} are not from 0 to {largest}")
        found += 1
        if found > number:
            break
        yield mask
    if found != number:
        raise InputError(f"expected {number} masks, found {found if found < number else 'more'}")
