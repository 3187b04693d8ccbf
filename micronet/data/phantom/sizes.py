"""The sizes of a phantom, in µm and in voxels, and how far its heart is contracted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPACING_UM", "Anatomy", "Field", "contraction", "vox"]

#: The voxel size that all sizes are turned into, along every axis.
SPACING_UM = 4.5
# In cycles: how long a piece of the heart tube contracts, and how much later the outflow does than the inflow. They
# add up to less than 1, so that the whole tube is at rest when a cycle begins.
_CONTRACTION, _DELAY = 0.55, 0.35

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Anatomy:
    """Sizes of a phantom; lengths in µm, the others are fractions or counts.

    The defaults bring what docs/phantoms.md measures, from foreground fraction to loops, into the range of ten
    published annotations.

    Parameters
    ----------
    dome_top : float
        Depth of the top of the yolk sac, as a fraction of the Y axis.
    dome_drop : float
        How much deeper the dome lies at the farther corner of the field of view, as a fraction of the Y axis.
    dome_ripple_um : float
        Standard deviation of the smooth undulation of the dome.
    plexus_begin : float
        Where along Z the plexus begins, as a fraction of the Z axis.
    island_distance_um : float
        Mean distance between the centres of neighbouring tissue islands: the mesh width of the plexus.
    island_jitter : float
        How far an island strays from a hexagonal grid, as a fraction of `island_distance_um`.
    lost_edges : float
        Fraction of the vessel segments between two islands that are missing, so that islands merge.
    capillary_radius_um, largest_radius_um : float
        Half the depth of the thinnest segments, and the limit for the widest.
    radius_spread : float
        Relative standard deviation of the radius from segment to segment.
    murray_exponent : float
        A segment that feeds n others has n ** (1 / murray_exponent) times the radius (Murray 1926: 3).
    flatness : float
        Width of a plexus vessel over its depth.
    heart_radius_um : float
        Mean radius of the heart tube in a field of view of 981 µm; scales with the smallest axis, so that a small
        phantom shows a small heart, but never below 34.
    large_veins : int
        Number of veins that run from the plexus to the inflow of the heart; may be 0.
    vein_radius_um : float
        Mean radius of these where they join the heart; scales as the heart does.
    deep_vessels : int
        Number of vessels in the tissue under the plexus.
    roughness_um : float
        Standard deviation of the irregularity of every lumen's surface.
    beat_depth : float
        How much narrower the heart tube is where it is contracted, as a fraction of its radius at rest.
    beat_travel : float
        How far the middle of the tube moves aside and away from the yolk sac meanwhile, as a fraction of its
        mean radius; its ends stay where they are.
    vessel_pulse : float
        How much wider the plexus is when the heart has pumped, as a fraction of the radius.
    """

    dome_top: float = 0.225
    dome_drop: float = 0.54
    dome_ripple_um: float = 5.4
    plexus_begin: float = 0.46
    island_distance_um: float = 129.0
    island_jitter: float = 0.3
    lost_edges: float = 0.18
    capillary_radius_um: float = 9.9
    largest_radius_um: float = 22.5
    radius_spread: float = 0.3
    murray_exponent: float = 3.0
    flatness: float = 1.6
    heart_radius_um: float = 98.0
    large_veins: int = 2
    vein_radius_um: float = 50.0
    deep_vessels: int = 4
    roughness_um: float = 2.7
    beat_depth: float = 0.35
    beat_travel: float = 0.3
    vessel_pulse: float = 0.04


def vox(length_um: float) -> float:
    """Return a length in voxels."""
    return length_um / SPACING_UM


def contraction(phase: float, along: Field) -> Field:
    """Return how far the heart tube is contracted, 0 to 1, by how far along it a place is, 0 to 1."""
    since = phase % 1.0 - _DELAY * along  # cycles since the wave arrived
    running = (since > 0) & (since < _CONTRACTION)
    return np.where(running, 0.5 - 0.5 * np.cos(2 * math.pi * since / _CONTRACTION), 0.0)
