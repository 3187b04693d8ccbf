"""Tables of what was found: which classes an image holds, and a point for each piece."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micronet.core.names import write_name
from micronet.core.table import number_cell, write_table
from micronet.segment.weak.found import Detection

__all__ = ["POINT_COLUMNS", "write_classes", "write_detections"]

#: A table whose first columns are these opens in napari as a layer of points, the others as what is known of each.
POINT_COLUMNS = ("index", "axis-0", "axis-1", "axis-2")
_MORE = ("image", "class", "score", "voxels", "z_um", "y_um", "x_um")
_COLUMNS = ("image", "plane", "class", "probability", "there", "pieces")
_COMMENTS = (
    "probability: that the image, or of a 2-D network the plane, holds the class; there: 1 where above {threshold:g}",
    "pieces: how many separate ones were found; one in several planes counts in each of them, and once in all",
)


def write_classes(
    path: Path,
    image: str,
    classes: Sequence[str],
    probability: NDArray[np.float32],
    pieces: NDArray[np.int64],
    counts: Sequence[int],
    threshold: float,
) -> None:
    """Write which classes an image holds.

    Parameters
    ----------
    path : Path
    image : str
        Its name, which stands in every row.
    classes : sequence of str
    probability, pieces : ndarray of shape (images, classes)
        Several images are the planes of one.
    counts : sequence of int
        Pieces of each class in all of it.
    threshold : float
    """
    rows: list[tuple[object, ...]] = []
    planes = len(probability) > 1
    for number, (said, have) in enumerate(zip(probability, pieces, strict=True)):
        for name, p, n in zip(classes, said, have, strict=True):
            rows.append(_row(image, number if planes else "", name, float(p), threshold, int(n)))
    if planes:
        for name, p, n in zip(classes, probability.max(0), counts, strict=True):
            rows.append(_row(image, "all", name, float(p), threshold, n))
    comments = [comment.format(threshold=threshold) for comment in _COMMENTS]
    write_table(path, "classes of an image", comments, _COLUMNS, rows)


def _row(image: str, plane: object, name: str, probability: float, threshold: float, pieces: int) -> tuple[object, ...]:
    return image, plane, name, number_cell(probability), int(probability > threshold), pieces


def write_detections(
    path: Path,
    image: str,
    classes: Sequence[str],
    found: Sequence[Detection],
    spacing_um: Sequence[float] | None,
) -> None:
    """Write a point for each piece, as napari opens it: no comment stands before its columns.

    ``axis-0``, ``-1`` and ``-2`` are the voxel (z, y, x), counted from 0; ``z_um`` and the like lengths from the centre
    of voxel 0, empty where the spacing is not known.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*POINT_COLUMNS, *_MORE])
        for index, one in enumerate(found):
            lengths = [
                "" if spacing_um is None else number_cell(at * um)
                for at, um in zip(one.voxel, spacing_um or (1, 1, 1), strict=True)
            ]
            cells = [write_name(image), write_name(classes[one.of_class]), number_cell(one.score), one.voxels]
            writer.writerow([index, *one.voxel, *cells, *lengths])
