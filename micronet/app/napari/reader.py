"""Open volumes, recordings and segmentations in napari with their scale in µm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from micronet.app.napari.layers import STROKE_COLOURS, STROKES, layer_attributes
from micronet.core.errors import MicronetError
from micronet.io import (
    Segmentation,
    is_volume_path,
    open_recording,
    opened,
    read_segmentation,
    read_volume,
    volume_stem,
)

__all__ = ["get_reader"]

LayerData = tuple[Any, dict[str, Any], str]

_SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
# Segments that are painted for teaching, labels 1 and 2.
_CLASSES = ("lumen", "background")
# How the name of our own labels ends.
_LABELS = "_labels"


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads a path, None where it is no volume that we read, as npe2 has it.

    Several files at once are not taken: they may be one stack or many volumes.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) != 1:
        return None
    headerless = paths[0].lower().endswith(".raw")
    return read if _is_segmentation(paths[0]) or (is_volume_path(paths[0]) and not headerless) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Read a file into layers: an image, or a labels layer for each segment; one for what was painted for teaching.

    A file with an axis of time becomes one layer (T, Z, Y, X), all of it in memory.

    Raises
    ------
    MicronetError
        In one line that napari shows.
    """
    file = Path(path if isinstance(path, str) else path[0])
    stem = volume_stem(file)
    if _is_segmentation(file):
        found = read_segmentation(file)
        if {segment.name for segment in found.segments} == set(_CLASSES) and not _overlap(found):
            return [_strokes(found, stem)]
        layers: list[LayerData] = []
        for segment in found.segments:
            attributes = layer_attributes(found.grid, segment.name or stem)
            attributes["colormap"] = {None: "transparent", 0: "transparent", 1: segment.color}
            layers.append((found.mask(segment).array.astype(np.uint8), attributes, "labels"))
        return layers
    kind = "labels" if stem.endswith(_LABELS) else "image"
    with opened(file) as source:
        try:
            recording = open_recording(source)
        except MicronetError:  # one time point, or something that read_volume tells better
            volume = read_volume(source)
            array = volume.array
            attributes = layer_attributes(volume, stem)
        else:
            with recording:
                array = np.stack([recording.read(number).array for number in range(recording.count)])
                attributes = layer_attributes(recording.grid, stem, ndim=4)
    if kind == "labels" and array.dtype.kind not in "bui":
        kind = "image"
    return [(array.astype(np.uint8) if array.dtype == bool else array, attributes, kind)]


def _overlap(found: Segmentation) -> bool:
    one, two = (found.mask(segment).array for segment in found.segments)
    return bool((one & two).any())


def _strokes(found: Segmentation, stem: str) -> LayerData:
    """Return segments lumen and background as one layer, to be painted on as before."""
    labels = np.zeros(found.grid.shape, np.uint8)
    for segment in found.segments:
        labels[found.mask(segment).array] = 1 + _CLASSES.index(segment.name)
    attributes = layer_attributes(found.grid, f"{stem} strokes")
    attributes["metadata"][STROKES] = True
    return labels, attributes | {"colormap": STROKE_COLOURS}, "labels"


def _is_segmentation(path: str | Path) -> bool:
    return Path(path).name.lower().endswith(_SEGMENTATIONS)
