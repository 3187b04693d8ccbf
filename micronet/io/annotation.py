"""Annotations: one bool mask, from a segment of a segmentation or a plain mask volume of any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.io import nrrd
from micronet.io.checks import ReadOptions
from micronet.io.formats import open_stack_with, read_with, suffix_of
from micronet.io.seg_nrrd import Segment, has_segments, points_only, read_segmentation
from micronet.io.source import Input, Source, opened
from micronet.io.store_mask import chosen_label

__all__ = ["POINTS_ONLY", "Annotation", "NoMaskError", "claimed_bytes", "read_annotation"]

#: What is said of a file whose segments are no mask.
POINTS_ONLY = "is no mask: its segments mark places where a further stroke would help; give the mask or the labels"


class NoMaskError(InputError):
    """A volume that was to be a mask holds other values."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """A mask with what was chosen to be it.

    Parameters
    ----------
    mask : Volume
        Array of bool.
    segment : Segment or None
        None when the file is a plain mask.
    description : str
        One line, to be shown to the person.
    """

    mask: Volume
    segment: Segment | None
    description: str


def read_annotation(
    path: Input,
    *,
    segment: str | int | None = None,
    axes: str | None = None,
    spacing_um: ArrayLike | None = None,
    shape: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    flat: bool = False,
    level: int = 0,
) -> Annotation:
    """Read a mask: a segment of a .seg.nrrd, labels of an OME-Zarr, or a volume that holds bool, {0, 1} or {0, 255}.

    Parameters
    ----------
    path : path-like or Source
        The file; a NRRD with segment names is a segmentation whatever it is called.
    segment : str or int, optional
        Name or index of the segment, see `Segmentation.choose`; a plain mask has none and is taken as it is.
    axes, shape, dtype : optional
        As `read_volume`, but a file that states its axes is read by these, whatever `axes` says, which is mostly
        meant for the image; `dtype` of a .raw is uint8 unless given.
    spacing_um : (3,) array-like, optional
        Distance between voxels along (Z, Y, X) in µm; stands above what the file states.
    flat, level
        As `read_volume`.

    Returns
    -------
    Annotation

    Raises
    ------
    InputError
        If no segment or more than one fits, the segments are no masks (`micronet.io.seg_nrrd.POINTER`), or a plain mask
        holds other values, which the message lists.
    FileError
        If the file cannot be read as a volume or segmentation.
    """
    with opened(path) as source:
        found = source.path
        suffix = ".png" if flat and source.path.suffix.lower() == ".png" else suffix_of(source.path)
        if suffix in (".nrrd", ".nhdr") and has_segments(nrrd.read_header(source)):
            segmentation = read_segmentation(source, spacing_um=spacing_um)
            if points_only(segmentation.segments):
                raise InputError(f"'{found}' {POINTS_ONLY}")
            chosen = segmentation.choose(segment)
            return Annotation(segmentation.mask(chosen), chosen, segmentation.describe(chosen))
        if suffix == ".zarr" and (names := import_module("micronet.io.zarr").labels_of(found)):
            return _label(source, names, segment, spacing_um, level)
        if dtype is None and suffix == ".raw":
            dtype = "uint8"
        options = ReadOptions(axes, spacing_um, shape, dtype, yield_to_file=True, flat=flat, level=level)
        volume = read_with(source, options)
    mask = volume.with_array(_binary(volume.array, found))
    return Annotation(mask, None, f"mask ({np.count_nonzero(mask.array):,} voxels) of '{found.name}'")


def _label(
    source: Source, names: list[str], wanted: str | int | None, spacing_um: ArrayLike | None, level: int
) -> Annotation:
    """Return the labels of an OME-Zarr that is an image: of one name, all that is not 0."""
    path, name = source.path, chosen_label(source.path, names, wanted)
    volume: Volume = import_module("micronet.io.zarr").read_label(source, name, level)
    volume = volume if spacing_um is None else volume.with_spacing(spacing_um)
    mask = volume.with_array(volume.array != 0)
    return Annotation(mask, None, f"labels '{name}' ({np.count_nonzero(mask.array):,} voxels) of '{path.name}'")


def claimed_bytes(
    path: Input,
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    flat: bool = False,
    level: int = 0,
) -> int:
    """Return how many bytes the voxels of a mask file take, by its header; arguments and errors as `read_annotation`.

    For a segmentation with layers these are all of them.
    """
    with opened(path) as source:
        suffix = ".png" if flat and source.path.suffix.lower() == ".png" else suffix_of(source.path)
        if suffix in (".nrrd", ".nhdr"):
            return nrrd.claimed_bytes(nrrd.read_header(source))
        if dtype is None and suffix == ".raw":
            dtype = "uint8"
        options = ReadOptions(axes, None, shape, dtype, yield_to_file=True, flat=flat, level=level)
        with open_stack_with(source, options) as stack:
            return stack.grid.array.nbytes


def _binary(array: NDArray[Any], path: Path) -> NDArray[np.bool_]:
    """Return a mask as bool; NoMaskError unless it holds only {0, 1} or only {0, 255}."""
    if array.dtype == bool:
        return array
    mask: NDArray[np.bool_] = array != 0
    for foreground in (1, 255):  # plane by plane: no third array of the volume's size
        if all(np.array_equal(inside, plane == foreground) for inside, plane in zip(mask, array, strict=True)):
            return mask
    values = np.unique(array)
    listed = ", ".join(f"{value:g}" for value in values[:6].tolist()) + (", .." if values.size > 6 else "")
    raise NoMaskError(
        f"'{path}' is no mask: it holds {values.size:,} different values ({listed}), expected 0 and 1, or 0 and 255"
    )
