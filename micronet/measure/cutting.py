"""Where a map is cut: thresholds found in the map itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting

__all__ = ["OTSU", "Cut", "cut_at"]

_PERCENTILE = re.compile(r"percentile:([0-9]{1,2}(?:\.[0-9]{1,6})?)", re.ASCII)
#: Bars of the histogram that Otsu's and the triangle's threshold are found in.
_BARS = 256


@dataclass(frozen=True)
class Cut:
    """A way to find a threshold; `percent` is of ``percentile`` only."""

    method: Literal["otsu", "triangle", "percentile"] = "otsu"
    percent: float = 95.0

    @classmethod
    def of(cls, text: str) -> Self:
        """Return what a text says: otsu, triangle, or percentile:P.

        >>> Cut.of("percentile:97.5")
        Cut(method='percentile', percent=97.5)
        """
        if text == "otsu":
            return cls("otsu")
        if text == "triangle":
            return cls("triangle")
        if found := _PERCENTILE.fullmatch(text):
            return cls("percentile", float(found[1]))
        raise InputError(
            f"'{text}' is no way to find a threshold {setting('threshold_method')}: otsu, triangle or percentile:95"
        )

    def __str__(self) -> str:
        return f"percentile:{self.percent:g}" if self.method == "percentile" else self.method


OTSU = Cut()


def cut_at(values: NDArray[Any], how: Cut) -> float:
    """Return the threshold of a map: what is above it stands out.

    Parameters
    ----------
    values : ndarray of any shape, real and finite
    how : Cut
        Otsu's threshold (1979) parts the values so that the two means lie farthest apart in relation to the spread
        around them; the triangle's (Zack et al. 1977) is where the histogram is farthest below the line from its peak
        to the end of its longer tail; a percentile leaves so many percent below.

    Returns
    -------
    float
        Of a map that is constant its value, so that nothing is above.
    """
    if values.size == 0:
        return math.nan
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    if how.method == "percentile":
        return float(np.percentile(values, how.percent))
    counts, edges = np.histogram(values, _BARS, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    return float(centres[_otsu(counts, centres) if how.method == "otsu" else _triangle(counts)])


def _otsu(counts: NDArray[Any], centres: NDArray[Any]) -> int:
    """Return the bar that ends the lower class."""
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return int(np.argmax(below * above * apart**2))


def _triangle(counts: NDArray[Any]) -> int:
    """Return the bar that is farthest from the line between the peak and the farther end."""
    peak = int(np.argmax(counts))
    turned = peak > len(counts) - 1 - peak  # the longer tail goes to the left
    if turned:
        counts, peak = counts[::-1], len(counts) - 1 - peak
    tail = counts[peak:].astype(np.float64)
    line = tail[0] + (tail[-1] - tail[0]) * np.arange(len(tail)) / max(len(tail) - 1, 1)
    bar = peak + int(np.argmax(line - tail))
    return len(counts) - 1 - bar if turned else bar
