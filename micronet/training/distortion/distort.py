"""Size maps and distorted masks: what µr-Net learns to put right.

µr-Net is trained on the annotation with its mask input distorted, so that it learns to move a wrong mask onto the
vessels in the image. The published distortion only shifts the walls. Inference, however, starts from a blank mask and
feeds back whatever the network said, so the default also loses, invents and blanks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.threads import physical_cores
from micronet.networks.kernels.edits import Edits
from micronet.training.distortion import noise
from micronet.training.distortion.noise import RandomNumbers

try:
    from micronet.networks.kernels.warp import distort_mask as _distort_mask
    from micronet.training.distortion.size_map import size_map as _map_sizes
except ModuleNotFoundError:  # no numba here: the same numbers, slower
    from micronet.training.distortion.reference import distort_mask as _distort_mask
    from micronet.training.distortion.reference import size_map as _map_sizes

__all__ = ["DEFAULT_EDITS", "EditSettings", "distort", "sample_distortion", "size_map"]

Range: TypeAlias = tuple[float, float]

#: Standard deviation of the displacement in units of the size map, at ratio 1 (published).
_AMPLITUDE = 0.34


@dataclass(frozen=True)
class EditSettings:
    """What the default distortion does beyond moving walls. Ranges are (low, high) of a uniform draw per mask.

    Parameters
    ----------
    blank : float
        Probability that the mask is all zero, as at the start of inference.
    lose, gain : float
        Probability that a mask that is not blank loses regions; that it gains some (independent).
    lost_fraction : (float, float)
        Expected part of the volume in which the mask is lost, in blobs about as long as the displacement is smooth.
    lost_strength : (float, float)
        How much of the probability goes there; 1 removes it.
    gained_fraction : (float, float)
        Expected part of the volume in which spurious tubes may run.
    gained_strength : (float, float)
        Probability written into the tubes.
    tube_radius_vox : (float, float)
        Typical radius of those tubes in voxels.
    edge_vox : (float, float)
        Typical width over which a lost or gained region fades out, in voxels.
    """

    blank: float = 0.1
    lose: float = 0.5
    gain: float = 0.5
    lost_fraction: Range = (0.05, 0.5)
    lost_strength: Range = (0.6, 1.0)
    gained_fraction: Range = (0.05, 0.3)
    gained_strength: Range = (0.4, 1.0)
    tube_radius_vox: Range = (2.0, 8.0)
    edge_vox: Range = (1.0, 4.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            top = math.inf if field.name.endswith("_vox") else 1.0
            positive = field.name.endswith(("_vox", "_fraction"))
            if not (0 <= low <= high <= top) or (positive and low == 0):
                raise InputError(f"{field.name} is {value}; expected values from 0 to {top:g}, the lower one first")


#: What training uses unless told otherwise: the one place to change it.
DEFAULT_EDITS = EditSettings()


def size_map(mask: NDArray[Any], *, threads: int | None = None) -> NDArray[np.int32]:
    """Return how thick the mask is around every voxel, in voxels from 0 to 15.

    The chessboard distance to the background inside the mask, its maximum over a ball of radius 15 (so that the
    surroundings of a vessel know its size too), at most 15.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X)
        bool, or numbers 0 and 1.
    threads : int, optional
        Number of threads, by default one per physical core; the result does not depend on it.

    Returns
    -------
    ndarray of shape (Z, Y, X), int32
        As published, a mask without any background has no distance: -1 everywhere.

    Raises
    ------
    InputError
        If the mask is not three-dimensional or holds anything but 0 and 1.
    """
    return _map_sizes(_binary(mask), threads or physical_cores())


def distort(
    mask: NDArray[Any],
    size_map: NDArray[Any],
    ratio: float = 1.2,
    bandwidth: float = 0.03,
    rng: RandomNumbers | None = None,
    variant: Literal["default", "published"] = "default",
    *,
    edits: EditSettings = DEFAULT_EDITS,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Return a randomly distorted mask, a stand-in for what the network may have said.

    The walls move: the mask is sampled (trilinear, edges continued) at r + S(r)·d(r), S the size map and d a smooth
    random displacement of standard deviation 0.34·ratio along each axis.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X)
        bool, or numbers 0 and 1.
    size_map : ndarray of shape (Z, Y, X)
        What `size_map` returns for it.
    ratio : float
        Strength of the displacement, positive; published 1.0 to 1.4.
    bandwidth : float
        Its fineness, positive; published 0.02 to 0.04. The amplitude of a wave of f cycles per voxel is
        exp(-(2f/bandwidth)²/2); displacements correlate over sqrt(2)/(pi·bandwidth) voxels: 15 at 0.03.
    rng : numpy.random.Generator or RandomState
        Source of all draws; by default a fresh, unpredictable Generator.
    variant : {"default", "published"}
        ``"published"`` is the displacement of the µr-Net publication: periodic, point-symmetric (d(-r) = d(r)), scaled
        to that standard deviation within each volume. With ``RandomState(seed)`` it gives the very numbers of the
        published code after ``numpy.random.seed(seed)``; 3 numbers a voxel are drawn, which takes most of the time.
        ``"default"`` has neither symmetry nor period, and loses, gains or blanks regions (`edits`).
    edits : EditSettings
        What the default variant loses, gains and blanks.
    threads : int, optional
        Number of threads, by default one per physical core; the result does not depend on it.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
        In [0, 1].

    Raises
    ------
    InputError
        If the shapes differ, the mask holds anything but 0 and 1, ratio or bandwidth is not positive, or the variant
        is unknown.
    """
    binary = _checked(mask, size_map, ratio, bandwidth, variant)
    rng = np.random.default_rng() if rng is None else rng
    if variant == "default" and rng.uniform() < edits.blank:
        return np.zeros(binary.shape, np.float32)
    drawn = _draw_edits(edits, bandwidth, rng) if variant == "default" else None
    waves, tables = _fields(binary, bandwidth, rng, variant, drawn)
    waves[:3] *= _AMPLITUDE * ratio
    sizes = np.ascontiguousarray(size_map, dtype=np.int32)
    return _distort_mask(binary, sizes, waves, tables, drawn, threads or physical_cores())


