"""What a napari layer says of its grid, in terms of `Volume`, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.volume import MICROMETRES_PER, Volume, share_grid

__all__ = ["GRID", "STROKES", "STROKE_COLOURS", "grid_of", "layer_attributes", "settled_grids"]

#: Key in the metadata of a layer under which the grid lies that its file had.
GRID = "micronet_grid"
#: Key in the metadata of a layer that holds strokes: 1 lumen, 2 background.
STROKES = "micronet_strokes"
#: What strokes look like.
STROKE_COLOURS = {None: "transparent", 0: "transparent", 1: "#ff8c1a", 2: "#3f8efc"}

# What pint calls lengths.
_PINT = {"nanometer": "nm", "micrometer": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m"}


def layer_attributes(grid: Volume, name: str, *, ndim: int = 3) -> dict[str, Any]:
    """Return the attributes of a layer that shows an array on a grid.

    The scale is in µm; position and direction of the axes stay in the metadata, since a viewer that turns a volume
    shows no planes of it. Axes before Z count pixels: napari wants one unit an axis in all layers.
    """
    attributes: dict[str, Any] = {"name": name, "metadata": {GRID: replace(grid, array=_shape_only(grid.shape))}}
    attributes["axis_labels"] = ("t", "z", "y", "x")[-ndim:]
    if grid.spacing_um is not None:
        attributes["scale"] = (1.0,) * (ndim - 3) + grid.spacing_um
        attributes["units"] = ("pixel",) * (ndim - 3) + ("um",) * 3
    return attributes


def grid_of(shape: tuple[int, ...], attributes: Mapping[str, Any]) -> Volume:
    """Return the grid of a layer's array, (Z, Y, X) or (T, Z, Y, X).

    That of the file it came from, where its shape is still the same and nothing was scaled; else one made of the
    layer's scale, in its units, or in µm where it has a scale but no units.
    """
    spatial = tuple(shape[-3:])
    scale = np.abs(np.asarray(attributes.get("scale", ()), np.float64))[-3:]
    spacing_um = _spacing_um(scale, attributes.get("units"))
    known = attributes.get("metadata", {}).get(GRID)
    if isinstance(known, Volume) and known.shape == spatial:
        if spacing_um is None or (known.spacing_um is not None and np.allclose(known.spacing_um, spacing_um)):
            return known
        return known.with_spacing(spacing_um)
    grid = Volume(_shape_only(spatial))
    return grid if spacing_um is None else grid.with_spacing(spacing_um)


def settled_grids(
    image: tuple[tuple[int, ...], Mapping[str, Any]],
    start: tuple[tuple[int, ...], Mapping[str, Any]],
    names: Sequence[str],
) -> tuple[Volume, Volume, str]:
    """Return the grids of two layers, shape and attributes each, as `core.volume.share_grid` settles their units.

    Layers that lie on different grids keep theirs: voxels are what counts here.
    """
    grid, other = grid_of(*image), grid_of(*start)
    try:
        return share_grid(grid, other, *names)
    except InputError:
        return grid, other, ""


def _spacing_um(scale: NDArray[np.float64], units: Sequence[Any] | None) -> tuple[float, ...] | None:
    if scale.size != 3 or np.array_equal(scale, (1.0, 1.0, 1.0)):
        return None
    names = [str(unit) for unit in units][-3:] if units is not None else []
    factors = [MICROMETRES_PER.get(_PINT.get(name, name), 1.0) for name in names] or [1.0] * 3
    return tuple(float(length * factor) for length, factor in zip(scale, factors, strict=True))


def _shape_only(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.uint8(0), shape)
