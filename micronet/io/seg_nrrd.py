"""Segmentations of 3D Slicer (.seg.nrrd), layered or shared label map.

A .seg.nrrd is a NRRD whose key/value pairs ``SegmentN_Name``, ``SegmentN_LabelValue``, ``SegmentN_Layer``, ..
say what the values mean. Segments that do not overlap share one label map (3-D); overlapping ones lie in
layers (4-D, axis of kind ``list``). Source: 3D Slicer, vtkMRMLSegmentationStorageNode, and its documentation
of the file format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.names import name_key, same_name
from micronet.core.volume import Volume, bounding_box
from micronet.io import nrrd
from micronet.io.checks import build_volume, reading, regular_file
from micronet.io.nrrd_geometry import axis_roles, geometry, geometry_fields
from micronet.io.nrrd_header import NrrdHeader, escape, unescape

__all__ = [
    "POINTER",
    "Segment",
    "Segmentation",
    "has_segments",
    "is_pointer_file",
    "points_only",
    "read_segmentation",
    "write_label_planes",
    "write_mask_planes",
    "write_segmentation",
]

#: Names that say "this is the whole segmentation", folded to lower case.
_FULL_NAMES = frozenset({"full seg", "full mask", "full segmentation", "full seg(mentation)"})

#: A tag of segments that point at places and are no masks; 3D Slicer keeps it.
POINTER: Mapping[str, str] = {"micronet": "places to look at"}

_TISSUE = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue"
    "~^^~Anatomic codes - DICOM master list~^^~^^"
)
_DEFAULT_TAGS = {"Segmentation.Status": "inprogress", "TerminologyEntry": _TISSUE}
_MASTER_PAIRS = {
    "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
    "Segmentation_MasterRepresentation": "Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset": "0 0 0",
}
_KEY = re.compile(r"Segment(0|[1-9][0-9]{0,5})_(.+)")


@dataclass(frozen=True)
class Segment:
    """One segment of a segmentation.

    Parameters
    ----------
    name : str
        As the person called it.
    id : str
        Unique in its file; the writer makes one where it is empty.
    color : tuple of 3 floats
        Red, green, blue in [0, 1].
    tags : mapping of str to str
        Slicer's tags: status, terminology, ..
    index : int
        N of the ``SegmentN_`` keys; the writer numbers anew.
    label_value, layer : int
        Where the segment lies in the file: its voxels have this value in this layer; the writer chooses anew.
    extent : tuple of 6 ints, optional
        First and last voxel along x, y and z that the file promises to look at; found anew by the writer.
    voxels : int, optional
        Number of voxels, counted by the reader.
    """

    name: str
    id: str = ""
    color: tuple[float, float, float] = (0.847, 0.396, 0.31)
    tags: Mapping[str, str] = field(default_factory=lambda: dict(_DEFAULT_TAGS))
    index: int = 0
    label_value: int = 1
    layer: int = 0
    extent: tuple[int, ...] | None = None
    voxels: int | None = None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of a file on their grid.

    Parameters
    ----------
    path : Path
        The file.
    segments : tuple of Segment
        In the order of their index.
    labels : ndarray of shape (Z, Y, X, layers)
        What the file holds.
    grid : Volume
        The geometry; its array is the first layer.
    """

    path: Path
    segments: tuple[Segment, ...]
    labels: NDArray[Any]
    grid: Volume

    def mask(self, segment: Segment) -> Volume:
        """Return one segment as a bool volume."""
        return self.grid.with_array(self.labels[..., segment.layer] == segment.label_value)

    def choose(self, wanted: str | int | None = None) -> Segment:
        """Return the segment that is wanted, or the one that is meant where none is named.

        Parameters
        ----------
        wanted : str or int, optional
            A name, whatever its case, or an index, counted from 0 as in the file; a name stands above an
            index. When None: the only segment, else the one whose name says that it is the full segmentation.

        Raises
        ------
        InputError
            If no segment or more than one fits; the message lists them with their voxel counts.
        """
        if wanted is None:
            found = [segment for segment in self.segments if _folded(segment.name) in _FULL_NAMES]
            if len(self.segments) == 1:
                found = list(self.segments)
            problem = f"name one {setting('segment')}"
        else:
            name = str(wanted).strip()
            found = [segment for segment in self.segments if same_name(segment.name, name)]
            found = found or [segment for segment in self.segments if _folded(segment.name) == _folded(name)]
            found = found or [segment for segment in self.segments if str(segment.index) == name]
            count = "more than one" if found else "none"
            problem = f"{count} is '{wanted}', a name or an index {setting('segment')}"
        if len(found) == 1:
            return found[0]
        listed = ", ".join(f"{segment.index} '{segment.name}' ({segment.voxels:,} voxels)" for segment in self.segments)
        raise InputError(f"'{self.path}' holds {len(self.segments)} segments; {problem}: {listed}")

    def describe(self, segment: Segment) -> str:
        """Return one line that says which segment this is."""
        number = self.segments.index(segment) + 1
        return (
            f"segment '{segment.name}' (index {segment.index}, number {number} of {len(self.segments)}, "
            f"{segment.voxels:,} voxels) of '{self.path.name}'"
        )


