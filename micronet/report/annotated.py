"""Which planes of a volume were annotated, where an annotation was plainly drawn in some of them only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["planes_annotated"]

# Where lumen ends in a plane with so much as this part of the median plane's, it was not annotated further.
_FULL = 0.5


def planes_annotated(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which planes were annotated, by how abruptly the lumen ends.

    Real lumens come to their end in planes of an eighth of the usual area at most (ten annotated embryos).

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
        An annotation.

    Returns
    -------
    tuple of three ndarray of bool
        Along Z, Y and X: all planes, unless several lumens end in a plane that is full of them; then those with lumen.
    """
    z, y, x = (_along(mask, axis) for axis in range(3))
    return z, y, x


def _along(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    from scipy.ndimage import label  # a tenth of a second, which only an annotation costs

    areas = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
    lumen: NDArray[np.bool_] = areas > 0
    beside = np.pad(lumen, 1, mode="edge")
    last = np.flatnonzero(lumen & ~(beside[:-2] & beside[2:]))
    full = [plane for plane in last if areas[plane] >= _FULL * np.median(areas[lumen])]
    # One alone may be a straight tube that is seen from the side.
    several = any(label(mask.take(plane, axis))[1] > 1 for plane in full)
    return lumen if several else np.ones(len(areas), bool)
