"""Which planes of a volume were annotated, where an annotation was plainly drawn in some of them only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micronet.core.names import listed

__all__ = ["drawn_only_in", "planes_annotated"]

# Where lumen ends in a plane with so much as this part of the median plane's, it was not annotated further.
_FULL = 0.5
# Of what the plane before it has: the side of a round tube has less.
_CUT = 0.8


@dataclass(frozen=True, eq=False)
class _Ends:
    """How lumen ends along an axis.

    `lumen` are the planes with any; whether it ends in planes that are full of it, and several lumens at once do
    (`several`), or it ends as if it were cut (`cut`).
    """

    lumen: NDArray[np.bool_]
    several: bool
    cut: bool


def planes_annotated(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which planes were annotated, by how abruptly the lumen ends.

    Real lumens come to their end in planes of an eighth of the usual area at most (ten annotated embryos, of which
    none is told to be of some planes only, and each is once it is cut). What ends in planes that are full was annotated
    no further; but a single lumen only where it ends so along one axis alone, for it may be a straight tube, or a box,
    that is seen from the side.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
        An annotation.

    Returns
    -------
    tuple of three ndarray of bool
        Along Z, Y and X: the planes with lumen where it was annotated no further, else all.
    """
    ends = [_ends(mask, axis) for axis in range(3)]
    alone = sum(one.cut for one in ends) == 1
    z, y, x = (one.lumen if one.several or (one.cut and alone) else np.ones(len(one.lumen), bool) for one in ends)
    return z, y, x


def drawn_only_in(mask: NDArray[np.bool_]) -> str:
    """Return a sentence where an annotation that is to be scored against seems to be drawn in some planes only, or "".

    What is found in others counts as wrong, although nobody said that there is nothing.
    """
    parts = []
    for letter, planes in zip("zyx", planes_annotated(mask), strict=True):
        if not planes.all():
            edges = np.flatnonzero(np.diff(np.pad(planes, 1).astype(np.int8)))
            runs = zip(edges[::2], edges[1::2] - 1, strict=True)
            parts.append(f"{letter} {listed([f'{a}' if a == b else f'{a} to {b}' for a, b in runs])}")
    told = "the annotation seems to be drawn in {} only: what is found elsewhere counts as wrong"
    return told.format(" and ".join(parts)) if parts else ""


def _ends(mask: NDArray[np.bool_], axis: int) -> _Ends:
    from scipy.ndimage import label  # a tenth of a second, which only an annotation costs

    areas = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
    lumen: NDArray[np.bool_] = areas > 0
    beside = np.pad(lumen, 1, mode="edge")
    last = np.flatnonzero(lumen & ~(beside[:-2] & beside[2:]))
    full = [plane for plane in last if areas[plane] >= _FULL * np.median(areas[lumen])]
    before = np.pad(areas, 1)
    return _Ends(
        lumen,
        several=any(label(mask.take(plane, axis))[1] > 1 for plane in full),
        cut=any(areas[plane] >= _CUT * max(before[plane], before[plane + 2]) for plane in full),
    )
