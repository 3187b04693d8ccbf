"""A lumen on a grid of equal spacing along its axes, for what counts voxels and not lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, distance_transform_edt

from micronet.measure.topology import components

__all__ = ["IsotropicGrid"]

# So many voxels of the new grid are interpolated at once.
_SLAB = 1 << 22


class IsotropicGrid:
    """A grid of the finest spacing that covers the voxels of another one.

    Parameters
    ----------
    lumen : ndarray of bool, shape (Z, Y, X)
        One connected lumen without cavities; where it reaches the end of the array it is taken to go on.
    spacing : sequence of three floats
        Distance between voxels along (Z, Y, X).

    Notes
    -----
    Memory: the new grid has as many voxels as the old one times the product of ``spacing / min(spacing)``. At most 125
    bytes for each of them are held while a centreline is drawn on it, as many as on a grid that is isotropic already
    (measured; scipy's distances and scikit-image's paths take most).
    """

    def __init__(self, lumen: NDArray[np.bool_], spacing: Sequence[float]) -> None:
        self._lumen = lumen
        self._steps = np.asarray(spacing, dtype=np.float64)
        self.step = float(self._steps.min())  #: spacing along all axes
        self._ratio = self.step / self._steps
        self.planes_apart = round(1 / float(self._ratio.min()))  #: voxels from one coarse plane to the next
        # A voxel of the new grid lies at the centre of the first of the old; half a step is covered on both sides.
        self._before = np.floor(0.5 / self._ratio)
        reach = np.rint((np.array(lumen.shape) - 1) / self._ratio) + 1 + 2 * self._before
        self.shape = tuple(int(n) for n in reach)

    def voxels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (N, 3) of the new grid in voxels of the old one."""
        return (points - self._before) * self._ratio

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether the nearest voxel of the old grid is inside, for points (..., 3) of the new one."""
        nearest = np.rint(self.voxels(points)).astype(np.intp)
        last = np.array(self._lumen.shape) - 1
        there = np.asarray(((nearest >= 0) & (nearest <= last)).all(axis=-1))
        nearest = nearest.clip(0, last)
        inside: NDArray[np.bool_] = there & self._lumen[nearest[..., 0], nearest[..., 1], nearest[..., 2]]
        return inside

    def cut_once(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where a single coarse plane cuts the lumen: those before and after are outside."""
        next_plane = np.where(self._ratio == self._ratio.min(), 1 / self._ratio, 0.0)
        around: NDArray[np.bool_] = self.holds(points - next_plane) | self.holds(points + next_plane)
        return ~around

    def leaves(self, point: NDArray[np.float64], direction: NDArray[np.float64]) -> float | None:
        """Return how far it is from a point, in a direction, to the outermost voxel; None where that is not inside."""
        here, pace = self.voxels(point), direction * self._ratio
        end = np.where(pace > 0, np.array(self._lumen.shape) - 1, 0)
        far = float(np.min((end - here)[pace != 0] / pace[pace != 0]).clip(0))
        return far if self.holds(point + far * direction) else None

    def resampled(self) -> NDArray[np.bool_]:
        """Return the lumen on the new grid, where the signed distance from its wall, interpolated, is positive.

        Where that tears it apart, as it does to thin vessels that move sideways by more than their width from one
        plane to the next, voxels are added as boxes.
        """
        if self._lumen.all():
            return np.ones(self.shape, dtype=bool)
        inside = self._planes(self._signed_distance(), order=1)
        if components(inside)[1] != 1:
            inside |= self._planes(self._lumen.astype(np.float32) - 0.5, order=0)
        return inside

    def depth(self) -> NDArray[np.float64] | None:
        """Return the distance from each voxel of the new grid to the nearest voxel outside of the old one.

        None where nothing is outside.
        """
        outside = np.argwhere(~self._lumen)
        if not len(outside):
            return None
        free = np.ones(self.shape, dtype=bool)
        free[tuple(np.rint(outside / self._ratio + self._before).astype(np.intp).T)] = False
        depth: NDArray[np.float64] = distance_transform_edt(free, sampling=self.step)
        return depth

    def _signed_distance(self) -> NDArray[np.float32]:
        distance: NDArray[np.float64] = distance_transform_edt(self._lumen, sampling=self._steps)
        signed = distance.astype(np.float32)
        distance = distance_transform_edt(~self._lumen, sampling=self._steps)
        signed -= distance.astype(np.float32)
        return signed

    def _planes(self, values: NDArray[np.float32], *, order: Literal[0, 1]) -> NDArray[np.bool_]:
        """Return where values are positive on the new grid; beyond the outermost voxels they go on."""
        positive = np.empty(self.shape, dtype=bool)
        start = self.voxels(np.zeros(3))
        planes = max(1, _SLAB // (self.shape[1] * self.shape[2]))
        for first in range(0, self.shape[0], planes):
            part = positive[first : first + planes]
            begin = start + np.array([first * self._ratio[0], 0.0, 0.0])
            found = affine_transform(
                values, self._ratio, begin, output_shape=part.shape, output=np.float32, order=order, mode="nearest"
            )
            np.greater(found, 0, out=part)
        return positive
