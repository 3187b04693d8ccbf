"""Cleaning of a mask: small pieces removed, the largest kept, holes filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.volume import bounding_box
from micronet.core.words import counted
from micronet.measure.cleaning import Cleaning
from micronet.measure.topology import components

__all__ = ["Cleaned", "clean_mask"]


@dataclass(frozen=True)
class Cleaned:
    """How much cleaning changed: pieces and voxels removed, holes and voxels filled, voxels before."""

    pieces: int
    removed: int
    holes: int
    filled: int
    before: int

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"{counted(self.pieces, 'piece')} removed ({self._share(self.removed)}), "
            f"{counted(self.holes, 'hole')} filled ({self._share(self.filled)})"
        )

    def _share(self, voxels: int) -> str:
        return f"{counted(voxels, 'voxel')}, {100 * voxels / max(self.before, 1):.2g} % of the lumen"


def clean_mask(mask: NDArray[np.bool_], cleaning: Cleaning, voxel_um3: float | None = None) -> Cleaned:
    """Clean a mask in place.

    Parameters
    ----------
    mask : ndarray of bool, shape (Z, Y, X)
        Changed.
    cleaning : Cleaning
    voxel_um3 : float, optional
        Volume of a voxel in µm³; needed where the cleaning has a smallest volume.

    Returns
    -------
    Cleaned
    """
    inside = mask[bounding_box(mask)]
    before = int(np.count_nonzero(inside))
    pieces = removed = holes = filled = 0
    if inside.size and (cleaning.largest or cleaning.below_um3 is not None):
        pieces, removed = _remove(inside, cleaning, voxel_um3)
    if inside.size and cleaning.holes:
        holes, filled = _fill(inside)
    return Cleaned(pieces, removed, holes, filled, before)


def _remove(inside: NDArray[np.bool_], cleaning: Cleaning, voxel_um3: float | None) -> tuple[int, int]:
    """Remove pieces; return how many, and of how many voxels."""
    labels, count = components(inside)
    sizes = _sizes(labels, count)
    kept = np.ones(count + 1, bool)
    if cleaning.below_um3 is not None:
        if voxel_um3 is None:
            raise ValueError("a smallest volume in µm³ needs the volume of a voxel")
        kept &= sizes * voxel_um3 >= cleaning.below_um3 * (1 - 1e-9)  # as many voxels as make it up are not below it
    kept[0] = False
    if cleaning.largest:
        kept &= np.arange(count + 1) == np.argmax(np.where(kept, sizes, 0))  # the first of several that are as large
    for plane, numbers in zip(inside, labels, strict=True):
        plane[...] = kept[numbers]
    return count - int(np.count_nonzero(kept)), int(sizes[1:].sum() - sizes[kept].sum())


def _fill(inside: NDArray[np.bool_]) -> tuple[int, int]:
    """Fill the holes; return how many, and of how many voxels."""
    outside = np.pad(~inside, 1, constant_values=True)
    labels = np.zeros(outside.shape, np.int32)
    count = int(ndimage.label(outside, output=labels)) - 1
    del outside
    within = labels[1:-1, 1:-1, 1:-1]
    filled = 0
    for plane, numbers in zip(inside, within, strict=True):
        hole = (numbers > 0) & (numbers != labels[0, 0, 0])  # which is the rim's
        filled += int(np.count_nonzero(hole))
        plane |= hole
    return count, filled


def _sizes(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return how many voxels each label has; plane by plane, as counting takes 8 bytes a voxel."""
    sizes = np.zeros(count + 1, np.int64)
    for plane in labels:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return sizes
