"""A 3-D array together with where its voxels lie in the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import InputError, setting

__all__ = [
    "MICROMETRES_PER",
    "UNITS_ASSUMED",
    "Volume",
    "bounding_box",
    "check_same_grid",
    "is_isotropic",
    "settle_units",
    "share_grid",
    "shared_part",
    "upright",
]

# Spacings closer than this are one spacing that was rounded.
_ONE_SPACING = 0.01
#: Micrometres per length unit, by the names under which `Volume.units` may state one.
MICROMETRES_PER: Mapping[str, float] = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}

#: How a note begins that says which length unit was assumed.
UNITS_ASSUMED = "no length unit is stated"

# A spacing that is given means another unit than the file's where it differs from the numbers by no more than this.
_SAME_LENGTH = 1e-3

# Signs that turn the world axes of an anatomical space into left, posterior, superior.
_SIGNS_TO_LPS: Mapping[str, tuple[float, float, float]] = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
}


def upright(spacing: ArrayLike = (1.0, 1.0, 1.0)) -> NDArray[np.float64]:
    """Return the directions of a volume whose axes X, Y, Z run along the world's first, second, third axis.

    Parameters
    ----------
    spacing : (3,) array-like
        Distance between voxels along (Z, Y, X).

    Returns
    -------
    ndarray of shape (3, 3), float64
        Row i is the step along array axis i, so the lengths stand on the other diagonal.

    Examples
    --------
    >>> upright((3, 2, 1))
    array([[0., 0., 3.],
           [0., 2., 0.],
           [1., 0., 0.]])
    """
    directions = np.zeros((3, 3))
    directions[[0, 1, 2], [2, 1, 0]] = spacing
    return directions


@dataclass(frozen=True, eq=False)
class Volume:
    """A (Z, Y, X) array and its geometry.

    Parameters
    ----------
    array : ndarray of shape (Z, Y, X)
        Real numbers or bool; Y is depth in OCT.
    directions : ndarray of shape (3, 3), float64
        Row i is the step in the world, in `units`, from one voxel to the next along array axis i (Z, Y, X);
        its columns are the world axes in the order of `space`. The default is `upright`: X runs along the
        first world axis, Y along the second, Z along the third, one unit a voxel.
    origin : ndarray of shape (3,), float64
        World position of the centre of voxel (0, 0, 0), in `units`.
    space : str
        What the world axes mean, in NRRD's words (``"left-posterior-superior"``), or ``""`` when not stated.
    units : str
        A key of `MICROMETRES_PER`, or ``"voxel"`` when the spacing is not known. ITK, and so 3D Slicer, looks at the
        numbers alone, so they are those that it has for the file, and what is written keeps them.
    header : mapping
        The header of the file this came from, as its reader found it; writers of the same format carry it on.
    notes : tuple of str
        What had to be assumed while reading, one sentence each, to be shown to the person.
    units_assumed : bool
        `units` are a guess of the reader, for the file states none; see `settle_units`.

    Raises
    ------
    InputError
        If the array is not three-dimensional or does not hold real numbers, the geometry has the wrong shape,
        is not finite or is singular, or `units` is unknown.
    """

    array: NDArray[Any]
    directions: NDArray[np.float64] = field(default_factory=upright)
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    space: str = ""
    units: str = "voxel"
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    units_assumed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "directions", np.array(self.directions, dtype=np.float64))
        object.__setattr__(self, "origin", np.array(self.origin, dtype=np.float64))
        if self.array.ndim != 3:
            raise InputError(f"a volume has three axes (Z, Y, X), this array has {self.array.ndim}")
        if self.array.dtype.kind not in "buif":
            raise InputError(f"a volume holds bool or real numbers, this array holds {self.array.dtype}")
        if self.directions.shape != (3, 3) or self.origin.shape != (3,):
            raise InputError(
                f"directions must be (3, 3), origin (3,), found {self.directions.shape}, {self.origin.shape}"
            )
        if not (np.isfinite(self.directions).all() and np.isfinite(self.origin).all()):
            raise InputError("directions and origin must be finite numbers")
        if np.linalg.matrix_rank(self.directions) < 3:
            raise InputError("the three axis directions must be independent and longer than zero")
        if self.units != "voxel" and self.units not in MICROMETRES_PER:
            raise InputError(f"unknown length unit '{self.units}'; known: voxel, {', '.join(MICROMETRES_PER)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (Z, Y, X)."""
        z, y, x = self.array.shape
        return z, y, x

    @property
    def spacing_um(self) -> tuple[float, float, float] | None:
        """Distance between neighbouring voxels along (Z, Y, X) in µm; None when `units` is ``"voxel"``."""
        if self.units == "voxel":
            return None
        z, y, x = np.linalg.norm(self.directions, axis=1) * MICROMETRES_PER[self.units]
        return float(z), float(y), float(x)

    @property
    def voxel_um3(self) -> float | None:
        """Volume of one voxel in µm³; None when the spacing is not known."""
        if self.units == "voxel":
            return None
        return float(abs(np.linalg.det(self.directions)) * MICROMETRES_PER[self.units] ** 3)

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Return another array on this grid; InputError when the shapes differ."""
        if array.shape != self.array.shape:
            raise InputError(f"array of shape {array.shape} does not fit the grid {self.shape}")
        return replace(self, array=array)

    def with_spacing(self, spacing_um: ArrayLike) -> Volume:
        """Return this volume with other distances (Z, Y, X) in µm along the same axes.

        Where these are the old ones in another unit, only the unit was wrong: the origin changes with it. Else the unit
        is kept, µm where there was none, and with it an origin whose unit was stated; one of an assumed unit or of none
        keeps its place in voxels.
        """
        wanted = np.asarray(spacing_um, dtype=np.float64)
        if wanted.shape != (3,) or not np.isfinite(wanted).all() or (wanted <= 0).any():
            raise InputError(f"spacing must be three positive lengths Z,Y,X in µm, found {spacing_um!r}")
        lengths = np.linalg.norm(self.directions, axis=1)
        same = [unit for unit, um in MICROMETRES_PER.items() if np.allclose(lengths * um, wanted, rtol=_SAME_LENGTH)]
        known = self.units != "voxel"
        units = (same[0] if same else self.units) if known else "um"
        directions = self.directions / lengths[:, None] * (wanted / MICROMETRES_PER[units])[:, None]
        origin = self.origin
        if not known or (self.units_assumed and not same):
            origin = origin @ np.linalg.inv(self.directions) @ directions
        return replace(self, directions=directions, origin=origin, units=units, units_assumed=False)

    def in_units(self, units: str) -> Volume:
        """Return this volume with its geometry told in another length unit; no voxel moves.

        InputError where the spacing is not known.
        """
        if units == self.units:
            return self
        if "voxel" in (units, self.units):
            raise InputError(
                f"a spacing that is not known cannot be told in a length unit; give it in µm {setting('spacing_um')}"
            )
        here, there = MICROMETRES_PER[self.units], MICROMETRES_PER[units]
        # First times, then over: 4.5 µm are 0.0045 mm to the last bit, and back.
        return replace(self, directions=self.directions * here / there, origin=self.origin * here / there, units=units)

    def in_space(self, space: str) -> Volume:
        """Return this volume with its geometry told in another anatomical space; no voxel moves.

        A space that is not stated counts as left-posterior-superior, as ITK has it. InputError where either
        space has no relation to the anatomy (``"scanner-xyz"``).
        """
        if space == self.space:
            return self
        here = self.space or "left-posterior-superior"
        for name in (here, space):
            if name not in _SIGNS_TO_LPS:
                raise InputError(f"space '{name}' cannot be converted; known: {', '.join(_SIGNS_TO_LPS)}")
        signs = np.array(_SIGNS_TO_LPS[here]) * np.array(_SIGNS_TO_LPS[space])
        # Adding 0 turns -0 into 0.
        return replace(self, space=space, directions=self.directions * signs + 0.0, origin=self.origin * signs + 0.0)


def settle_units(
    volume: Volume,
    other: Volume,
    volume_name: str,
    other_name: str,
    agree: Callable[[Volume, Volume], bool],
) -> tuple[Volume, Volume, str]:
    """Let a length unit that was assumed yield to one that the partner states, where the two grids then agree.

    Parameters
    ----------
    volume, other : Volume
        Where both are assumed, µm, which is ours, yields to the mm of NIfTI. Where neither is, or a spacing is not
        known, or they agree as they are, nothing changes.
    volume_name, other_name : str
        For the note.
    agree : callable
        ``agree(volume, other)`` tells whether their grids belong to each other.

    Returns
    -------
    volume, other : Volume
        Of the one whose unit changed, `notes` say so.
    note : str
        The same sentence; empty where nothing changed.
    """
    both = volume.units_assumed and other.units_assumed
    if (
        "voxel" in (volume.units, other.units)
        or not (volume.units_assumed or other.units_assumed)
        or (both and volume.units == other.units)
        or agree(volume, other)
    ):
        return volume, other, ""
    first = volume.units_assumed if not both else volume.units == "um"
    yielding, partner = (volume, other) if first else (other, volume)
    name, partner_name = (volume_name, other_name) if first else (other_name, volume_name)
    for units in [partner.units] if both else MICROMETRES_PER:
        told = replace(yielding, units=units, units_assumed=partner.units_assumed)
        pair = (told, other) if first else (volume, told)
        if agree(*pair):
            note = (
                f"{UNITS_ASSUMED} in '{name}': its numbers are taken in {units}, as it then lies on '{partner_name}' "
                f"(spacing {_lengths(told)} µm), unless said otherwise {setting('spacing_um')}"
            )
            kept = tuple(one for one in yielding.notes if not one.startswith(UNITS_ASSUMED))
            told = replace(told, notes=(*kept, note))
            return (told, other, note) if first else (volume, told, note)
    return volume, other, ""


def share_grid(volume: Volume, other: Volume, volume_name: str, other_name: str) -> tuple[Volume, Volume, str]:
    """Return two volumes of one grid, as `settle_units` does; InputError as `check_same_grid` where it is not one."""
    volume, other, note = settle_units(volume, other, volume_name, other_name, _on_one_grid)
    check_same_grid(volume, other, volume_name, other_name)
    return volume, other, note


def check_same_grid(volume: Volume, other: Volume, volume_name: str, other_name: str) -> None:
    """Raise InputError unless both volumes lie on the same grid.

    Shapes must be equal. Where both state a spacing, the corners of the two grids must also coincide within a
    tenth of a voxel, whatever anatomical space each is told in; a volume without stated spacing (.npy, plain
    TIFF) is held to the shape.
    """
    if volume.shape != other.shape:
        raise InputError(f"'{other_name}': shape (Z, Y, X) {other.shape} differs from '{volume_name}': {volume.shape}")
    if "voxel" in (volume.units, other.units):
        return
    try:
        apart = _corners_apart(volume, other)
    except InputError:
        raise InputError(
            f"'{other_name}': space '{other.space}' cannot be compared with '{volume_name}', '{volume.space}'"
        ) from None
    if apart > _limit(volume):
        raise InputError(
            f"'{other_name}' lies on another grid than '{volume_name}': corners are up to {apart:.3g} µm apart "
            f"(spacing {_lengths(other)} against {_lengths(volume)} µm); "
            f"resample it, or give the spacing {setting('spacing_um')}"
        )


def _on_one_grid(volume: Volume, other: Volume) -> bool:
    try:
        return volume.shape == other.shape and _corners_apart(volume, other) <= _limit(volume)
    except InputError:
        return False


def _limit(volume: Volume) -> float:
    """Return how far corners may lie apart, in µm."""
    return 0.1 * float(np.linalg.norm(volume.directions, axis=1).min()) * MICROMETRES_PER[volume.units]


def _corners_apart(volume: Volume, other: Volume) -> float:
    """Return how far the corners of two grids of one shape lie apart at most, in µm."""
    if volume.space and other.space:
        other = other.in_space(volume.space)
    volume, other = volume.in_units("um"), other.in_units("um")
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in volume.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    here = corners @ volume.directions + volume.origin
    there = corners @ other.directions + other.origin
    return float(np.linalg.norm(here - there, axis=1).max())


def _lengths(volume: Volume) -> str:
    spacing = volume.spacing_um
    return "unknown" if spacing is None else " x ".join(f"{length:.4g}" for length in spacing)


def is_isotropic(spacing: Sequence[float]) -> bool:
    """Whether voxels are cubes, but for rounding."""
    return max(spacing) <= min(spacing) * (1 + _ONE_SPACING)


def bounding_box(mask: NDArray[Any]) -> tuple[slice, ...]:
    """Return the slices of the smallest box that holds a mask, of no extent around an empty one.

    >>> bounding_box(np.array([[False, True, True], [False, False, False]]))
    (slice(0, 1, None), slice(1, 3, None))
    """
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
    return tuple(box)


def shared_part(one: Sequence[slice], other: Sequence[slice]) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Return what two boxes of a volume share, as slices of the first and of the second; None where that is nothing.

    >>> shared_part([slice(2, 6)], [slice(4, 9)])
    ((slice(2, 4, None),), (slice(0, 2, None),))
    """
    both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)]
    if any(part.start >= part.stop for part in both):
        return None
    here, there = (
        tuple(slice(part.start - at.start, part.stop - at.start) for part, at in zip(both, box, strict=True))
        for box in (one, other)
    )
    return here, there
