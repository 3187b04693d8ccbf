"""Segmentations of 3D Slicer (.seg.nrrd), layered or shared label map.

A .seg.nrrd is a NRRD whose key/value pairs ``SegmentN_Name``, ``SegmentN_LabelValue``, ``SegmentN_Layer``, ..
say what the values mean. Segments that do not overlap share one label map (3-D); overlapping ones lie in
layers (4-D, axis of kind ``list``). Source: 3D Slicer, vtkMRMLSegmentationStorageNode, and its documentation
of the file format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.names import name_key, same_name
from micronet.core.volume import Volume
from micronet.io import nrrd
from micronet.io.checks import build_volume, reading
from micronet.io.nrrd_geometry import axis_roles, geometry
from micronet.io.nrrd_header import NrrdHeader, unescape
from micronet.io.source import Input, opened

__all__ = [
    "POINTER",
    "Segment",
    "Segmentation",
    "has_segments",
    "is_pointer_file",
    "points_only",
    "read_segmentation",
    "segment_names",
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
        many = f"{len(self.segments)} segment{'s' * (len(self.segments) != 1)}"
        raise InputError(f"'{self.path}' holds {many}; {problem}: {listed}")

    def describe(self, segment: Segment) -> str:
        """Return one line that says which segment this is."""
        number = self.segments.index(segment) + 1
        return (
            f"segment '{segment.name}' (index {segment.index}, number {number} of {len(self.segments)}, "
            f"{segment.voxels:,} voxels) of '{self.path.name}'"
        )


def read_segmentation(path: Input, *, spacing_um: ArrayLike | None = None) -> Segmentation:
    """Read every segment of a .seg.nrrd, layered (4-D) or shared label map (3-D).

    Parameters
    ----------
    path : path-like or Source
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
    with opened(path) as source, reading(source.path):
        found = source.path
        header, data = nrrd.read_array(source)
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


def points_only(segments: Iterable[Segment]) -> bool:
    """Whether segments point at places to look at (`POINTER`), so that none of them is a mask."""
    return any(POINTER.items() <= segment.tags.items() for segment in segments)


def is_pointer_file(path: Path) -> bool:
    """Whether a file is a segmentation that points at places only, by its header; False for what cannot be read."""
    try:
        with opened(path) as source:
            texts = _segment_fields(nrrd.read_header(source)).values()
    except (MicronetError, OSError):
        return False
    wanted = {f"{key}:{text}" for key, text in POINTER.items()}
    return any(wanted <= set(one.get("Tags", "").split("|")) for one in texts)


def segment_names(path: Input) -> list[str]:
    """Return what the segments of a NRRD are called, by its header; none where it has no segments."""
    with opened(path) as source, reading(source.path):
        fields = _segment_fields(nrrd.read_header(source))
    return [_name(index, texts) for index, texts in sorted(fields.items())]


def has_segments(header: NrrdHeader) -> bool:
    """Whether a NRRD is a segmentation: its header has a ``SegmentN_`` key."""
    return bool(_segment_fields(header))


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
    return Segment(
        name=_name(index, texts),
        id=_identifier(index, texts),
        color=color,
        tags=tags,
        index=index,
        label_value=value,
        layer=layer,
        extent=extent,
        voxels=int(np.count_nonzero(labels[..., layer] == value)),
    )


def _identifier(index: int, texts: Mapping[str, str]) -> str:
    return texts.get("ID", f"Segment_{index + 1}")


def _name(index: int, texts: Mapping[str, str]) -> str:
    return texts.get("Name", _identifier(index, texts))


def _folded(name: str) -> str:
    return " ".join(name_key(name).casefold().split())
