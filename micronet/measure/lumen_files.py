"""What a mask is turned into on request: a mesh of its surface, and tables of its vessels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micronet.core.names import write_name
from micronet.core.table import number_cell, write_table
from micronet.core.volume import MICROMETRES_PER, Volume
from micronet.io.mesh import write_mesh

if TYPE_CHECKING:
    from micronet.measure.vessels import Vessel

__all__ = ["surface_path", "vessel_paths", "write_surface", "write_vessels"]

_VESSEL_COLUMNS = {
    "vessel": "number of a connected piece (voxels touch by faces, edges and corners), the largest first",
    "voxels": "of the piece",
    "lumen_um3": "volume: voxels times the volume of one, in µm³",
    "centreline_um": (
        "length of the centreline (thinning of Lee et al. 1994 by scikit-image, cavities filled, completed where it "
        "does not reach, smoothed over 5 points; on a grid of the finest spacing), in µm; it ends about a radius "
        "before an open end of the lumen"
    ),
    "branches": "pieces of centreline between branch points and end points; a closed loop is one",
    "branch_points": "where three branches or more meet; ends shorter than the radius and two voxels are left out",
    "end_points": "where a branch ends",
    "radius_mean_um": (
        "over the points of the centreline; radius: distance from the middle of the lumen, within one voxel of the "
        "point, to the nearest voxel outside; where voxels are no cubes, the least within half the "
        "largest spacing along the line"
    ),
    "radius_median_um": "of the same",
    "radius_min_um": "of the same",
    "radius_max_um": "of the same",
}
_POINT_COLUMNS = ("vessel", "branch", "point", "z", "y", "x", "world_1_um", "world_2_um", "world_3_um", "radius_um")


def surface_path(folder: Path, stem: str, kind: str) -> Path:
    """Return the name of a surface in one of `micronet.io.mesh.MESH_FORMATS`."""
    return folder / f"{stem}_lumen.{kind}"


def vessel_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Return the names of the tables of the vessels: ``vessels`` and ``centrelines``."""
    return {kind: folder / f"{stem}_{kind}.csv" for kind in ("vessels", "centrelines")}


def write_surface(path: Path, mask: Volume) -> dict[str, Path]:
    """Write the surface of a mask, as `micronet.measure.surface.lumen_surface` makes it; nothing of an empty mask.

    Returns
    -------
    dict of str to Path
        ``{"mesh": path}``, or nothing.
    """
    from micronet.measure.surface import lumen_surface  # scikit-image is slow to import, and few ask for a surface

    return {"mesh": write_mesh(path, lumen_surface(mask))} if mask.array.any() else {}


def write_vessels(
    folder: Path, stem: str, mask: Volume, say: Callable[[str], None] | None = None
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write a table with a row for each vessel and one with a row for each point of a centreline.

    `say` receives a warning where vessels are too thin for the spacing; the tables have it too.

    InputError as `micronet.measure.vessels.measure_vessels`, FileError when a table cannot be written.

    Returns
    -------
    files : dict of str to Path
        As `vessel_paths`.
    summary : dict of str to number
        ``vessels``, how many there are, ``centreline_um``, their length together, and ``radius_median_um`` over the
        points of all centrelines, None where there is none.
    """
    from micronet.measure.vessels import measure_vessels, too_thin  # as above

    files = vessel_paths(folder, stem)
    vessels = measure_vessels(mask)
    warning = too_thin(vessels, mask.spacing_um or (1, 1, 1))
    if warning and say is not None:
        say(warning)
    warnings = [f"WARNING: {warning}"] if warning else []
    comments = [*warnings, *(f"{name}: {text}" for name, text in _VESSEL_COLUMNS.items())]
    rows = [[number, *_row(vessel)] for number, vessel in enumerate(vessels, 1)]
    write_table(files["vessels"], f"vessels of {write_name(stem)}", comments, list(_VESSEL_COLUMNS), rows)
    comments = [
        *warnings,
        "vessel: as in the table of the vessels; branch, point: numbers along it, both from 1",
        "z, y, x: position in voxels, from 0 at the centre of the first",
        f"world_1, world_2, world_3: position in µm along the axes of the volume's space, {mask.space or 'not stated'}",
        "radius: of the lumen, in µm; empty where nothing bounds it",
    ]
    write_table(
        files["centrelines"], f"centrelines of {write_name(stem)}", comments, _POINT_COLUMNS, _points(vessels, mask)
    )
    radii = np.concatenate([vessel.radii() for vessel in vessels]) if vessels else np.empty(0)
    return files, {
        "vessels": len(vessels),
        "centreline_um": float(sum(vessel.line.length for vessel in vessels)),
        "radius_median_um": float(np.median(radii)) if radii.size else None,
    }


def _row(vessel: Vessel) -> list[str]:
    line, radii = vessel.line, vessel.radii()
    numbers = [vessel.voxels, vessel.um3, line.length, len(line.branches), line.branch_points, line.end_points]
    spread = [float(of(radii)) if radii.size else np.nan for of in (np.mean, np.median, np.min, np.max)]
    return [number_cell(number) for number in (*numbers, *spread)]


def _points(vessels: list[Vessel], mask: Volume) -> Iterator[list[str]]:
    scale = MICROMETRES_PER[mask.units]
    for number, vessel in enumerate(vessels, 1):
        for branch_number, branch in enumerate(vessel.line.branches, 1):
            world = scale * (branch.points @ mask.directions + mask.origin)
            for point, (here, there, radius) in enumerate(zip(branch.points, world, branch.radii, strict=True), 1):
                cells = [number_cell(float(value)) for value in (*here, *there, radius)]
                yield [str(number), str(branch_number), str(point), *cells]
