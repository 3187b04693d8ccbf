"""Where a further stroke would help most: the slices and places that are least certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.table import number_cell, write_table
from micronet.core.volume import Volume
from micronet.io.seg_nrrd import POINTER, Segment
from micronet.io.seg_nrrd_write import write_label_planes

__all__ = ["Place", "doubt", "uncertain_places", "write_look"]

Array = NDArray[np.float32]

_MOST_PLACES, _MOST_SLICES = 15, 5
#: In units of the finest spacing: what is averaged over, how far places lie apart, and how large they are drawn.
_CELL, _APART, _RADIUS = 4, 16, 3
#: Below a fiftieth of what a voxel at probability 0.5 has nobody need look.
_LEAST = 0.02
_COLOUR = (1.0, 0.85, 0.1)
_COLUMNS = ("rank", "what", "z", "y", "x", "z_um", "y_um", "x_um", "doubt", "why")


@dataclass(frozen=True)
class Place:
    """A place, or a slice across Z: then `voxel` is (z,) alone.

    `doubt` is its mean around there, from 0 to 1; `disagreement` the part of it that learners disagree by.
    """

    voxel: tuple[int, ...]
    doubt: float
    disagreement: float

    def moved(self, by: Sequence[int]) -> Place:
        """Return it so many voxels (Z, Y, X) farther on."""
        return replace(self, voxel=tuple(at + more for at, more in zip(self.voxel, by, strict=False)))

    @property
    def why(self) -> str:
        """What makes it worth a stroke."""
        return "learners disagree" if self.disagreement > 0.5 * self.doubt else "probability near one half"


def doubt(probability: Array, spread: Array | None, labels: NDArray[np.uint8]) -> Array:
    """Return how uncertain voxels are, 0 to 1: ``4 p (1 - p)``, or where learners differ twice their deviation.

    Nothing is in doubt where a person has said what it is.
    """
    found: Array = 4 * probability * (1 - probability)
    if spread is not None:
        np.maximum(found, 2 * spread, out=found)
    np.clip(found, 0, 1, out=found)
    found[labels > 0] = 0
    return found


def uncertain_places(
    probability: Array, spread: Array | None, labels: NDArray[np.uint8], spacing_um: Sequence[float]
) -> tuple[list[Place], list[Place]]:
    """Find where a further stroke would help most.

    Parameters
    ----------
    probability : ndarray of shape (Z, Y, X), float32
    spread : ndarray of the same shape, float32, optional
        Standard deviation of what the learners say; None where there is one.
    labels : ndarray of the same shape, uint8
        0 not annotated.
    spacing_um : (z, y, x)

    Returns
    -------
    places : list of Place
        At most 15, the most uncertain first; any two are at least 16 times the finest spacing apart.
    slices : list of Place
        At most 5 across Z, neither neighbours of each other.
    """
    finest = min(spacing_um)
    cell = [max(1, round(_CELL * finest / um)) for um in spacing_um]
    coarse, differ, by_plane = _cells(probability, spread, labels, cell)
    smooth = ndimage.gaussian_filter(
        coarse, [_CELL * finest / (n * um) for n, um in zip(cell, spacing_um, strict=True)]
    )
    sizes = np.array([n * um for n, um in zip(cell, spacing_um, strict=True)])
    places: list[Place] = []
    taken: list[NDArray[np.float64]] = []
    for flat in np.argsort(-smooth, axis=None, kind="stable"):
        at = np.unravel_index(int(flat), smooth.shape)
        if smooth[at] < _LEAST or len(places) == _MOST_PLACES:
            break
        where = np.asarray(at) * sizes
        if all(np.linalg.norm(where - other) >= _APART * finest for other in taken):
            taken.append(where)
            voxel = _most_doubtful(probability, spread, labels, [int(i) for i in at], cell)
            places.append(Place(voxel, float(smooth[at]), float(differ[at])))
    return places, _slices(*by_plane)


def _cells(
    probability: Array, spread: Array | None, labels: NDArray[np.uint8], cell: Sequence[int]
) -> tuple[Array, Array, tuple[Array, Array]]:
    """Return doubt and disagreement, averaged over cells, and over planes; plane by plane, in little memory."""
    counts = [-(-n // size) for n, size in zip(labels.shape, cell, strict=True)]
    sums = np.zeros((2, *counts), np.float64)
    planes = np.zeros((2, len(labels)), np.float32)
    for z in range(len(labels)):
        one = slice(z, z + 1)
        found = doubt(probability[one], None if spread is None else spread[one], labels[one])[0]
        apart = np.zeros_like(found) if spread is None else np.where(labels[z] > 0, 0, 2 * spread[z])
        for number, values in enumerate((found, apart)):
            planes[number, z] = values.mean()
            rows = np.add.reduceat(values, np.arange(0, values.shape[0], cell[1]), axis=0)
            sums[number, z // cell[0]] += np.add.reduceat(rows, np.arange(0, values.shape[1], cell[2]), axis=1)
    # The last cells may be cut short by the face; they count as whole, so that slivers do not win.
    sums /= np.prod(cell)
    return sums[0].astype(np.float32), sums[1].astype(np.float32), (planes[0], planes[1])


def _most_doubtful(
    probability: Array, spread: Array | None, labels: NDArray[np.uint8], at: Sequence[int], cell: Sequence[int]
) -> tuple[int, int, int]:
    box = tuple(slice(i * size, (i + 1) * size) for i, size in zip(at, cell, strict=True))
    found = doubt(probability[box], None if spread is None else spread[box], labels[box])
    z, y, x = (
        int(part.start + i) for part, i in zip(box, np.unravel_index(int(found.argmax()), found.shape), strict=True)
    )
    return z, y, x


def _slices(mean: Array, apart: Array) -> list[Place]:
    """Return the planes that are most uncertain in the mean, a tenth of the stack apart."""
    found: list[Place] = []
    between = max(2, len(mean) // 10)
    for z in np.argsort(-mean, kind="stable"):
        if len(found) < _MOST_SLICES and mean[z] > 0 and all(abs(int(z) - one.voxel[0]) >= between for one in found):
            found.append(Place((int(z),), float(mean[z]), float(apart[z])))
    return found


def write_look(
    folder: Path,
    stem: str,
    places: Sequence[Place],
    slices: Sequence[Place],
    grid: Volume,
    spacing_um: Sequence[float],
    first: Sequence[int] = (0, 0, 0),
) -> dict[str, Path]:
    """Write ``<stem>_look.csv`` and ``<stem>_look.seg.nrrd``, one segment a place, and return both.

    Of a box of a volume `grid` is that of the box, and `first` its first voxel in the volume, whose voxels are told.
    The segments carry a tag that says that they are no mask (`micronet.io.seg_nrrd.POINTER`).
    """
    table, marked = folder / f"{stem}_look.csv", folder / f"{stem}_look.seg.nrrd"
    rows = [
        (number, what, *_row(one.moved(first), spacing_um))
        for what, found in (("place", places), ("slice", slices))
        for number, one in enumerate(found, 1)
    ]
    write_table(
        table,
        "where a further stroke would help most",
        [
            "doubt: mean of 4 p (1 - p), or of twice the deviation between learners where that is more; 1 at p = 0.5",
            "z y x count voxels from 0, z_um y_um x_um lengths from the centre of voxel 0; a slice is a plane across Z",
        ],
        _COLUMNS,
        rows,
    )
    tags = dict(POINTER)
    names = ["{}: z {} y {} x {}".format(n, *one.moved(first).voxel) for n, one in enumerate(places, 1)] or [
        "nothing is in doubt"
    ]
    segments = [Segment(name=name, color=_COLOUR, tags=tags) for name in names]
    write_label_planes(marked, segments, _balls(places, grid.shape, spacing_um), grid)
    return {"look_table": table, "look": marked}


def _row(place: Place, spacing_um: Sequence[float]) -> list[object]:
    voxel: list[object] = [*place.voxel, *[""] * (3 - len(place.voxel))]
    lengths = [number_cell(i * um) for i, um in zip(place.voxel, spacing_um, strict=False)]
    return [*voxel, *lengths, *[""] * (3 - len(lengths)), number_cell(place.doubt), place.why]


def _balls(places: Sequence[Place], shape: Sequence[int], spacing_um: Sequence[float]) -> Iterator[NDArray[np.uint8]]:
    """Yield planes in which a ball around each place has its number."""
    radius = _RADIUS * min(spacing_um)
    for z in range(shape[0]):
        plane = np.zeros((shape[1], shape[2]), np.uint8)
        for number, place in enumerate(places, 1):
            left = radius**2 - ((z - place.voxel[0]) * spacing_um[0]) ** 2
            if left < 0:
                continue
            (y0, y1), (x0, x1) = (
                (max(0, int(i - radius / um)), min(n, int(i + radius / um) + 1))
                for i, n, um in zip(place.voxel[1:], shape[1:], spacing_um[1:], strict=True)
            )
            y, x = np.ogrid[y0:y1, x0:x1]
            squares = ((y - place.voxel[1]) * spacing_um[1]) ** 2 + ((x - place.voxel[2]) * spacing_um[2]) ** 2
            plane[y0:y1, x0:x1][squares <= left] = number
        yield plane
