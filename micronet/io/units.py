"""Names of length units, as files spell them."""

from __future__ import annotations

from micronet.volume import MICROMETRES_PER

__all__ = ["INCH_UM", "UNITS_ASSUMED", "VOXEL_UNITS", "assumed_um", "canonical_unit", "without_spacing"]

#: Micrometres in an inch, which TIFF may count in and `Volume.units` has no name for.
INCH_UM = 25400.0

#: How a note begins that says a unit was assumed; writers then state no unit either.
UNITS_ASSUMED = "no length unit is stated"

#: Spellings of "not a length": the file counts in voxels.
VOXEL_UNITS = frozenset({"voxel", "voxels", "pixel", "pixels", "px"})

_SPELLINGS = {
    "nm": ("nanometer", "nanometre"),
    "um": ("µm", "μm", "micron", "micrometer", "micrometre"),
    "mm": ("millimeter", "millimetre"),
    "cm": ("centimeter", "centimetre"),
    "m": ("meter", "metre"),
}
_CANONICAL = {
    spelling: unit
    for unit, names in _SPELLINGS.items()
    for name in (unit, *names)
    for spelling in (name, f"{name}s" if len(name) > 2 else name)
}

# Half the wavelength of blue light: no spacing of a light microscope is finer than a tenth of it.
_IMPLAUSIBLE_UM = 0.02


def canonical_unit(name: str) -> str | None:
    """Return the key of `MICROMETRES_PER` that a spelling means, or None when it is not known.

    >>> [canonical_unit(name) for name in ("microns", "\u00b5m", "Millimeter", "furlong")]
    ['um', 'um', 'mm', None]
    """
    unit = _CANONICAL.get(name.strip().casefold())
    return unit if unit in MICROMETRES_PER else None


def assumed_um(spacing: tuple[float, float, float]) -> str:
    """Return the note for a file whose numbers are read as µm because it names no unit."""
    numbers = " x ".join(f"{length:.6g}" for length in spacing)
    hint = ""
    if max(spacing) < _IMPLAUSIBLE_UM:
        in_mm = ",".join(f"{length * 1000:.6g}" for length in spacing)
        hint = f"; if they are mm, give --spacing {in_mm}"
    return f"{UNITS_ASSUMED}: the spacing (Z, Y, X) {numbers} is read as µm (--spacing overrides it){hint}"


def without_spacing(what: str) -> str:
    """Return the note for a file that says nothing of the distance between voxels."""
    return f"{what} states no spacing: lengths are unknown until --spacing Z,Y,X (in µm) gives it"
