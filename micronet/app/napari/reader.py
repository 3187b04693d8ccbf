"""Open volumes, recordings and segmentations in napari with their scale in µm."""

from __future__ import annotations

import math
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
from micronet.io.zarr import Level, labels_of, open_level

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
            if source.is_store:
                return _store(file, stem)
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


def _store(file: Path, stem: str) -> list[LayerData]:
    """Return an OME-Zarr as an image at all its scales, read where it is looked at, and its labels."""
    shown = [(open_level(file), stem, "image")]
    shown += [(open_level(file, 0, file / "labels" / name), name, "labels") for name in labels_of(file)]
    layers: list[LayerData] = []
    for level, name, kind in shown:
        image = level.image
        scales = [level, *(open_level(file, number, image.group) for number in range(1, image.levels))]
        attributes = layer_attributes(level.grid, name)
        if len(scales) > 1:
            layers.append(([_Lazy(one) for one in scales], attributes | {"multiscale": True}, kind))
        else:
            layers.append((level[(slice(None),) * 3], attributes, kind))
    return layers


class _Lazy:
    """A level as napari takes it for an array: it asks for what is on the screen."""

    ndim = 3

    def __init__(self, level: Level) -> None:
        self._level, self.shape, self.dtype = level, level.shape, level.dtype
        self.size = math.prod(level.shape)

    def __getitem__(self, part: Any) -> Any:
        """Return a part, of which an axis that a number is given for is left out."""
        parts = part if isinstance(part, tuple) else (part,)
        parts = (*parts, *(slice(None),) * (3 - len(parts)))
        box = tuple(
            slice(*one.indices(length)[:2]) if isinstance(one, slice) else slice(int(one), int(one) + 1)
            for one, length in zip(parts, self.shape, strict=True)
        )
        steps = tuple(slice(None, None, one.step) if isinstance(one, slice) else 0 for one in parts)
        return self._level[box][steps]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return all of it."""
        return np.asarray(self[:], dtype)


def _is_segmentation(path: str | Path) -> bool:
    return Path(path).name.lower().endswith(_SEGMENTATIONS)
