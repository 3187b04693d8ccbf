"""Distances between the surfaces of two masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from micronet.core.errors import InputError
from micronet.core.volume import bounding_box

__all__ = ["SurfaceDistances", "surface_distances"]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """How far each surface voxel of one mask lies from the nearest surface voxel of the other.

    A mask's surface voxels are those with a face to the outside, what lies beyond the array included.

    Parameters
    ----------
    of_predicted, of_annotated : ndarray of float64, shape (N,), (M,)
        Distances between the centres of voxels, in the unit of the spacing; infinite when only the other mask is
        empty.
    """

    of_predicted: NDArray[np.float64]
    of_annotated: NDArray[np.float64]

    def percentile(self, percent: float = 95.0) -> float:
        """Return the larger of the two directed percentiles; with 95 that is HD95, with 100 the Hausdorff distance.

        Both masks empty give 0, only one of them infinity.
        """
        return max(_percentile(distances, percent) for distances in (self.of_predicted, self.of_annotated))

    def mean(self) -> float:
        """Return the average symmetric surface distance (ASSD): the mean over all voxels of both surfaces.

        Both masks empty give 0, only one of them infinity.
        """
        count = self.of_predicted.size + self.of_annotated.size
        return float((self.of_predicted.sum() + self.of_annotated.sum()) / count) if count else 0.0

    def within(self, tolerance: float) -> float:
        """Return the normalized surface Dice (NSD): the fraction of both surfaces at most `tolerance` from the other.

        Both masks empty give 1, only one of them 0. Source: Nikolov et al. 2018; counted in surface voxels.
        """
        both = (self.of_predicted, self.of_annotated)
        count = sum(distances.size for distances in both)
        near = sum(int(np.count_nonzero(distances <= tolerance)) for distances in both)
        return near / count if count else 1.0


def surface_distances(
    predicted: NDArray[np.bool_], annotated: NDArray[np.bool_], spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Parameters
    ----------
    predicted, annotated : ndarray of bool, of one shape (Z, Y, X)
    spacing : sequence of three floats
        Distance between voxels along (Z, Y, X), positive; its unit is that of the result.

    Returns
    -------
    SurfaceDistances

    Raises
    ------
    InputError
        If the masks are not bool of one three-dimensional shape.
    """
    masks = (predicted, annotated)
    if any(mask.dtype != np.bool_ or mask.ndim != 3 or mask.shape != predicted.shape for mask in masks):
        found = ", ".join(f"{mask.dtype} {mask.shape}" for mask in masks)
        raise InputError(f"surface distances take bool masks of one shape (Z, Y, X), found {found}")
    box = bounding_box(predicted | annotated)
    here, there = _surface(predicted[box]), _surface(annotated[box])
    return SurfaceDistances(_to_nearest(here, there, spacing), _to_nearest(there, here, spacing))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = binary_erosion(mask)
    return mask & ~inside


def _to_nearest(surface: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    if not surface.any() or not other.any():
        return np.full(int(np.count_nonzero(surface)), np.inf)
    # The nearest voxel is sought for every voxel, not in a tree: it takes as long whatever the masks are, where a tree
    # takes minutes for noise.
    nearest = distance_transform_edt(~other, sampling=spacing, return_distances=False, return_indices=True)
    steps = np.argwhere(surface) - nearest[:, surface].T
    apart: NDArray[np.float64] = np.sqrt(((steps * np.asarray(spacing, dtype=np.float64)) ** 2).sum(axis=1))
    return apart


def _percentile(distances: NDArray[np.float64], percent: float) -> float:
    if not distances.size:
        return 0.0
    return float(np.inf) if np.isinf(distances[0]) else float(np.percentile(distances, percent))
