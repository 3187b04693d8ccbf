"""Where the voxels of a NRRD lie: its header read into the terms of `Volume`, and written from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from micronet.core.errors import FileError, setting
from micronet.core.volume import Volume, upright
from micronet.io.nrrd_header import NrrdHeader, format_vectors
from micronet.io.units import (
    SECONDS_PER,
    VOXEL_UNITS,
    assumed_um,
    canonical_unit,
    completed,
    without_interval,
    without_spacing,
)

__all__ = ["axis_roles", "geometry", "geometry_fields", "interval", "named_axes", "space_of", "tells_axes"]

_SPACES = {
    "right-anterior-superior": "ras",
    "left-anterior-superior": "las",
    "left-posterior-superior": "lps",
    "scanner-xyz": "",
    "3D-right-handed": "",
    "3D-left-handed": "",
}
# Each of them may have a fourth axis, of time.
_SPACE_OF_NAME = {
    name.casefold(): space
    for space, short in _SPACES.items()
    for name in (space, f"{space}-time", *((short, f"{short}t") if short else ()))
}

_WITHOUT_TIME = {name.casefold() for pair in _SPACES.items() for name in pair}

# Fields that may tell of a place, beside those that every reader looks at.
_MINOR_FIELDS = ("spacings", "axis mins", "axis maxs", "thicknesses", "measurement frame")

#: Kinds of axes along which the volume extends; any other kind is a list of values in one voxel.
_SPATIAL_KINDS = frozenset({"domain", "space", "???", "none"})


def axis_roles(header: NrrdHeader) -> tuple[list[int], list[int]]:
    """Return which axes of the file (fastest first) span space, exactly three, and which do not.

    An axis does not span space if its space direction is ``none`` or runs along a fourth axis of the world, which is
    time, or its kind is no domain; where the header tells nothing of the kind, an axis of length 1 may be the further
    one.
    """
    sizes = header.integers("sizes")
    extra = _further_axes(header)
    singletons = {axis for axis, size in enumerate(sizes) if size == 1}
    if not extra and len(sizes) - len(singletons) == 3:
        extra = singletons
    spatial = [axis for axis in range(len(sizes)) if axis not in extra]
    if len(spatial) != 3:
        what = "a 2-D image" if len(spatial) == 2 else f"{len(spatial)}-D"
        more = f"; where one is time, infer.py takes it, its axes named, such as TZYX {setting('time_lapse', 'axes')}"
        raise FileError(
            f"'{header.name}' is {what}, expected a 3-D volume: its axes are {named_axes(header)}"
            f"{more if len(spatial) > 3 else ''}"
        )
    return spatial, sorted(extra)


def tells_axes(header: NrrdHeader) -> bool:
    """Whether a header tells which axes span space, or there are no more than three to choose from."""
    return bool(_further_axes(header)) or sum(size != 1 for size in header.integers("sizes")) <= 3


def _further_axes(header: NrrdHeader) -> set[int]:
    """Return the axes that span no space by their direction or kind."""
    sizes = header.integers("sizes")
    further = set()
    if "space directions" in header.fields:
        rows = header.vectors("space directions")
        if len(rows) != len(sizes):
            raise FileError(f"'{header.name}': {len(rows)} 'space directions' for {len(sizes)} axes")
        if any(row is not None for row in rows):
            further |= {axis for axis, row in enumerate(rows) if row is None}
        share = [
            0.0 if row is None or row.size != 4 or not row[3] else abs(row[3]) / np.linalg.norm(row) for row in rows
        ]
        if max(share) > 0:
            further.add(int(np.argmax(share)))
    if "kinds" in header.fields:
        kinds = header.fields["kinds"].split()
        if len(kinds) != len(sizes):
            raise FileError(f"'{header.name}': {len(kinds)} 'kinds' for {len(sizes)} axes")
        further |= {axis for axis, kind in enumerate(kinds) if kind.lower() not in _SPATIAL_KINDS}
    return further


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
    used: set[str] = set()
    directions, units, missing = _directions(header, spatial, used, stated=stated)
    origin = _origin(header, spatial, directions, units, used)
    lost = (*(() if stated or not missing else (missing,)), *_lost(header, spatial, used))
    common = {"origin": origin, "space": space_of(header), "header": {"nrrd": header}}
    if directions is None or units is None:
        notes = () if stated else (without_spacing("the NRRD header"),)
        return common | {"directions": upright(), "units": "voxel", "notes": (*notes, *lost)}
    unit = _unit(header, units, spatial, stated=stated)
    if unit is not None:
        return common | {"directions": directions, "units": unit, "notes": lost}
    z, y, x = (float(length) for length in np.linalg.norm(directions, axis=1))
    notes = () if stated else (assumed_um((z, y, x)),)
    return common | {"directions": directions, "units": "um", "units_assumed": True, "notes": (*notes, *lost)}


def interval(header: NrrdHeader, spatial: list[int]) -> tuple[float | None, tuple[str, ...]]:
    """Return the seconds from one time point to the next, None where they are not stated, and notes on what is lost.

    They are the step along the one axis longer than 1 that spans no space: its direction along the fourth axis of the
    world, or its spacing.
    """
    sizes = header.integers("sizes")
    time = next((axis for axis in range(len(sizes)) if axis not in spatial and sizes[axis] > 1), None)
    if time is None:
        return None, ()
    step, unit = math.nan, ""
    row = _rows(header)[time] if "space directions" in header.fields else None
    notes: tuple[str, ...] = ()
    if row is not None:
        step = abs(float(row[-1]))
        units = _strings(header, "space units")
        unit = units[3] if len(units) == 4 else ""
        if row[:3].any():
            moved = ", ".join(f"{length:g}" for length in row[:3])
            notes = (f"from one time point to the next the volume moves by ({moved}): that is not used",)
    else:
        spacings = header.floats("spacings") if "spacings" in header.fields else []
        step = spacings[time] if len(spacings) == len(sizes) else math.nan
        units = _strings(header, "units")
        unit = units[time] if len(units) == len(sizes) else ""
    if not (math.isfinite(step) and step > 0):
        return None, notes
    if unit in SECONDS_PER:
        return step * SECONDS_PER[unit], notes
    # A step of 1 is what writers put where they know of none.
    return None, notes if step == 1 and not unit else (*notes, without_interval(step))


def _directions(
    header: NrrdHeader, spatial: list[int], used: set[str], *, stated: bool
) -> tuple[Any, str | None, str | None]:
    """Return the steps along (Z, Y, X) and the field with their unit, None where the header states none; and a note."""
    if "space directions" in header.fields:
        found = [_rows(header)[axis] for axis in spatial]
        if any(row is not None for row in found):
            rows = [row[:3] for row in found if row is not None]
            if len(rows) < 3:
                raise FileError(f"'{header.name}': 'space directions' must be three vectors of three numbers each")
            if any(row[3:].any() for row in found if row is not None):
                raise FileError(
                    f"'{header.name}': an axis of its 'space directions' runs through space and time at once"
                )
            return np.array(rows[::-1]), "space units", None
    if "spacings" in header.fields:
        spacings = [
            None if math.isnan(length) or (stated and length == 0) else length
            for length in _along_axes(header, "spacings", spatial)
        ]
        if any(spacings):
            used.add("spacings")
            names = _strings(header, "units") + [""] * len(header.integers("sizes"))
            units = [names[axis] or "unit" for axis in reversed(spatial)]
            filled, note = completed(spacings[::-1], units, "the NRRD header", "ITK")
            return upright(filled), "units", note
    return None, None, None


def _origin(header: NrrdHeader, spatial: list[int], directions: Any, units: str | None, used: set[str]) -> Any:
    """Return where the first voxel lies; by the mins of the axes, as teem and ITK do, where there is no origin."""
    if "space origin" in header.fields:
        vectors = header.vectors("space origin")
        if vectors and vectors[0] is not None:
            if vectors[0].size not in (3, _world_axes(header)):
                raise FileError(f"'{header.name}': 'space origin' must be one vector of {_world_axes(header)} numbers")
            return vectors[0][:3]
    if units == "units" and "axis mins" in header.fields:
        mins = _along_axes(header, "axis mins", spatial)
        if all(math.isfinite(least) for least in mins):
            used |= {"axis mins", "axis maxs"}
            centers = header.fields.get("centerings", "").split()
            nodes = [axis < len(centers) and centers[axis].lower() == "node" for axis in spatial]
            # A min is the edge of the first cell, half a spacing before its centre; of nodes it is the first.
            return np.array(mins) + np.where(nodes, 0.0, directions[[2, 1, 0], [0, 1, 2]] / 2)
    return np.zeros(3)


def _lost(header: NrrdHeader, spatial: list[int], used: set[str]) -> tuple[str, ...]:
    """Return the note on fields that tell of a place and are not used."""
    left = []
    for name in _MINOR_FIELDS:
        if name not in header.fields or name in used:
            continue
        try:
            if name == "measurement frame":
                tells = not np.array_equal([row[:3] for row in header.vectors(name)[:3] if row is not None], np.eye(3))
            else:
                tells = any(math.isfinite(number) for number in _along_axes(header, name, spatial))
        except FileError:  # told all the same
            tells = True
        if tells:
            left.append(name)
    return (f"not used of the NRRD header: {', '.join(left)}",) if left else ()


def _rows(header: NrrdHeader) -> list[Any]:
    """Return the space directions of all axes, each a vector of as many numbers as the world has axes, or None."""
    rows = header.vectors("space directions")
    if any(row is not None and row.size != _world_axes(header) for row in rows):
        count = "three" if _world_axes(header) == 3 else "four"
        raise FileError(f"'{header.name}': 'space directions' must be {count} vectors of {count} numbers each")
    return rows


def _along_axes(header: NrrdHeader, name: str, axes: list[int]) -> list[float]:
    """Return what a field with a number an axis says of some of them."""
    numbers, sizes = header.floats(name), header.integers("sizes")
    if len(numbers) != len(sizes):
        raise FileError(f"'{header.name}': {len(numbers)} '{name}' for {len(sizes)} axes")
    return [numbers[axis] for axis in axes]


def _strings(header: NrrdHeader, name: str) -> list[str]:
    return [text.strip() for text in header.strings(name)] if name in header.fields else []


def geometry_fields(volume: Volume) -> dict[str, str]:
    """Return the header fields that say where the voxels of a volume lie, for three axes.

    µm that had to be assumed are not stated, so that they are assumed again; a volume that knows nothing of its
    geometry gets no fields.
    """
    fields: dict[str, str] = {}
    plain = np.array_equal(volume.directions, upright()) and not volume.origin.any()
    if not (volume.units == "voxel" and plain and not volume.space):
        fields |= {"space": volume.space} if volume.space else {"space dimension": "3"}
        fields["space directions"] = format_vectors(volume.directions[::-1])
        fields["space origin"] = format_vectors(volume.origin[None])
        if not (volume.units_assumed and volume.units == "um"):
            fields["space units"] = " ".join([f'"{volume.units}"'] * 3)
    return fields | {"kinds": "domain domain domain"}


def space_of(header: NrrdHeader) -> str:
    """Return the canonical name of the space without its time, empty where none is stated."""
    name = header.fields.get("space", "")
    if name and name.casefold() not in _SPACE_OF_NAME:
        raise FileError(f"'{header.name}': space '{name}' is not known; known: {', '.join(_SPACES)}")
    if _world_axes(header) not in (3, 4):
        raise FileError(
            f"'{header.name}': space dimension {header.fields['space dimension']}, expected 3, or 4 with time"
        )
    return _SPACE_OF_NAME[name.casefold()] if name else ""


def _world_axes(header: NrrdHeader) -> int:
    """Return how many axes the world has: three of space, and maybe one of time."""
    if "space dimension" in header.fields:
        return next(iter(header.integers("space dimension")), 0)
    name = header.fields.get("space", "").casefold()
    return 4 if name in _SPACE_OF_NAME and name not in _WITHOUT_TIME else 3


def named_axes(header: NrrdHeader) -> str:
    """Return the axes of a file, fastest first, with their lengths, for messages."""
    sizes = header.integers("sizes")
    kinds = header.fields.get("kinds", "").split()
    if len(kinds) != len(sizes):
        return " x ".join(str(size) for size in sizes)
    return ", ".join(f"{kind} {size}" for kind, size in zip(kinds, sizes, strict=True))


def _unit(header: NrrdHeader, field: str, spatial: list[int], *, stated: bool) -> str | None:
    """Return the one length unit of the spatial axes, ``"voxel"``, or None where none is stated."""
    names = _strings(header, field)
    names = [names[axis] for axis in spatial if axis < len(names)] if field == "units" else names[:3]
    found = set(names) - {"", "???", "none"}
    if not found:
        return None
    units = {"voxel" if name.casefold() in VOXEL_UNITS else canonical_unit(name) for name in found}
    if len(units) == 1 and None not in units:
        return units.pop()
    if stated:
        return None
    raise FileError(
        f"'{header.name}': {field} {', '.join(sorted(found))}: expected one known length unit; "
        f"give the spacing in µm {setting('spacing_um')}"
    )
