"""What a distortion of a mask loses and gains; apart from warp.py, as it must be there without numba too."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Edits"]


@dataclass(frozen=True)
class Edits:
    """Thresholds and strengths of the formulas in warp.py, in units of a field of variance 1."""

    lose_above: float
    lost: float
    gain_above: float
    gained: float
    tube: float
    edge: float