def read_segmentation(path: str | os.PathLike[str], *, spacing_um: ArrayLike | None = None) -> Segmentation:
    """Read every segment of a .seg.nrrd, layered (4-D) or shared label map (3-D).

    Parameters
    ----------
    path : path-like
        The file.
    spacing_um : (3,) array-like, optional
        Distance between voxels along (Z, Y, X) in µm; stands above what the file states.

    Returns
    -------
    Segmentation

    Raises
    ------
    FileError
        If the file is no NRRD with segments, is damaged, or a segment names a layer that is not there.

    Notes
    -----
    As in 3D Slicer a segment without ``LabelValue`` has the value 1, and one without ``Layer`` lies in the
    layer of its own index (the only layer of a 3-D file).
    """
    found = regular_file(path)
    with reading(found):
        header, data = nrrd.read_array(found)
    fields = _segment_fields(header)
    if not fields:
        raise FileError(f"'{found}' holds no segments: there is no Segment0_Name in its header")
    spatial, extra = axis_roles(header)
    if len(extra) > 1:
        raise FileError(f"'{found}' has {data.ndim} axes, expected x, y, z and at most one of layers")
    if data.dtype.kind not in "ui":
        raise FileError(f"'{found}': the labels of a segmentation are integers, found {data.dtype}")
    if extra:
        labels = np.moveaxis(data, data.ndim - 1 - extra[0], -1)
    else:
        labels = data[..., None]
    grid = build_volume(found, labels[..., 0], **geometry(header, spatial, stated=spacing_um is not None))
    if spacing_um is not None:
        grid = grid.with_spacing(spacing_um)
    segments = [_segment(found, index, texts, labels) for index, texts in sorted(fields.items())]
    return Segmentation(found, tuple(segments), labels, grid)


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
    placed, layers = _in_layers(segments, grid, target)
    # 3D Slicer cuts all segments of a layer to the extent of the first, so each states that of the whole
    # layer.
    extents = [_extent(bounding_box(labels)) for labels in layers]
    pairs: dict[str, str] = {}
    for segment in placed:
        pairs |= _segment_pairs(replace(segment, extent=extents[segment.layer]))
    pairs |= _MASTER_PAIRS
    dtype = np.uint8 if max(segment.label_value for segment in placed) < 256 else np.uint16
    fields = _grid_fields(grid)
    if len(layers) == 1:
        labels = layers[0].astype(dtype)
    else:
        labels = np.stack([layer.astype(dtype) for layer in layers], axis=-1)
        fields["space directions"] = f"none {fields['space directions']}"
        fields["kinds"] = f"list {fields['kinds']}"
    nrrd.write_array(target, labels, fields, pairs)
    return target


