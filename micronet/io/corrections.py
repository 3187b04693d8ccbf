"""Corrections: a mask that a person has edited, with a segment that says where it has been checked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import InputError, setting
from micronet.core.volume import Volume, share_grid
from micronet.io import nrrd
from micronet.io.annotation import POINTS_ONLY
from micronet.io.formats import suffix_of
from micronet.io.labels import BACKGROUND, LUMEN, Labels, placed_on
from micronet.io.seg_nrrd import Segment, Segmentation, has_segments, points_only, read_segmentation
from micronet.io.source import Input, Source, opened

__all__ = ["CHECKED", "label_counts", "read_corrections"]

#: What the segment is called that says which voxels have been checked, unless the person says otherwise.
CHECKED = "checked"


def read_corrections(
    path: Input,
    image: Volume,
    image_name: str,
    *,
    checked: str = CHECKED,
    lumen: str | None = None,
    chooser: str = "lumen",
    spacing_um: ArrayLike | None = None,
) -> tuple[Volume, Labels]:
    """Read an edited mask: its voxels inside the segment `checked` are annotated, lumen or background as edited.

    Parameters
    ----------
    path : path-like or Source
        A .seg.nrrd with the edited lumen and the checked voxels as segments, which may overlap (layers). One that 3D
        Slicer has cropped is put into its place.
    image, image_name : Volume, str
        What the mask belongs to, and its name for messages.
    checked : str
        Name or index of the segment that holds the checked voxels.
    lumen : str, optional
        Name or index of the edited lumen; by default the only other segment.
    chooser : {"lumen", "segment"}
        The setting that names the lumen, for messages.
    spacing_um
        As `micronet.read_annotation`.

    Returns
    -------
    image : Volume
        Whose length unit may have been settled by the corrections.
    labels : Labels
        0 not checked, 1 lumen, 2 background.

    Raises
    ------
    InputError
        If there is no such segment, nothing is checked, several segments could be the lumen, or the grid is another.
    FileError
        If the file cannot be read.
    """
    with opened(path) as source:
        segmentation = _segmentation(source, spacing_um)
    where = _checked(segmentation, checked)
    inside = _lumen(segmentation, where, lumen, chooser)
    array = np.zeros(segmentation.grid.shape, np.uint8)
    for labels, edited, looked_at in _planes(array, segmentation, inside, where):
        labels[looked_at] = BACKGROUND
        labels[looked_at & edited] = LUMEN
    counts = label_counts(array)
    volume = placed_on(image, segmentation.grid.with_array(array))
    image, volume, note = share_grid(image, volume, image_name, str(segmentation.path))
    notes = [*volume.notes, *([note] if note else []), *_suspicion(counts, inside, where)]
    which = f"'{inside.name}' where '{where.name}' in '{segmentation.path.name}'"
    description = f"{counts[LUMEN]:,} voxels lumen, {counts[BACKGROUND]:,} background: {which}"
    return image, Labels(volume, description, tuple(dict.fromkeys(notes)))


def _suspicion(counts: tuple[int, int, int], inside: Segment, where: Segment) -> list[str]:
    """Return a line where the lumen may have been erased without being meant to be."""
    if counts[LUMEN]:
        return []
    return [
        f"nothing that was checked is lumen: where segments may not overlap (3D Slicer: Masking, Modify other "
        f"segments), painting '{where.name}' erases '{inside.name}' under it"
    ]


def label_counts(labels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return how many voxels are not annotated, lumen and background."""
    lumen, background = (sum(int(np.count_nonzero(plane == value)) for plane in labels) for value in (1, 2))
    return labels.size - lumen - background, lumen, background


def _segmentation(source: Source, spacing_um: ArrayLike | None) -> Segmentation:
    """Read the segments of a file; InputError where it has none, or they are no masks."""
    path = source.path
    if suffix_of(path) not in (".nrrd", ".nhdr") or not has_segments(nrrd.read_header(source)):
        raise InputError(
            f"'{path}' holds no segments, so none says which voxels were checked {setting('checked')}; save the "
            "edited mask as .seg.nrrd, with a second segment that holds them"
        )
    segmentation = read_segmentation(source, spacing_um=spacing_um)
    if points_only(segmentation.segments):
        raise InputError(f"'{path}' {POINTS_ONLY}")
    return segmentation


def _planes(
    array: NDArray[np.uint8], segmentation: Segmentation, inside: Segment, where: Segment
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield planes of the array, and where each is lumen and checked: no temporary of the volume's size."""
    edited, looked_at = (segmentation.labels[..., segment.layer] for segment in (inside, where))
    for plane, lumen, checked in zip(array, edited, looked_at, strict=True):
        yield plane, lumen == inside.label_value, checked == where.label_value


def _checked(segmentation: Segmentation, name: str) -> Segment:
    """Return the segment that says what was checked; InputError where there is none, or nothing in it."""
    try:
        found = segmentation.choose(name)
    except InputError as error:
        raise InputError(
            f"{error}; mark the voxels that you have checked with such a segment".replace(
                setting("segment"), setting("checked")
            )
        ) from error
    if not found.voxels:
        raise InputError(
            f"'{segmentation.path}': no voxel is in segment '{found.name}'; mark those that you have checked with it "
            f"{setting('checked')}"
        )
    return found


def _lumen(segmentation: Segmentation, where: Segment, name: str | None, chooser: str) -> Segment:
    """Return the edited lumen: the only segment beside the checked one, or the one that is named."""
    others = [segment for segment in segmentation.segments if segment is not where]
    if name is not None:
        try:
            found = segmentation.choose(name)
        except InputError as error:
            raise InputError(str(error).replace(setting("segment"), setting(chooser))) from error
        if found is where:
            raise InputError(f"'{segmentation.path}': segment '{found.name}' cannot be the lumen and what was checked")
        return found
    if not others:
        raise InputError(
            f"'{segmentation.path}' holds only the segment '{where.name}'; the edited lumen must be one too, which may "
            "overlap with it"
        )
    if len(others) > 1:
        listed = ", ".join(f"'{segment.name}'" for segment in others)
        raise InputError(
            f"'{segmentation.path}': which segment is the edited lumen, {listed}? name it {setting(chooser)}"
        )
    return others[0]
