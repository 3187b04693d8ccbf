"""Masks as a label TIFF, which Fiji, ImageJ and napari open with its spacing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import imwrite

from micronet.errors import FileError, InputError
from micronet.io.atomic import atomic_path
from micronet.io.tiff import imagej_resolution, imagej_unit
from micronet.volume import Volume

__all__ = ["write_label_tiff"]

# Label 1 and any other in an orange that stands out on grey to every eye (Okabe & Ito 2008), 0 black.
_COLOUR = (0xE6, 0x9F, 0x00)
# ImageJ addresses voxels with 32 bits.
_LARGEST = (1 << 32) - (1 << 20)


def write_label_tiff(
    path: str | os.PathLike[str],
    masks: Iterable[NDArray[Any]],
    volume: Volume,
    *,
    count: int | None = None,
    interval_s: float | None = None,
    dtype: type[np.uint8 | np.uint16] = np.uint8,
) -> Path:
    """Write masks as an ImageJ TIFF: 0 outside, 1 in the lumen; or labels as they are.

    TIFF holds the spacing, but neither the origin nor turned axes: these are left out, voxels stay where they are in
    the array.

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
    dtype : numpy.uint8 or numpy.uint16
        What holds every label.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If a mask has another shape or labels that the type does not hold, or there are fewer or more than `count`.
    FileError
        If the file cannot be written, or is larger than ImageJ can open.
    """
    target = Path(path)
    number = 1 if count is None else count
    if number * volume.array.size * np.dtype(dtype).itemsize > _LARGEST:
        raise FileError(f"cannot write '{target}': ImageJ opens no TIFF above 4 GB; the .seg.nrrd holds the same masks")
    lut = np.zeros((3, 256), np.uint8)
    lut[:, 1:] = np.array(_COLOUR, np.uint8)[:, None]
    metadata: dict[str, Any] = {"axes": "ZYX" if count is None else "TZYX", "LUTs": [lut], "min": 0.0, "max": 255.0}
    resolution = None
    if volume.spacing_um is not None:
        z, y, x = volume.spacing_um
        metadata |= {"spacing": z, "unit": imagej_unit("um")}
        resolution = imagej_resolution(y, x, target)
    if interval_s is not None:
        metadata |= {"finterval": interval_s, "tunit": "s"}
    shape = volume.shape if count is None else (count, *volume.shape)

    def planes() -> Iterator[NDArray[Any]]:
        written = 0
        for mask in masks:
            if mask.shape != volume.shape or mask.dtype.kind not in "bui":
                raise InputError(f"labels of shape {mask.shape}, {mask.dtype}, do not fit the grid {volume.shape}")
            if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= np.iinfo(dtype).max:
                raise InputError(f"labels from {mask.min()} to {mask.max()} do not fit into {np.dtype(dtype).name}")
            written += 1
            if written > number:
                break
            yield from (plane.astype(dtype) for plane in mask)  # a mask may be a file as large as memory
        if written != number:
            raise InputError(f"expected {number} masks, found {written if written < number else 'more'}")

    with atomic_path(target) as temporary:
        imwrite(
            temporary,
            planes(),
            shape=shape,
            dtype=dtype,
            imagej=True,
            photometric="minisblack",
            resolution=resolution,
            metadata=metadata,
        )
    return target
