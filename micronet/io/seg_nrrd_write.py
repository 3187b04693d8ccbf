"""The writer of segmentations that 3D Slicer opens with names and colours (.seg.nrrd)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, bounding_box
from micronet.io.nrrd_geometry import geometry_fields
from micronet.io.nrrd_header import escape
from micronet.io.nrrd_write import write_planes
from micronet.io.seg_nrrd import Segment

__all__ = ["write_label_planes", "write_mask_planes", "write_segmentation"]

_MASTER_PAIRS = {
    "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
    "Segmentation_MasterRepresentation": "Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset": "0 0 0",
}


def write_segmentation(
    path: str | os.PathLike[str], segments: Sequence[tuple[Segment, NDArray[np.bool_]]], grid: Volume
) -> Path:
    """Write segments as a .seg.nrrd that 3D Slicer opens with names and colours.

    Segments that do not overlap share one label map (3-D); where some do, the file has layers (4-D). Label
    values, layers and extents are chosen here.

    Parameters
    ----------
    path : path-like
        Ends with .seg.nrrd (or .seg.nhdr).
    segments : sequence of (Segment, bool ndarray of shape (Z, Y, X))
        At least one.
    grid : Volume
        Where the voxels lie; its array is not looked at. A space that is not stated is written as
        left-posterior-superior, which is how ITK reads the image that did not state it.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If there is no segment, a mask is not bool or has another shape, or a name, identifier, colour or tag
        cannot be written.
    FileError
        If the suffix is another, or the file cannot be written.
    """
    target = _named_as_segmentation(path)
    if not segments:
        raise InputError(f"cannot write '{target}': there is no segment")
    placed, inside = _in_layers(segments, grid, target)
    # 3D Slicer cuts all segments of a layer to the extent of the first, so each states that of the whole
    # layer.
    extents = [_extent(bounding_box(anywhere)) for anywhere in inside]
    pairs: dict[str, str] = {}
    for segment in placed:
        pairs |= _segment_pairs(replace(segment, extent=extents[segment.layer]))
    pairs |= _MASTER_PAIRS
    dtype = np.dtype(np.uint8 if max(segment.label_value for segment in placed) < 256 else np.uint16)
    fields = _grid_fields(grid)
    shape: tuple[int, ...] = grid.shape
    if len(inside) > 1:
        shape = (*shape, len(inside))
        fields["space directions"] = f"none {fields['space directions']}"
        fields["kinds"] = f"list {fields['kinds']}"
    drawn = [(segment, mask) for segment, (_, mask) in zip(placed, segments, strict=True)]
    write_planes(target, _label_planes(drawn, (*grid.shape, len(inside)), dtype), shape, dtype, fields, pairs)
    return target


def _in_layers(
    segments: Sequence[tuple[Segment, NDArray[np.bool_]]], grid: Volume, target: Path
) -> tuple[list[Segment], list[NDArray[np.bool_]]]:
    """Return the segments with identifier, layer and label value, and where each layer has any of them."""
    layers: list[NDArray[np.bool_]] = []
    placed: list[Segment] = []
    identifiers = {segment.id for segment, _ in segments if segment.id}
    if len(identifiers) < sum(bool(segment.id) for segment, _ in segments):
        raise InputError(f"cannot write '{target}': two segments have the same id")
    for number, (segment, mask) in enumerate(segments):
        _check_segment(segment, mask, grid, target)
        layer = next((i for i, inside in enumerate(layers) if not _collide(inside, mask)), len(layers))
        if layer == len(layers):
            layers.append(np.zeros(grid.shape, bool))
        layers[layer] |= mask
        value = 1 + sum(other.layer == layer for other in placed)
        identifier = segment.id or _new_identifier(number, identifiers)
        identifiers.add(identifier)
        placed.append(replace(segment, id=identifier, label_value=value, layer=layer, index=number))
    return placed, layers


def _collide(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    return any(bool((a & b).any()) for a, b in zip(one, other, strict=True))  # no third mask of the volume's size


def _label_planes(
    segments: Sequence[tuple[Segment, NDArray[np.bool_]]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    """Yield the planes (Y, X, layers) of labels; of a single layer these are (Y, X) all the same, byte by byte."""
    for number in range(shape[0]):
        plane = np.zeros(shape[1:], dtype)
        for segment, mask in segments:
            plane[..., segment.layer][mask[number]] = segment.label_value
        yield plane


def write_mask_planes(
    path: str | os.PathLike[str],
    segment: Segment,
    planes: Iterable[NDArray[np.bool_]],
    grid: Volume,
    box: tuple[slice, ...] | None = None,
) -> Path:
    """Write one segment whose mask comes plane by plane along Z, as `write_segmentation` writes a whole one.

    Without `box`, the bounding box of the mask, the extent of the whole grid is stated: the mask's is not known before
    the last plane.
    """
    return write_label_planes(path, [segment], (plane.astype(np.uint8) for plane in planes), grid, box)


def write_label_planes(
    path: str | os.PathLike[str],
    segments: Sequence[Segment],
    planes: Iterable[NDArray[np.uint8]],
    grid: Volume,
    box: tuple[slice, ...] | None = None,
) -> Path:
    """Write segments that do not overlap, whose labels come plane by plane: 1 for the first, 2 for the second, ..

    At most 255; `box` as `write_mask_planes` has it, of all of them.
    """
    target = _named_as_segmentation(path)
    pairs: dict[str, str] = {}
    identifiers: set[str] = {segment.id for segment in segments if segment.id}
    extent = _extent(box or tuple(slice(0, size) for size in grid.shape))
    for number, segment in enumerate(segments):
        _check_segment(segment, np.broadcast_to(np.False_, grid.shape), grid, target)
        identifier = segment.id or _new_identifier(number, identifiers)
        identifiers.add(identifier)
        placed = replace(segment, id=identifier, label_value=number + 1, layer=0, index=number, extent=extent)
        pairs |= _segment_pairs(placed)
    write_planes(target, planes, grid.shape, np.dtype(np.uint8), _grid_fields(grid), pairs | _MASTER_PAIRS)
    return target


def _grid_fields(grid: Volume) -> dict[str, str]:
    """Return the geometry; a space that is not stated as left-posterior-superior."""
    return geometry_fields(replace(grid, space=grid.space or "left-posterior-superior"))


def _segment_pairs(segment: Segment) -> dict[str, str]:
    texts = {
        "Color": " ".join(f"{float(part):.9g}" for part in segment.color),
        "ColorAutoGenerated": "0",
        "Extent": " ".join(str(voxel) for voxel in segment.extent or ()),
        "ID": segment.id,
        "LabelValue": str(segment.label_value),
        "Layer": str(segment.layer),
        "Name": segment.name,
        "NameAutoGenerated": "0",
        "Tags": "".join(f"{key}:{text}|" for key, text in segment.tags.items()),
    }
    return {f"Segment{segment.index}_{key}": escape(text) for key, text in texts.items()}


def _named_as_segmentation(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if not target.name.lower().endswith((".seg.nrrd", ".seg.nhdr")):
        raise FileError(f"cannot write '{target}': the name of a segmentation ends with .seg.nrrd")
    return target


def _check_segment(segment: Segment, mask: NDArray[Any], grid: Volume, target: Path) -> None:
    where = f"cannot write '{target}': segment '{segment.name}'"
    if mask.dtype != bool:
        raise InputError(f"{where} needs a mask of bool, found {mask.dtype}")
    if mask.shape != grid.shape:
        raise InputError(f"{where} has a mask of shape {mask.shape}, its grid is {grid.shape}")
    if not segment.name.strip():
        raise InputError(f"{where} has no name")
    if len(segment.color) != 3 or not all(0 <= part <= 1 for part in segment.color):
        raise InputError(f"{where} has the colour {segment.color}, expected red, green and blue in [0, 1]")
    if any(":" in key or "|" in key or "|" in text for key, text in segment.tags.items()):
        raise InputError(f"{where} has a tag with '|', or a tag name with ':', which separate tags in the file")


def _new_identifier(number: int, taken: set[str]) -> str:
    return next(name for i in range(number + 1, number + 2 + len(taken)) if (name := f"Segment_{i}") not in taken)


def _extent(box: tuple[slice, ...]) -> tuple[int, ...]:
    """Return first and last voxel of a box along x, y and z; 0 to -1 where there is none."""
    return tuple(end for part in box[::-1] for end in (part.start, part.stop - 1))
