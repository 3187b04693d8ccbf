"""A lumen on a grid of equal spacing along its axes, for what counts voxels and not lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, distance_transform_edt

from micronet.measure.topology import components

__all__ = ["CORNER", "IsotropicGrid", "ended"]

#: From the middle of a flat end to its rim is so many times the radius, and a little more.
CORNER = 1.5

# A line that runs into a rim loses so much radius a length, over so many voxels.
_RIM_SLOPE = 0.4
_RIM_OVER = 3.0
# The radius along a straight lumen varies by less than so many voxels.
_UNEVEN = 0.25
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
        # The nearest of many voxels outside lies at the wall. Of a lumen that one coarse plane cuts there is one to
        # each side, which lies anywhere up to a voxel beyond.
        self.excess = 0.5 * self.step * (1 - float(self._ratio.min()))  #: by which `depth` is too much on the average
        # A voxel of the new grid lies at the centre of the first of the old; half a step is covered on both sides.
        self._before = np.floor(0.5 / self._ratio)
        reach = np.rint((np.array(lumen.shape) - 1) / self._ratio) + 1 + 2 * self._before
        self.shape = tuple(int(n) for n in reach)

    def voxels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (N, 3) of the new grid in voxels of the old one."""
        return (points - self._before) * self._ratio

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


def ended(
    points: NDArray[np.float64],
    open_ends: tuple[bool, bool],
    radius: NDArray[np.float64],
    lumen: NDArray[np.bool_],
    apart: int,
) -> NDArray[np.float64]:
    """Return a line in voxels that are cubes whose open ends lie about a radius before the wall.

    What runs into the rim of a flat end, where the radius falls almost as fast as the line goes on, is taken off; a
    line that stops early goes on straight, as far as the lumen stays as wide. Planes of the mask lie `apart` voxels:
    between them the nearest voxel outside is farther away, so what counts is the least radius over that length.
    """
    for is_open in open_ends:
        if is_open:
            radii = radius[tuple(np.rint(points).astype(np.intp).T)]
            points = points[_rim(points, radii, apart) :]
            radii = radii[len(radii) - len(points) :]
            points = np.concatenate([_onward(points, radii, radius, lumen, apart), points])
        points = points[::-1]
    return points


def _rim(points: NDArray[np.float64], radii: NDArray[np.float64], apart: int) -> int:
    """Return how many points at the beginning of a line run into a rim."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    ahead = np.interp(along[:, None] + _RIM_OVER + np.arange(apart + 1), along, radii).min(axis=1)
    rim = (ahead - radii >= _RIM_SLOPE * _RIM_OVER) & (along <= CORNER * ahead)
    return int(np.flatnonzero(rim)[-1]) + 1 if rim.any() else 0


def _onward(
    points: NDArray[np.float64],
    radii: NDArray[np.float64],
    radius: NDArray[np.float64],
    lumen: NDArray[np.bool_],
    apart: int,
) -> NDArray[np.float64]:
    """Return the points to put before the first, up to a radius on, last first."""
    if not np.isfinite(radii[0]):
        return points[:0]
    wide = radii[: apart + 1].min()
    back = points[min(len(points) - 1, max(1, round(wide)))]
    length = float(np.linalg.norm(points[0] - back))
    if length == 0:
        return points[:0]
    onward: NDArray[np.float64] = points[0] + np.arange(1, int(radii[0]) + 1)[:, None] * (points[0] - back) / length
    nearest = np.rint(onward).astype(np.intp)
    inside = ((nearest >= 0) & (nearest < lumen.shape)).all(axis=1)
    at = tuple(nearest.clip(0, np.array(lumen.shape) - 1).T)
    as_wide = inside & lumen[at] & (radius[at] >= wide - _UNEVEN)
    count = len(onward) if as_wide.all() else int(np.argmin(as_wide))
    return onward[: max(0, count - 1)][::-1]  # the radius is that of the middle, which may lie one voxel on
