"""What looks like a lumen and is none, and lumens that do not look like one: how much of each a phantom has.

Every decoy has an amount, at 0 of which it is absent, and lengths and levels. All of them are *fitted*: as much as the
published networks, which saw only real OCT, let pass (docs/phantoms.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from micronet.core.errors import InputError

__all__ = ["ALL_DECOYS", "DECOYS", "Decoys", "only", "varied_decoys"]


@dataclass(frozen=True)
class Decoys:
    """How much of each decoy there is; as given, none.

    Lengths are in µm, reflectivities and losses natural logarithms of intensity, counts are per mm² seen from above,
    shares parts of a whole.

    Parameters
    ----------
    somites_per_mm2, somite_um : float
        Balls of tissue with the grey of blood in the embryo's body, and their diameter.
    head_fold_share, head_fold_um : float
        Share of the body that is folded sheets with the grey of blood, and the distance over which they fold.
    grey : float
        How much brighter than the blood of a vessel somites and folds are.
    amnion, amnion_um, amnion_below_um : float
        How much brighter than blood the amnion is at most, 0 without it; its thickness, and how far below the yolk sac
        it lies.
    crack_share, crack_um : float
        Share of the body that is empty clefts, as dark as the coelom, and the distance over which they wind.
    empty_share, empty_loss, blood_um : float
        Share of the lumens that hold plasma without cells, how much dimmer that is than blood, and the length over
        which blood changes.
    still_share : float
        Share of the lumens where blood does not move: it is speckled as tissue is.
    shadows_per_mm2, shadow_um, shadow_loss : float
        What lies in the yolk sac and throws a shadow on all below; its diameter and what it takes away.
    faded_share, faded_um : float
        Share of the walls that is not brighter than what lies behind, and the length over which walls fade.
    lines_per_mm2, line_gain : float
        Depth scans that a mirroring surface saturates, and how much brighter they are.
    motion_um : float
        Standard deviation of how far a B-scan (one plane of Z) is shifted along depth.
    bubbles_per_mm2, bubble_um : float
        Gas bubbles in the medium: a bright rim, nothing within, shadow below; their diameter.
    """

    somites_per_mm2: float = 0.0
    somite_um: float = 110.0
    head_fold_share: float = 0.0
    head_fold_um: float = 60.0
    grey: float = 0.0
    amnion: float = 0.0
    amnion_um: float = 9.0
    amnion_below_um: float = 70.0
    crack_share: float = 0.0
    crack_um: float = 50.0
    empty_share: float = 0.0
    empty_loss: float = 1.5
    blood_um: float = 60.0
    still_share: float = 0.0
    shadows_per_mm2: float = 0.0
    shadow_um: float = 50.0
    shadow_loss: float = 0.7
    faded_share: float = 0.0
    faded_um: float = 40.0
    lines_per_mm2: float = 0.0
    line_gain: float = 1.5
    motion_um: float = 0.0
    bubbles_per_mm2: float = 0.0
    bubble_um: float = 80.0


#: By name, the amounts of the preset: what is left out of this is absent.
DECOYS: dict[str, dict[str, float]] = {
    "somites": {"somites_per_mm2": 30.0},
    "head-folds": {"head_fold_share": 0.02},
    "amnion": {"amnion": 0.3},
    "cracks": {"crack_share": 0.08},
    "empty-vessels": {"empty_share": 0.005},
    "still-blood": {"still_share": 0.3},
    "shadows": {"shadows_per_mm2": 20.0},
    "faded-walls": {"faded_share": 0.015},
    "saturated-lines": {"lines_per_mm2": 30.0},
    "motion": {"motion_um": 0.7},
    "bubbles": {"bubbles_per_mm2": 2.0},
}


def only(names: Iterable[str]) -> Decoys:
    """Return the decoys of these names, in the amounts of the preset; none of the others.

    Raises
    ------
    InputError
        If a name is none of `DECOYS`.

    Examples
    --------
    >>> only([]) == Decoys(), only(["motion"]).motion_um > 0, only(["motion"]).crack_share
    (True, True, 0.0)
    """
    amounts: dict[str, float] = {}
    for name in names:
        if name not in DECOYS:
            raise InputError(f"'{name}' is no decoy; they are {', '.join(DECOYS)}")
        amounts |= DECOYS[name]
    return Decoys(**amounts)


#: All of them.
ALL_DECOYS = only(DECOYS)

#: How far `varied_decoys` goes: standard deviation of the logarithm of the factor of every amount.
_AMOUNT, _LENGTH, _GREY = 0.8, 0.25, 0.25
_FARTHEST = 2.0
_MOST_SHARE = 0.6


def varied_decoys(decoys: Decoys, rng: np.random.Generator, strength: float = 1.0) -> Decoys:
    """Return decoys drawn around the given ones: amounts, lengths and losses get a log-normal factor.

    What is absent stays absent. The same random numbers are drawn whatever is present.
    """
    changed = {}
    for name, value in vars(decoys).items():
        drawn = strength * float(np.clip(rng.standard_normal(), -_FARTHEST, _FARTHEST))
        if name == "grey":
            value = value + _GREY * drawn
        else:
            amount = name.endswith(("_share", "_mm2")) or name in ("motion_um", "amnion")
            value = value * math.exp((_AMOUNT if amount else _LENGTH) * drawn)
        if name.endswith("_share"):
            value = min(value, _MOST_SHARE)
        changed[name] = round(value, 4)
    return replace(decoys, **changed)
