"""Measures of the vessels in a mask: volume, centreline, branch points and radius of each connected piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from micronet.core.errors import InputError, setting
from micronet.core.volume import Volume, is_isotropic
from micronet.measure.centreline import LEAST_RADIUS, Centreline, centreline
from micronet.measure.topology import components

__all__ = ["Vessel", "measure_vessels", "too_thin"]


@dataclass(frozen=True, eq=False)
class Vessel:
    """A connected piece of lumen.

    Parameters
    ----------
    voxels : int
    um3 : float
        Volume in µm³: voxels times the volume of one.
    line : Centreline
        Lengths and radii in µm, points (Z, Y, X) in voxels of the whole volume.
    """

    voxels: int
    um3: float
    line: Centreline

    def radii(self) -> NDArray[np.float64]:
        """Return the radii at all points of the centreline that have one, in µm."""
        radii: NDArray[np.float64] = np.concatenate([branch.radii for branch in self.line.branches])
        finite: NDArray[np.bool_] = np.isfinite(radii)
        return radii[finite]


def measure_vessels(mask: Volume) -> list[Vessel]:
    """Measure each connected piece of a mask.

    Parameters
    ----------
    mask : Volume
        Array of bool, of known spacing. Voxels touch by faces, edges and corners. A lumen that leaves the volume is
        taken to go on, so that its radius is not cut short there.

    Returns
    -------
    list of Vessel
        The largest first.

    Raises
    ------
    InputError
        If the spacing is not known, or the mask not bool.
    """
    spacing, voxel_um3 = mask.spacing_um, mask.voxel_um3
    if spacing is None or voxel_um3 is None:
        raise InputError(
            f"vessels are measured in µm, and the voxel size is not known: give it {setting('spacing_um')}"
        )
    labels, _ = components(mask.array)
    vessels = []
    for number, box in enumerate(find_objects(labels), 1):
        wide = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
        piece = labels[wide] == number
        line = centreline(piece, spacing)
        voxels = int(np.count_nonzero(piece))
        vessels.append(Vessel(voxels, voxels * voxel_um3, line.moved([part.start for part in wide])))
    return sorted(vessels, key=lambda vessel: -vessel.voxels)


def too_thin(vessels: Sequence[Vessel], spacing: Sequence[float]) -> str | None:
    """Return a warning where vessels are too thin for the spacing along (Z, Y, X), in µm; None where none is."""
    least = 0.0 if is_isotropic(spacing) else LEAST_RADIUS * max(spacing)
    thin = sum(bool(vessel.radii().size) and float(np.median(vessel.radii())) < least for vessel in vessels)
    if not thin:
        return None
    return (
        f"{thin} of {len(vessels)} vessels have a radius below {least:.3g} µm, {LEAST_RADIUS} of the largest spacing: "
        "their lengths and radii may be wrong, and parts missing"
    )