def _fields(
    mask: NDArray[np.uint8], bandwidth: float, rng: RandomNumbers, variant: str, drawn: Edits | None
) -> tuple[NDArray[np.float64], noise.Tables]:
    """Draw the fields of the displacement, of SD 1, and those that place the edits."""
    z, y, x = mask.shape
    if variant == "published":
        return noise.published_fields((z, y, x), bandwidth, rng)
    return noise.stationary_fields((z, y, x), bandwidth, 3 if drawn is None else 6, rng)


def _checked(
    mask: NDArray[Any], size_map: NDArray[Any], ratio: float, bandwidth: float, variant: str
) -> NDArray[np.uint8]:
    """Return the mask as 0 and 1; InputError when something is not as `distort` asks for."""
    binary = _binary(mask)
    if size_map.shape != binary.shape:
        raise InputError(f"size map: shape (Z, Y, X) {size_map.shape} differs from that of the mask, {binary.shape}")
    for name, value in (("ratio", ratio), ("bandwidth", bandwidth)):
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}; expected a positive number")
    if variant not in ("default", "published"):
        raise InputError(f"unknown distortion variant '{variant}'; known: default, published")
    return binary


def sample_distortion(rng: RandomNumbers) -> tuple[float, float]:
    """Return (ratio, bandwidth) as drawn for each published training distortion: U(1.0, 1.4), U(0.02, 0.04)."""
    return float(rng.uniform(1.0, 1.4)), float(rng.uniform(0.02, 0.04))


def _binary(mask: NDArray[Any]) -> NDArray[np.uint8]:
    if mask.ndim != 3 or 0 in mask.shape:
        raise InputError(f"a mask has three axes (Z, Y, X), none of them empty; this one has shape {mask.shape}")
    if mask.dtype == np.bool_:
        return np.ascontiguousarray(mask).view(np.uint8)
    with np.errstate(invalid="ignore"):  # NaN is found below
        as_bytes = np.ascontiguousarray(mask, dtype=np.uint8)
    if as_bytes.max() > 1 or not np.array_equal(as_bytes, mask):
        found = np.unique(mask)
        listed = ", ".join(f"{value:g}" for value in found[:6]) + (", .." if len(found) > 6 else "")
        raise InputError(f"a mask holds 0 and 1 only; this one holds {listed}")
    return as_bytes


def _draw_edits(settings: EditSettings, bandwidth: float, rng: RandomNumbers) -> Edits | None:
    """Draw what happens to one mask; None when it keeps all its regions and gains none."""
    loses, gains = rng.uniform() < settings.lose, rng.uniform() < settings.gain
    never = 99.0  # standard deviations
    # A field of variance 1 changes by about 1/length a voxel. The curves on which two are zero have a length of
    # 1/(pi length²) a voxel, and around them f4² + f5² < t² fills 1 - exp(-t²/2), for small t the cross-section
    # pi (t length)²/2 of a tube of that radius over sqrt(2).
    length = noise.correlation_length(bandwidth)

    def above(fraction: Range) -> float:
        return NormalDist().inv_cdf(1 - min(float(rng.uniform(*fraction)), 1 - 1e-9))

    lose_above, lost = above(settings.lost_fraction), float(rng.uniform(*settings.lost_strength))
    gain_above, gained = above(settings.gained_fraction), float(rng.uniform(*settings.gained_strength))
    radius, edge = float(rng.uniform(*settings.tube_radius_vox)), float(rng.uniform(*settings.edge_vox))
    if not (loses or gains):
        return None
    return Edits(
        lose_above=lose_above if loses else never,
        lost=lost,
        gain_above=gain_above if gains else never,
        gained=gained,
        tube=radius / length * math.sqrt(2),
        edge=edge / length,
    )
