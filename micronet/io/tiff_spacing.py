"""How TIFF tells the distance between voxels: as ImageJ has it, and as it is taken where units differ or are missing.

ImageJ keeps the spacing along X and Y as a ratio of two 32-bit numbers and that along Z as text; a ratio of
two such numbers comes so close to a length of few decimals that it reads back to the same float64, and to any
other within 1e-12 of it.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from micronet.core.errors import FileError, setting
from micronet.core.volume import MICROMETRES_PER
from micronet.io.checks import ReadOptions
from micronet.io.units import INCH_UM, VOXEL_UNITS, canonical_unit, completed, stated_length, without_spacing

if TYPE_CHECKING:
    from tifffile import TiffFile

__all__ = ["imagej_resolution", "imagej_spacing", "imagej_unit", "settled_spacing"]

_UNIT_NAMES = {"um": "micron"}
_UINT32 = (1 << 32) - 1


def imagej_spacing(tif: TiffFile) -> tuple[list[float | None], list[str]]:
    """Return the spacing along Z, Y, X, None where it is not stated, and the unit of each."""
    metadata = tif.imagej_metadata or {}
    tags = tif.pages.first.tags
    lengths = [stated_length(metadata.get("spacing"))]
    for name in ("YResolution", "XResolution"):
        ratio = tags.valueof(name)
        lengths.append(ratio[1] / ratio[0] if ratio and ratio[0] and ratio[1] else None)
    unit = _unescaped(metadata.get("unit", ""))
    return lengths, [_unescaped(metadata.get("zunit", unit)), _unescaped(metadata.get("yunit", unit)), unit]


def settled_spacing(
    lengths: list[float | None], unit_names: list[str], path: Path, options: ReadOptions
) -> tuple[list[float], str, str | None]:
    """Return spacing (Z, Y, X), unit and a note; voxels where the file states no unit."""
    counts_voxels = all(not name or name.casefold() in VOXEL_UNITS for name in unit_names)
    if options.spacing_um is not None:
        return [1.0] * 3, "voxel", None
    if counts_voxels or not any(lengths):
        return [1.0] * 3, "voxel", without_spacing("the TIFF")
    spacing, note = completed(lengths, unit_names, "the TIFF", "ImageJ")
    units = [canonical_unit(name) for name in unit_names]
    if units[0] is not None and len(set(units)) == 1:
        return spacing, units[0], note
    in_um = []
    for length, name, unit in zip(spacing, unit_names, units, strict=True):
        if unit is None and name.strip().casefold() not in ("inch", "inches", "in"):
            raise FileError(f"'{path}': unknown length unit '{name}'; give the spacing in µm {setting('spacing_um')}")
        in_um.append(length * (INCH_UM if unit is None else MICROMETRES_PER[unit]))
    return in_um, "um", note


def imagej_unit(unit: str) -> str:
    """Return what ImageJ calls a unit of length."""
    return _UNIT_NAMES.get(unit, unit)


def imagej_resolution(y: float, x: float, path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return XResolution and YResolution of a spacing; FileError where TIFF cannot hold it."""
    return _voxels_per_unit(x, path), _voxels_per_unit(y, path)


def _voxels_per_unit(length: float, path: Path) -> tuple[int, int]:
    """Return the ratio of two 32-bit numbers that is closest to the inverse of a length.

    >>> _voxels_per_unit(4.5, Path("a.tif")), _voxels_per_unit(0.325, Path("a.tif"))
    ((2, 9), (40, 13))
    """
    exact = Fraction(length)
    # The larger of the two numbers is the one that the limit is for.
    ratio = exact.limit_denominator(_UINT32) if exact < 1 else 1 / (1 / exact).limit_denominator(_UINT32)
    if ratio == 0 or max(ratio.numerator, ratio.denominator) > _UINT32:
        raise FileError(f"cannot write '{path}': TIFF cannot hold a spacing of {length:g}; choose another unit")
    return ratio.denominator, ratio.numerator


def _unescaped(name: object) -> str:
    r"""Return a unit as ImageJ means it: it writes ``\u00B5m`` for µm."""
    return str(name).replace("\\u00B5", "µ").replace("\\u00b5", "µ").strip().strip('"').strip()