def _in_layers(
    segments: Sequence[tuple[Segment, NDArray[np.bool_]]], grid: Volume, target: Path
) -> tuple[list[Segment], list[NDArray[np.uint16]]]:
    """Return the segments with identifier, layer and label value, and the label map of each layer."""
    layers: list[NDArray[np.uint16]] = []
    placed: list[Segment] = []
    identifiers = {segment.id for segment, _ in segments if segment.id}
    if len(identifiers) < sum(bool(segment.id) for segment, _ in segments):
        raise InputError(f"cannot write '{target}': two segments have the same id")
    for number, (segment, mask) in enumerate(segments):
        _check_segment(segment, mask, grid, target)
        layer = next((i for i, labels in enumerate(layers) if not labels[mask].any()), len(layers))
        if layer == len(layers):
            layers.append(np.zeros(grid.shape, np.uint16))
        value = 1 + sum(other.layer == layer for other in placed)
        layers[layer][mask] = value
        identifier = segment.id or _new_identifier(number, identifiers)
        identifiers.add(identifier)
        placed.append(replace(segment, id=identifier, label_value=value, layer=layer, index=number))
    return placed, layers


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
    nrrd.write_planes(target, planes, grid.shape, np.dtype(np.uint8), _grid_fields(grid), pairs | _MASTER_PAIRS)
    return target


def points_only(segments: Iterable[Segment]) -> bool:
    """Whether segments point at places to look at (`POINTER`), so that none of them is a mask."""
    return any(POINTER.items() <= segment.tags.items() for segment in segments)


def is_pointer_file(path: Path) -> bool:
    """Whether a file is a segmentation that points at places only, by its header; False for what cannot be read."""
    try:
        header = nrrd.read_header(path)
        texts = _segment_fields(header).values()
    except (MicronetError, OSError):
        return False
    wanted = {f"{key}:{text}" for key, text in POINTER.items()}
    return any(wanted <= set(one.get("Tags", "").split("|")) for one in texts)


def has_segments(header: NrrdHeader) -> bool:
    """Whether a NRRD is a segmentation: its header has a ``SegmentN_`` key."""
    return bool(_segment_fields(header))


def _grid_fields(grid: Volume) -> dict[str, str]:
    """Return the geometry; a space that is not stated as left-posterior-superior."""
    return geometry_fields(replace(grid, space=grid.space or "left-posterior-superior"))


def _segment_fields(header: NrrdHeader) -> dict[int, dict[str, str]]:
    """Return for each N the texts of the keys ``SegmentN_*``, without that prefix."""
    fields: dict[int, dict[str, str]] = {}
    for key, text in header.pairs.items():
        found = _KEY.fullmatch(key)
        if found:
            fields.setdefault(int(found[1]), {})[found[2]] = unescape(text.strip())
    return fields


def _segment(path: Path, index: int, texts: Mapping[str, str], labels: NDArray[Any]) -> Segment:
    layers = labels.shape[-1]
    try:
        layer = int(texts.get("Layer", index if layers > 1 else 0))
        value = int(texts.get("LabelValue", 1))
        color = tuple(float(word) for word in texts.get("Color", "0.5 0.5 0.5").split())
        extent = tuple(int(word) for word in texts["Extent"].split()) if texts.get("Extent") else None
    except ValueError as error:
        raise FileError(f"'{path}': a key of Segment{index} is not the number it should be ({error})") from None
    if not 0 <= layer < layers:
        raise FileError(f"'{path}': Segment{index} lies in layer {layer}, the file has {layers} (0 to {layers - 1})")
    if value < 1:
        raise FileError(f"'{path}': Segment{index} has the label value {value}, expected 1 or more")
    if len(color) != 3 or (extent is not None and len(extent) != 6):
        raise FileError(f"'{path}': Segment{index} should have a Color of 3 and an Extent of 6 numbers")
    tags = {}
    for tag in texts.get("Tags", "").split("|"):
        key, colon, text = tag.strip().partition(":")
        if colon:
            tags[key] = text
    identifier = texts.get("ID", f"Segment_{index + 1}")
    return Segment(
        name=texts.get("Name", identifier),
        id=identifier,
        color=color,
        tags=tags,
        index=index,
        label_value=value,
        layer=layer,
        extent=extent,
        voxels=int(np.count_nonzero(labels[..., layer] == value)),
    )


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


def _folded(name: str) -> str:
    return " ".join(name_key(name).casefold().split())
