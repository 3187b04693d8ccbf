"""The writer of TIFF volumes: ImageJ stacks and OME-TIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tifffile import imwrite

from micronet.core.errors import FileError
from micronet.core.files import atomic_path
from micronet.core.volume import Volume, upright
from micronet.io.tiff_spacing import imagej_resolution, imagej_unit

__all__ = ["write"]

_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_OME_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_OME_UNIT_NAMES = {"um": "µm"}


def write(path: Path, volume: Volume) -> None:
    """Write an ImageJ TIFF, or an OME-TIFF where the name ends with .ome.tif; a mask becomes 0 and 255.

    TIFF holds the spacing but neither an origin nor turned axes: a volume that has these is refused.
    """
    spacing = volume.directions[[0, 1, 2], [2, 1, 0]]
    if (spacing <= 0).any() or not np.array_equal(volume.directions, upright(spacing)) or volume.origin.any():
        raise FileError(
            f"cannot write '{path}': TIFF cannot hold the origin and axis directions of this volume; write "
            ".nrrd or .nii.gz, or drop them first with Volume(volume.array).with_spacing(volume.spacing_um)"
        )
    ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    array = volume.array.astype(np.uint8) * np.uint8(255) if volume.array.dtype == bool else volume.array
    kind, types = ("OME-TIFF", _OME_TYPES) if ome else ("ImageJ TIFF", _IMAGEJ_TYPES)
    if array.dtype.name not in types:
        raise FileError(
            f"cannot write '{path}': {kind} has no voxels of type {array.dtype}; "
            f"convert to {', '.join(types)}, or write .nrrd"
        )
    metadata: dict[str, Any] = {"axes": "ZYX"}
    resolution = None
    if volume.units != "voxel":
        z, y, x = (float(length) for length in spacing)
        if ome:
            unit = _OME_UNIT_NAMES.get(volume.units, volume.units)
            for letter, length in zip("XYZ", (x, y, z), strict=True):
                metadata |= {f"PhysicalSize{letter}": length, f"PhysicalSize{letter}Unit": unit}
        else:
            metadata |= {"spacing": z, "unit": imagej_unit(volume.units)}
            resolution = imagej_resolution(y, x, path)
    with atomic_path(path) as temporary:
        imwrite(
            temporary,
            np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")),
            imagej=not ome,
            ome=ome,
            photometric="minisblack",
            resolution=resolution,
            metadata=metadata,
        )
