"""Names of length units, as files spell them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from micronet.core.errors import setting
from micronet.core.volume import MICROMETRES_PER, UNITS_ASSUMED

__all__ = [
    "INCH_UM",
    "SECONDS_PER",
    "VOXEL_UNITS",
    "assumed_um",
    "canonical_unit",
    "completed",
    "stated_length",
    "without_interval",
    "without_spacing",
]

#: Micrometres in an inch, which TIFF may count in and `Volume.units` has no name for.
INCH_UM = 25400.0

#: Seconds in a unit of time, by the names that files have for it.
SECONDS_PER = {
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "msec": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "min": 60.0,
    "h": 3600.0,
}

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
        hint = f", such as {in_mm} if they are mm"
    return (
        f"{UNITS_ASSUMED}: the spacing (Z, Y, X) {numbers} is read as µm, "
        f"unless said otherwise{hint} {setting('spacing_um')}"
    )


def without_spacing(what: str) -> str:
    """Return the note for a file that says nothing of the distance between voxels."""
    return f"{what} states no spacing: lengths are unknown until it is given in µm {setting('spacing_um')}"


def without_interval(step: float) -> str:
    """Return the note for a file that tells the step from one time point to the next without a unit."""
    advice = f"give it in seconds {setting('interval_s')}"
    return f"no unit of time is stated: the step of {step:g} between time points is not used; {advice}"


def stated_length(length: Any) -> float | None:
    """Return a distance between voxels that a file states; None where it states none, or one that none can be.

    A sign tells which way an axis runs, which the formats that have one say elsewhere.

    >>> [stated_length(text) for text in ("4.5", -2, 0, "nan", "?", None)]
    [4.5, 2.0, None, None, None, None]
    """
    try:
        number = abs(float(length or 0))
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def completed(
    lengths: Sequence[float | None], units: Sequence[str], what: str, model: str
) -> tuple[list[float], str | None]:
    """Return a spacing (Z, Y, X) of which some lengths are missing with 1 in their place, and the note on it.

    `units` are those of the three; `model` is the program that does so too.
    """
    missing = "".join(letter for letter, length in zip("ZYX", lengths, strict=True) if length is None)
    spacing = [1.0 if length is None else length for length in lengths]
    if not missing:
        return spacing, None
    unit = units["ZYX".index(missing[0])]
    return (
        spacing,
        f"{what} states no spacing along {missing}: 1 {unit} is taken, as {model} does, "
        f"unless said otherwise {setting('spacing_um')}",
    )
