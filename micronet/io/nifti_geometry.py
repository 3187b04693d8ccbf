"""Where the voxels of a NIfTI lie: its header read into the terms of `Volume`.

The standard has three methods: the sform, an affine matrix; the qform, a quaternion with the voxel sizes in
``pixdim``; or the voxel sizes alone. Its reference code, which ITK reads with, repairs what headers often have:
``pixdim[0]`` tells the sign of the third axis, and 0 is 1; a voxel size of 0 is 1.
Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from micronet.core.errors import FileError, setting
from micronet.core.volume import MICROMETRES_PER, UNITS_ASSUMED
from micronet.io.checks import one_line
from micronet.io.units import completed, stated_length, without_spacing

__all__ = ["SPACE", "UNIT_CODES", "geometry_of"]

#: The world of NIfTI.
SPACE = "right-anterior-superior"
#: The units of length that NIfTI has codes for.
UNIT_CODES = {"voxel": 0, "m": 1, "mm": 2, "um": 3}

_SCANNER = 1
# How far the corners of the two forms may lie apart, in voxels, and voxel sizes, as a part of them.
_FORMS_DIFFER, _SIZES_DIFFER = 0.1, 1e-3
_ALONG = "X, Y, Z are taken to run along the world's axes"

_Affine = NDArray[np.float64]


def geometry_of(header: Any, path: Path, *, stated: bool = False) -> dict[str, Any]:
    """Return the arguments of `Volume` beside array and header: directions, origin, space, units and notes.

    Lengths are told in mm, whatever the unit of the file: ITK does so, and what is written of the volume must lie on
    it in 3D Slicer.

    Parameters
    ----------
    header : nibabel Nifti1Header or Nifti2Header
        As in the file.
    path : Path
        For messages.
    stated : bool
        The person states the spacing: what the header lacks of it needs no note, and more can be read.

    Raises
    ------
    FileError
        If it states directions or voxel sizes that none can be.
    """
    notes: list[str] = []
    lengths = [stated_length(length) for length in header["pixdim"][3:0:-1]]  # Z, Y, X
    stated_unit = _stated_unit(header)
    affine, by_sizes = _form(header, path, notes, stated=stated)
    space = SPACE
    if affine is None:
        space, affine = "", np.diag([*_signed_sizes(header, path, notes, stated=stated), 1.0])
    units = "mm"
    if by_sizes and not any(lengths):
        units = "mm" if stated else "voxel"
        notes.append(without_spacing("the NIfTI header"))
    elif stated_unit is None:
        notes.append(f"{UNITS_ASSUMED} in the NIfTI header: mm is taken unless said otherwise {setting('spacing_um')}")
    if by_sizes and any(lengths):
        _, missing = completed(lengths, [stated_unit or "mm"] * 3, "the NIfTI header", "ITK")
        notes += [missing] if missing else []
    if units != "voxel" and stated_unit not in (None, "mm"):
        affine[:3] = affine[:3] * MICROMETRES_PER[stated_unit or "mm"] / MICROMETRES_PER["mm"]
    if stated:  # what is said of lengths is said better by the person
        notes = [note for note in notes if "spacing" not in note]
    return {
        "directions": affine[:3, 2::-1].T,
        "origin": affine[:3, 3],
        "space": space,
        "units": units,
        "units_assumed": units == "mm" and stated_unit is None,
        "notes": tuple(notes),
    }


def _stated_unit(header: Any) -> str | None:
    code = int(header["xyzt_units"]) & 7
    return next((unit for unit, known in UNIT_CODES.items() if known == code and code), None)


def _form(header: Any, path: Path, notes: list[str], *, stated: bool) -> tuple[_Affine | None, bool]:
    """Return the affine that ITK reads by, in the unit of the file, and whether its lengths are those of ``pixdim``.

    None where no orientation is stated.
    """
    sform = _sform(header)
    wrong = None if sform is None else _wrong(sform)
    if sform is None or wrong is not None:
        qform = _qform(header, path, notes, stated=stated)
        if qform is None and wrong is not None and not stated:
            raise FileError(
                f"'{path}': {wrong}, which those of its sform are not, and it has no qform; "
                f"the spacing given in µm reads it with X, Y, Z along the world's axes {setting('spacing_um')}"
            )
        taken = _ALONG if qform is None else "the qform is taken"
        if wrong is not None:
            notes.append(f"the sform of the NIfTI header cannot be used ({wrong}): {taken}")
        elif qform is None:
            notes.append(f"the NIfTI header states no orientation: {taken}")
        return qform, True
    apart = _forms_apart(sform, header, path, stated=stated)
    if not apart > _FORMS_DIFFER:
        _compare_sizes(sform, header, notes)
        return sform, False
    first = header["sform_code"] == _SCANNER and _is_turn(sform)
    notes.append(
        f"sform and qform of the NIfTI header differ by up to {apart:.3g} voxels: "
        f"the {'sform' if first else 'qform'} is taken, as 3D Slicer does"
    )
    return (sform, False) if first else (_qform(header, path, notes, stated=stated), True)


def _sform(header: Any) -> _Affine | None:
    return np.asarray(header.get_sform(), np.float64) if header["sform_code"] > 0 else None


def _wrong(affine: _Affine) -> str | None:
    """Return what an affine should be and is not."""
    if not np.isfinite(affine).all():
        return "directions and origin must be finite numbers"
    if np.linalg.matrix_rank(affine[:3, :3]) < 3:
        return "the three axis directions must be independent and longer than zero"
    return None


def _is_turn(affine: _Affine) -> bool:
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-4)


def _forms_apart(sform: _Affine, header: Any, path: Path, *, stated: bool) -> float:
    """Return how far the corners of the grid lie apart by sform and qform at most, in voxels; 0 without a qform."""
    try:
        qform = _qform(header, path, [], stated=stated)
    except FileError:
        return 0.0
    if qform is None or _wrong(qform) is not None:
        return 0.0
    last = header["dim"][1:4].astype(np.float64) - 1
    corners = np.stack(np.meshgrid(*[(0.0, n) for n in last], (1.0,), indexing="ij"), axis=-1).reshape(-1, 4)
    off = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
    return float(off / np.linalg.norm(sform[:3, :3], axis=0).min())


def _compare_sizes(sform: _Affine, header: Any, notes: list[str]) -> None:
    """Tell where the voxel sizes are not those of the sform: ITK then takes its directions alone."""
    sizes, lengths = header["pixdim"][1:4].astype(np.float64), np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(sizes, lengths, rtol=_SIZES_DIFFER, atol=0):
        one, two = (" x ".join(f"{length:.4g}" for length in of[::-1]) for of in (lengths, sizes))
        notes.append(
            f"the NIfTI header has the spacing (Z, Y, X) {one} in its sform, which is taken, and {two} in its pixdim, "
            f"which 3D Slicer takes; say otherwise {setting('spacing_um')}"
        )


def _qform(header: Any, path: Path, notes: list[str], *, stated: bool) -> _Affine | None:
    """Return the affine of the qform, None where there is none."""
    if not header["qform_code"] > 0:
        return None
    repaired = header.copy()
    repaired["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    sizes = _signed_sizes(header, path, notes, stated=stated)
    repaired["pixdim"][1:4] = np.abs(sizes)
    try:
        affine: _Affine = repaired.get_qform()
    except (HeaderDataError, ValueError) as error:
        raise FileError(f"'{path}': the orientation in its NIfTI header cannot be read ({one_line(error)})") from error
    affine[:3, :3] *= np.sign(sizes)
    return affine


def _signed_sizes(header: Any, path: Path, notes: list[str], *, stated: bool) -> NDArray[np.float64]:
    """Return the voxel sizes along X, Y, Z, 1 where one is missing; FileError where one is negative and none given."""
    pixdim = header["pixdim"][1:4].astype(np.float64)
    sizes = np.array([stated_length(length) or 1.0 for length in pixdim])
    if not (pixdim < 0).any():
        return sizes
    mirrored = ", ".join(letter for letter, length in zip("XYZ", pixdim, strict=True) if length < 0)
    if not stated:
        raise FileError(
            f"'{path}': the voxel size (pixdim) along {mirrored} in its NIfTI header is negative, which some programs "
            f"read as mirrored and others not; the spacing given in µm reads it mirrored, "
            f"as 3D Slicer does {setting('spacing_um')}"
        )
    notes.append(f"the voxel size along {mirrored} is negative: the axis is mirrored, as 3D Slicer has it")
    return np.where(pixdim < 0, -sizes, sizes)
