"""Save a labels layer of napari for 3D Slicer (.seg.nrrd) or Fiji (TIFF)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.app.napari.layers import STROKES, grid_of
from micronet.core.errors import InputError
from micronet.io import Segment, write_label_tiff, write_segmentation

__all__ = ["write_labels_tiff", "write_seg_nrrd"]

_MOST_SEGMENTS = 255


def write_seg_nrrd(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a labels layer (Z, Y, X) as a segmentation, a segment for each label; return the path written.

    It lies on the grid of the file that the layer came from, or was made on, position and direction included. Strokes
    are the segments "lumen" and "background".

    Raises
    ------
    MicronetError
        If the layer is not three-dimensional, empty, or holds more labels than are handled.
    """
    array = _labels(data)
    if array.ndim != 3:
        raise InputError(f"a segmentation has the axes Z, Y, X, this layer has {array.ndim}; save it as .tif")
    values = np.unique(array)
    values = values[values != 0]
    if not 0 < values.size <= _MOST_SEGMENTS:
        raise InputError(f"a segmentation holds 1 to {_MOST_SEGMENTS} labels, this layer has {values.size}")
    name = str(attributes.get("name") or "lumen")
    names = [name] if values.size == 1 else [f"{name} {value}" for value in values]
    if attributes.get("metadata", {}).get(STROKES) and set(values) <= {1, 2}:
        names = [("lumen", "background")[value - 1] for value in values]  # as teach.py finds them
    segments = [(Segment(name=one), array == value) for one, value in zip(names, values, strict=True)]
    return [str(write_segmentation(path, segments, grid_of(array.shape, attributes)))]


def write_labels_tiff(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a labels layer (Z, Y, X) or (T, Z, Y, X) as a TIFF that Fiji opens with its spacing; return the path.

    Raises
    ------
    MicronetError
        If the layer has other axes, or a label above 65535.
    """
    array = _labels(data)
    if array.ndim not in (3, 4):
        raise InputError(f"a label TIFF has the axes Z, Y, X, and T before them, this layer has {array.ndim} axes")

    def volumes() -> Iterator[NDArray[Any]]:
        yield from array if array.ndim == 4 else array[None]

    count = len(array) if array.ndim == 4 else None
    largest = int(array.max(initial=1))
    return [str(write_label_tiff(path, volumes(), grid_of(array.shape, attributes), count=count, largest=largest))]


def _labels(data: Any) -> NDArray[Any]:
    array = np.asarray(data)
    if array.dtype.kind not in "bui" or (array.size and int(array.min()) < 0):
        raise InputError(f"labels are whole numbers from 0 on, this layer holds {array.dtype}")
    return array
