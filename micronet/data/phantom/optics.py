"""The physical parameters of a simulated OCT image: the presets, and variation around them.

Where a value is called *fitted*, it was sought so that the published networks, which saw only real OCT, find lumens
again in images simulated over four published annotations (docs/phantoms.md tells how, and what each one brings).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from micronet.data.phantom.decoys import ALL_DECOYS, DECOYS, Decoys, only, varied_decoys

__all__ = ["PRESETS", "VARIATION", "Optics", "varied"]


@dataclass(frozen=True)
class Optics:
    """Physical parameters of a simulated image; the values as given are the preset ``plain``.

    Reflectivities are natural logarithms of the mean intensity that comes back from a tissue before any loss on the
    way; only their differences show, and all are fitted. Lengths are in µm. Attenuation is one way, in ln units of
    intensity per mm; weakly scattering tissue has 0.5 to 5 (Faber et al. 2004, Opt. Express 12:4353).

    Parameters
    ----------
    spacing_um : float
        Voxel size along every axis.
    medium, coelom, pericardium, body : float
        Reflectivity of the medium above, of the fluid under the yolk sac, of the cavity around the heart, and of the
        embryo's tissue deeper.
    sheet, vessel_wall : float
        Reflectivity of the yolk sac, and of the walls of its vessels.
    endocardium, jelly, myocardium : float
        Reflectivity of the three layers of the wall of heart and large vessels, from the lumen outwards.
    vessel_blood, heart_blood : float
        Reflectivity of blood in vessels, and at the wall of heart and large vessels.
        Few cells circulate at embryonic day 9 (McGrath et al. 2003, Blood 101:1669), so blood is mid-grey.
    heart_core_gain : float
        How much brighter blood is in the middle of heart and large vessels, where the cells flow, than at the wall.
    core_um : float
        Distance from the wall at which most (63 %) of that gain is reached.
    deep_wall_gain : float
        How much brighter a wall is under its lumen than at its sides, and how much darker above it.
    sheet_um, coelom_um, pericardium_um : float
        Thickness of the yolk sac, and of the fluid under it; how far from the heart's lumen its cavity reaches.
    vessel_roof_um, vessel_floor_um : float
        Thickness of the wall above a vessel, and below it, where light that blood has scattered on comes in later
        and lengthens it.
    endocardium_um, jelly_um : float
        Thickness of the inner layers of the heart's wall.
    heart_roof_um, heart_floor_um : float
        Thickness of the whole wall above a lumen of the heart, and below it.
    heart_radius_um : float
        A lumen in which a ball of this radius fits is heart or large vessel.
    blood_loss_per_mm, wall_loss_per_mm, sheet_loss_per_mm, body_loss_per_mm : float
        Attenuation; fitted.
    noise_floor : float
        Logarithm of the detector's mean noise; fitted.
    speckle_average_vox : float
        Standard deviation of the Gaussian over which fully developed speckle (the intensity of a circular-Gaussian
        field: Goodman 1976, J. Opt. Soc. Am. 66:1145) is averaged when the scan is decimated to this grid; 0.8 leaves
        a standard deviation of about 0.2 of the mean.
    speckle_grain_vox : float
        Standard deviation of the Gaussian along depth over which the light's field is coherent before that; at 0
        neighbouring voxels have nothing in common. 0.65 is what frames of real OCT have (benchmarks/README.md).
    blood_speckle : float
        Contrast of speckle in blood over that in tissue: flow decorrelates it between the scans that are averaged.
    blur_vox : float
        Standard deviation of the point spread.
    body_texture, wall_texture : float
        Standard deviation of the slow variation of reflectivity in the embryo's tissue, and in walls and yolk sac.
    texture_um : float
        Length of that variation: about the size of a cell.
    black, white : float
        Logarithms of the intensities that become 0 and 255.
    decoys : Decoys
        What looks like a lumen and is none; as given, nothing.
    """

    spacing_um: float = 4.5
    medium: float = -0.33
    coelom: float = -1.69
    pericardium: float = 0.38
    body: float = 0.65
    sheet: float = 2.36
    vessel_wall: float = 3.43
    endocardium: float = 2.4
    jelly: float = 3.3
    myocardium: float = 3.19
    vessel_blood: float = 1.44
    heart_blood: float = 1.32
    heart_core_gain: float = 0.61
    core_um: float = 44.1
    deep_wall_gain: float = -0.22
    sheet_um: float = 18.1
    coelom_um: float = 37.0
    pericardium_um: float = 94.0
    vessel_roof_um: float = 15.4
    vessel_floor_um: float = 26.6
    endocardium_um: float = 4.4
    jelly_um: float = 11.1
    heart_roof_um: float = 43.4
    heart_floor_um: float = 52.5
    heart_radius_um: float = 36.0
    blood_loss_per_mm: float = 1.33
    wall_loss_per_mm: float = 1.82
    sheet_loss_per_mm: float = 1.55
    body_loss_per_mm: float = 0.42
    noise_floor: float = -2.2
    speckle_average_vox: float = 0.8
    speckle_grain_vox: float = 0.0
    blood_speckle: float = 0.5
    blur_vox: float = 0.37
    body_texture: float = 0.45
    wall_texture: float = 0.1
    texture_um: float = 9.0
    black: float = -2.3
    white: float = 3.22
    decoys: Decoys = Decoys()  # noqa: RUF009 - frozen


_OCT = Optics(decoys=ALL_DECOYS, speckle_grain_vox=0.65, speckle_average_vox=0.75)

#: By name: ``oct`` has all decoys and the grain of real speckle, ``plain`` neither; the others are ``oct`` with one
#: decoy.
PRESETS = {
    "oct": _OCT,
    "plain": Optics(),
    **{name: replace(_OCT, decoys=only([name])) for name in DECOYS},
}

#: How many times as far `varied` goes around a preset. Fitted: a random forest that was taught on some phantoms is to
#: know others as badly as tissue of other embryos.
VARIATION = {name: 1.0 if name == "plain" else 1.75 for name in PRESETS}

#: How far `varied` goes, as standard deviations: of an addition, and of the logarithm of a factor.
_SHIFTS = {
    "medium": 0.2,
    "coelom": 0.2,
    "pericardium": 0.2,
    "body": 0.2,
    "sheet": 0.2,
    "vessel_wall": 0.2,
    "endocardium": 0.2,
    "jelly": 0.2,
    "myocardium": 0.2,
    "vessel_blood": 0.12,
    "heart_blood": 0.12,
    "heart_core_gain": 0.08,
    "deep_wall_gain": 0.15,
    "noise_floor": 0.2,
    "black": 0.1,
    "white": 0.1,
}
_FACTORS = {
    "sheet_um": 0.15,
    "coelom_um": 0.3,
    "pericardium_um": 0.15,
    "vessel_roof_um": 0.15,
    "vessel_floor_um": 0.15,
    "endocardium_um": 0.2,
    "jelly_um": 0.2,
    "heart_roof_um": 0.15,
    "heart_floor_um": 0.15,
    "blood_loss_per_mm": 0.2,
    "wall_loss_per_mm": 0.2,
    "sheet_loss_per_mm": 0.2,
    "body_loss_per_mm": 0.3,
    "speckle_average_vox": 0.1,
    "blood_speckle": 0.1,
    "blur_vox": 0.2,
    "body_texture": 0.3,
    "wall_texture": 0.3,
    "texture_um": 0.2,
}
_FARTHEST = 2.0


def varied(optics: Optics, rng: np.random.Generator, strength: float = 1.0) -> Optics:
    """Return optics drawn around the given ones, for training on more than one scanner and embryo.

    Reflectivities and gains get a normal addition, lengths, losses and noise a log-normal factor, none beyond two
    standard deviations. Voxel size, the calibre that tells heart from vessel, and the shape of blood's core
    stay.

    Parameters
    ----------
    optics : Optics
    rng : numpy.random.Generator
    strength : float
        Multiplies every standard deviation; 0 changes nothing.

    Returns
    -------
    Optics

    Examples
    --------
    >>> a, b = (varied(Optics(), np.random.default_rng(seed)) for seed in (1, 2))
    >>> a != b, a.spacing_um == b.spacing_um, varied(Optics(), np.random.default_rng(1)) == a
    (True, True, True)
    """
    drawn = np.clip(rng.standard_normal(len(_SHIFTS) + len(_FACTORS)), -_FARTHEST, _FARTHEST) * strength
    shifts, factors = drawn[: len(_SHIFTS)], drawn[len(_SHIFTS) :]
    changed = {}
    for (name, sd), x in zip(_SHIFTS.items(), shifts, strict=True):
        changed[name] = getattr(optics, name) + sd * float(x)
    for (name, sd), x in zip(_FACTORS.items(), factors, strict=True):
        changed[name] = getattr(optics, name) * math.exp(sd * x)
    # Four digits: the same on every machine.
    decoys = varied_decoys(optics.decoys, rng.spawn(1)[0], strength)
    return replace(optics, decoys=decoys, **{name: round(value, 4) for name, value in changed.items()})
