"""A raw scan as a person describes it, and where its voxels and those made of it lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.resample import output_size
from micronet.core.volume import MICROMETRES_PER, Volume
from micronet.io import Stack, open_stack

__all__ = [
    "AXES",
    "RawScan",
    "covers",
    "empty_grid",
    "geometry_record",
    "parallel_steps",
    "structural_grid",
    "true_grid",
]


@dataclass(frozen=True)
class RawScan:
    """What a person says about a raw scan; None stands for "as the file says".

    `depth_axis` is where light travels; `refractive_index` turns the optical path along it into depth. `level` is which
    scale of an OME-Zarr is read.
    """

    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    dtype: str | None = None
    depth_axis: str = "Y"
    refractive_index: float = 1.0
    level: int = 0

    def open(self, path: Path) -> Stack:
        """Open the scan to read it plane by plane."""
        return open_stack(
            path, axes=self.axes, spacing_um=self.spacing_um, shape=self.shape, dtype=self.dtype, level=self.level
        )

    def true_grid(self, stack: Stack) -> Volume:
        """Return where its voxels really lie, in µm."""
        try:
            return true_grid(stack.grid, self.depth_axis, self.refractive_index)
        except InputError as error:
            raise InputError(f"'{stack.path}': {error}") from error


def geometry_record(grid: Volume) -> dict[str, Any]:
    """Return where the voxels of a grid lie, as JSON has it."""
    spacing = grid.spacing_um
    return {
        "shape_zyx": list(grid.shape),
        "spacing_um_zyx": None if spacing is None else list(spacing),
        "directions_zyx": grid.directions.tolist(),
        "origin": grid.origin.tolist(),
        "units": grid.units,
        "space": grid.space,
    }


#: The axes of an array.
AXES = "ZYX"
# How far the axes of two grids may run apart over a whole volume, in voxels, and still count as parallel.
_PARALLEL = 0.1
_MOST_VOXELS = 1 << 40


def empty_grid(grid: Volume, shape: tuple[int, ...] | None = None) -> Volume:
    """Return a uint8 volume of the same geometry whose array of zeros takes no memory."""
    array = np.broadcast_to(np.uint8(0), grid.shape if shape is None else shape)
    return replace(grid, array=array, header={}, notes=())


def true_grid(grid: Volume, depth_axis: str, refractive_index: float) -> Volume:
    """Return the grid of a scan in µm, its optical path along the depth axis turned into depth.

    Parameters
    ----------
    grid : Volume
        As the file has it, of known spacing.
    depth_axis : {"Z", "Y", "X"}
        Where light travels.
    refractive_index : float
        Of the sample; the spacing along the depth axis is divided by it. Voxel (0, 0, 0) stays where it is.
    """
    spacing = grid.spacing_um
    if spacing is None:
        raise InputError(f"the spacing is not known; give it in µm {setting('spacing_um')}")
    if depth_axis not in tuple(AXES):
        raise InputError(f"depth axis '{depth_axis}' {setting('depth_axis')}: expected Z, Y or X")
    if not 1 <= refractive_index < 5:
        raise InputError(
            f"refractive index {refractive_index:g} {setting('refractive_index')}: "
            "expected 1 (path in air) or more, such as 1.38"
        )
    lengths = np.array(spacing)
    lengths[AXES.index(depth_axis)] /= refractive_index
    placed = replace(empty_grid(grid), units_assumed=False)  # the origin stays, whatever becomes of the spacing
    return placed.in_units("um").with_spacing(lengths)


def structural_grid(grid: Volume, iso_um: float) -> tuple[Volume, tuple[float, float, float]]:
    """Return the isotropic grid that covers another one, and the ratios of their voxels' lengths.

    Parameters
    ----------
    grid : Volume
        In µm.
    iso_um : float
        The new distance between voxels.

    Returns
    -------
    grid : Volume
        Its axes run in the same directions and its first voxel begins where the other's begins, so its origin lies
        ``(iso - spacing) / 2`` further along each axis. The last voxel of an axis may reach beyond the other grid.
    ratios : tuple of 3 floats
        `iso_um` over the spacing along (Z, Y, X).
    """
    if not 0 < iso_um < float("inf"):
        raise InputError(f"voxels of {iso_um:g} µm {setting('iso_um')}: expected a length in µm above 0")
    lengths = np.linalg.norm(grid.directions, axis=1)
    z, y, x = (float(iso_um / length) for length in lengths)
    shape = tuple(output_size(size, ratio) for size, ratio in zip(grid.shape, (z, y, x), strict=True))
    if math.prod(shape) > _MOST_VOXELS:
        raise InputError(
            f"at {iso_um:g} µm {setting('iso_um')} {' x '.join(f'{size:,}' for size in shape)} voxels "
            "are more than can be made"
        )
    axes = grid.directions / lengths[:, None]
    origin = grid.origin + ((iso_um - lengths) / 2) @ axes
    return replace(empty_grid(grid, shape), directions=axes * iso_um, origin=origin), (z, y, x)


def parallel_steps(
    grid: Volume, other: Volume
) -> tuple[tuple[int, int, int], NDArray[np.float64], NDArray[np.float64]]:
    """Return how the voxels of a grid lie among those of another with parallel axes.

    Parameters
    ----------
    grid, other : Volume
        Of known spacing; where both state a space, in one that can be converted.

    Returns
    -------
    order : tuple of 3 ints
        Axis i of `grid` runs along axis ``order[i]`` of `other`.
    steps, starts : ndarray of shape (3,), float64
        Voxel o of `grid` lies at ``starts[i] + steps[i] * o[i]`` on axis ``order[i]``, in voxels of `other`.

    Raises
    ------
    InputError
        If the axes are not parallel: over the whole grid they run more than a tenth of a voxel apart.
    """
    if grid.space and other.space:
        other = other.in_space(grid.space)
    scale, other_scale = MICROMETRES_PER[grid.units], MICROMETRES_PER[other.units]
    inverse = np.linalg.inv(other.directions * other_scale)
    matrix = (grid.directions * scale) @ inverse  # row i: the step along axis i of `grid`, in voxels of `other`
    starts = (grid.origin * scale - other.origin * other_scale) @ inverse
    order = [int(axis) for axis in np.abs(matrix).argmax(axis=1)]
    along = np.zeros_like(matrix)
    along[range(3), order] = matrix[range(3), order]
    apart = (np.abs(matrix - along) * (np.array(grid.shape) - 1)[:, None]).sum(axis=0).max()
    if sorted(order) != [0, 1, 2] or apart > _PARALLEL:
        raise InputError("their axes are not parallel")
    return (order[0], order[1], order[2]), matrix[range(3), order], starts[order]


def covers(grid: Volume, other: Volume) -> bool:
    """Whether a grid takes the same room as another with parallel axes, as a structural volume does of its scan.

    Both begin and end at the same places, up to a voxel of the coarser.
    """
    try:
        order, steps, starts = parallel_steps(grid, other)
    except InputError:
        return False
    ends = np.sort([starts - steps / 2, starts + steps * (np.array(grid.shape) - 0.5)], axis=0)
    room = np.array([[-0.5] * 3, [other.shape[axis] - 0.5 for axis in order]])
    return bool((np.abs(ends - room) <= np.maximum(1.0, np.abs(steps)) + _PARALLEL).all())
