"""What the OME-XML in the description of a TIFF says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffPageSeries

from micronet.core.errors import FileError
from micronet.io.checks import one_line
from micronet.io.units import stated_length

__all__ = ["ome_pixels", "ome_shape", "ome_spacing"]


def ome_pixels(description: str, path: Path) -> dict[str, str] | None:
    """Return the attributes of the OME Pixels element, or None where the TIFF is no OME-TIFF.

    The planes must be in this file, in order.
    """
    text = description.strip()
    if not text.endswith("OME>"):
        return None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError(f"'{path}': its OME-XML defines entities, which is refused")
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise FileError(f"'{path}': its OME-XML cannot be read ({one_line(error)})") from error
    found = root.findall("{*}Image/{*}Pixels")
    if len(found) != 1:
        raise FileError(f"'{path}' is an OME-TIFF of {len(found)} images, expected one; save the one to segment")
    files = {uuid.get("FileName", path.name) for uuid in found[0].iterfind("{*}TiffData/{*}UUID")}
    # A file may have been renamed since; that its planes are spread shows in more than one name.
    if len(files) > 1:
        raise FileError(f"'{path}' is one of {len(files)} files of an OME-TIFF; save it as one file")
    attributes = dict(found[0].attrib)
    order = [letter for letter in attributes.get("DimensionOrder", "XYZCT") if letter in "ZCT"]
    for plane in found[0].iterfind("{*}TiffData"):
        page = 0
        for letter in reversed(order):
            page = page * _number(attributes, f"Size{letter}", 1) + _number(plane.attrib, f"First{letter}", 0)
        if _number(plane.attrib, "IFD", page) != page:
            raise FileError(
                f"'{path}': the planes of its OME-TIFF are not in the order of {', '.join(order)}; save it again"
            )
    return attributes


def _number(attributes: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number of the XML; sizes that are none are told by `ome_shape`."""
    text = attributes.get(name, "")
    return int(text) if text.isdecimal() else default


def ome_shape(ome: dict[str, str], series: TiffPageSeries, path: Path) -> tuple[tuple[int, ...], str]:
    """Return shape and axes by the OME description, without axes of length 1, checked against the pages."""
    try:
        lengths = {letter: int(ome[f"Size{letter}"]) for letter in "TCZYX"}
    except (KeyError, ValueError) as error:
        raise FileError(f"'{path}': its OME-XML does not state the size of the image ({one_line(error)})") from error
    order = ome.get("DimensionOrder", "XYZCT")[::-1]
    if sorted(order) != sorted("TCZYX"):
        raise FileError(f"'{path}': its OME-XML states the dimension order '{order[::-1]}'")
    if "S" in series.axes:
        return series.shape, series.axes
    kept = "".join(letter for letter in order if letter in "YX" or lengths[letter] != 1)
    shape = tuple(lengths[letter] for letter in kept)
    if int(np.prod(shape, dtype=object)) != int(np.prod(series.shape, dtype=object)):
        named = ", ".join(f"{letter} {lengths[letter]}" for letter in kept)
        raise FileError(f"'{path}': its OME-XML claims {named}, its pages hold {series.shape}")
    return shape, kept


def ome_spacing(ome: dict[str, str] | None) -> tuple[list[float | None], list[str]]:
    """Return the spacing along Z, Y, X, None where it is not stated, and the unit of each."""
    attributes = ome or {}
    lengths = [stated_length(attributes.get(f"PhysicalSize{letter}")) for letter in "ZYX"]
    if not any(lengths):
        return lengths, [""] * 3
    return lengths, [attributes.get(f"PhysicalSize{letter}Unit", "µm") for letter in "ZYX"]
