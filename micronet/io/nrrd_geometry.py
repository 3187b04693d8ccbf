"""Where the voxels of a NRRD lie: its header read into the terms of `Volume`, and written from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micronet.errors import FileError
from micronet.io.nrrd_header import NrrdHeader, format_vectors
from micronet.io.units import UNITS_ASSUMED, VOXEL_UNITS, assumed_um, canonical_unit, without_spacing
from micronet.volume import Volume, upright

__all__ = ["axis_roles", "geometry", "geometry_fields", "named_axes", "space_of"]

_SPACES = {
    "right-anterior-superior": "ras",
    "left-anterior-superior": "las",
    "left-posterior-superior": "lps",
    "scanner-xyz": "",
    "3D-right-handed": "",
    "3D-left-handed": "",
}
_SPACE_OF_NAME = {name.casefold(): space for space, short in _SPACES.items() for name in (space, short) if name}

#: Kinds of axes along which the volume extends; any other kind is a list of values in one voxel.
_SPATIAL_KINDS = frozenset({"domain", "space", "???", "none"})


def axis_roles(header: NrrdHeader) -> tuple[list[int], list[int]]:
    """Return which axes of the file (fastest first) span space, exactly three, and which do not.

    An axis does not span space if its space direction is ``none`` or its kind is no domain; where the header
    tells nothing of the kind, an axis of length 1 may be the further one.
    """
    sizes = header.integers("sizes")
    extra = set()
    if "space directions" in header.fields:
        rows = header.vectors("space directions")
        if len(rows) != len(sizes):
            raise FileError(f"'{header.name}': {len(rows)} 'space directions' for {len(sizes)} axes")
        if any(row is not None for row in rows):
            extra |= {axis for axis, row in enumerate(rows) if row is None}
    if "kinds" in header.fields:
        kinds = header.fields["kinds"].split()
        if len(kinds) != len(sizes):
            raise FileError(f"'{header.name}': {len(kinds)} 'kinds' for {len(sizes)} axes")
        extra |= {axis for axis, kind in enumerate(kinds) if kind.lower() not in _SPATIAL_KINDS}
    singletons = {axis for axis, size in enumerate(sizes) if size == 1}
    if not extra and len(sizes) - len(singletons) == 3:
        extra = singletons
    spatial = [axis for axis in range(len(sizes)) if axis not in extra]
    if len(spatial) != 3:
        what = "a 2-D image" if len(spatial) == 2 else f"{len(spatial)}-D"
        raise FileError(f"'{header.name}' is {what}, expected a 3-D volume: its axes are {named_axes(header)}")
    return spatial, sorted(extra)


def geometry(header: NrrdHeader, spatial: list[int], *, stated: bool = False) -> dict[str, Any]:
    """Return the arguments of `Volume` beside the array: directions, origin, space, units, header and notes.

    Parameters
    ----------
    header : NrrdHeader
        Of a file whose axes `spatial` span space.
    spatial : list of int
        Three axes of the file, fastest first.
    stated : bool
        The person states the spacing, so what the file lacks of it needs no note.
    """
    space = space_of(header)
    origin = np.zeros(3)
    directions = None
    units = None
    if "space directions" in header.fields:
        rows = [header.vectors("space directions")[axis] for axis in spatial]
        if rows[0] is not None:
            if any(row is None or row.size != 3 for row in rows):
                raise FileError(f"'{header.name}': 'space directions' must be three vectors of three numbers each")
            directions = np.array(rows[::-1])
            units = "space units"
    if directions is None and "spacings" in header.fields:
        spacings = header.floats("spacings")
        if len(spacings) != len(header.integers("sizes")):
            raise FileError(f"'{header.name}': {len(spacings)} 'spacings' for {len(header.integers('sizes'))} axes")
        found = [spacings[axis] for axis in spatial]
        if not all(math.isnan(length) for length in found):
            directions = upright(found[::-1])
            units = "units"
    if "space origin" in header.fields:
        vectors = header.vectors("space origin")
        if vectors and vectors[0] is not None:
            origin = vectors[0]
    common = {"origin": origin, "space": space, "header": {"nrrd": header}}
    if directions is None or units is None:
        notes = () if stated else (without_spacing("the NRRD header"),)
        return common | {"directions": upright(), "units": "voxel", "notes": notes}
    unit = _unit(header, units, spatial, stated=stated)
    if unit is not None:
        return common | {"directions": directions, "units": unit}
    z, y, x = (float(length) for length in np.linalg.norm(directions, axis=1))
    notes = () if stated else (assumed_um((z, y, x)),)
    return common | {"directions": directions, "units": "um", "notes": notes}


def geometry_fields(volume: Volume) -> dict[str, str]:
    """Return the header fields that say where the voxels of a volume lie, for three axes.

    A unit that had to be assumed is not stated; a volume that knows nothing of its geometry gets no fields.
    """
    fields: dict[str, str] = {}
    plain = np.array_equal(volume.directions, upright()) and not volume.origin.any()
    if not (volume.units == "voxel" and plain and not volume.space):
        fields |= {"space": volume.space} if volume.space else {"space dimension": "3"}
        fields["space directions"] = format_vectors(volume.directions[::-1])
        fields["space origin"] = format_vectors(volume.origin[None])
        if not any(note.startswith(UNITS_ASSUMED) for note in volume.notes):
            fields["space units"] = " ".join([f'"{volume.units}"'] * 3)
    return fields | {"kinds": "domain domain domain"}


def space_of(header: NrrdHeader) -> str:
    """Return the canonical name of the space, empty where none is stated."""
    dimension = header.fields.get("space dimension", "3")
    if dimension != "3":
        raise FileError(f"'{header.name}': space dimension {dimension}, expected 3")
    name = header.fields.get("space", "")
    if not name:
        return ""
    if name.casefold() not in _SPACE_OF_NAME:
        raise FileError(f"'{header.name}': space '{name}' is not known; known: {', '.join(_SPACES)}")
    return _SPACE_OF_NAME[name.casefold()]


def named_axes(header: NrrdHeader) -> str:
    """Return the axes of a file, fastest first, with their lengths, for messages."""
    sizes = header.integers("sizes")
    kinds = header.fields.get("kinds", "").split()
    if len(kinds) != len(sizes):
        return " x ".join(str(size) for size in sizes)
    return ", ".join(f"{kind} {size}" for kind, size in zip(kinds, sizes, strict=True))


def _unit(header: NrrdHeader, field: str, spatial: list[int], *, stated: bool) -> str | None:
    """Return the one length unit of the spatial axes, ``"voxel"``, or None where none is stated."""
    names = header.strings(field) if field in header.fields else []
    if field == "units":
        names = [names[axis] for axis in spatial if axis < len(names)]
    found = {name.strip() for name in names} - {"", "???", "none"}
    if not found:
        return None
    units = {"voxel" if name.casefold() in VOXEL_UNITS else canonical_unit(name) for name in found}
    if len(units) == 1 and None not in units:
        return units.pop()
    if stated:
        return None
    raise FileError(
        f"'{header.name}': {field} {', '.join(sorted(found))}: expected one known length unit; "
        "give the spacing with --spacing Z,Y,X in µm"
    )
