"""The steps that tell mean and standard deviation of a volume on a disk, whoever does them."""

from __future__ import annotations

import math
from typing import Any, Protocol

from micronet.networks.normalize import plane_squares, plane_sum, statistics_of
from micronet.segment.shelf import Shelf

__all__ = ["STATISTICS_PLANES", "PlaneWork", "Runner", "statistics"]

#: Planes of one step of the statistics.
STATISTICS_PLANES = 16


class Runner(Protocol):
    """Does the steps of one kind, and returns what they give in the order of their numbers."""

    def __call__(self, step: str, count: int, *arguments: Any, ticks: bool = False) -> list[Any]:
        """Do the steps 0 to `count` - 1; `ticks` says whether each counts as a tile."""


class PlaneWork:
    """What a process needs to do these steps.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X).
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    @property
    def planes(self) -> int:
        """Number of steps of the statistics."""
        return -(-len(self.shelf["image"]) // STATISTICS_PLANES)

    def sums(self, number: int) -> list[float]:
        """Return what `plane_sum` gives of each of some planes."""
        self._begin("sums")
        return [plane_sum(self.shelf["image"][z : z + 1][0]) for z in self._planes(number)]

    def squares(self, number: int, mean: float) -> list[tuple[float, int]]:
        """Return what `plane_squares` gives of each of some planes."""
        self._begin("sums")
        return [plane_squares(self.shelf["image"][z : z + 1][0], mean) for z in self._planes(number)]

    def _planes(self, number: int) -> range:
        first = STATISTICS_PLANES * number
        return range(first, min(first + STATISTICS_PLANES, len(self.shelf["image"])))

    def _begin(self, kind: str) -> None:
        """Note that a step of a kind begins."""


def statistics(work: PlaneWork, run: Runner) -> tuple[float, float]:
    """Return what `image_statistics` does, to the bit: planes are added in their order, whoever summed them up."""
    image = work.shelf["image"]

    def squares(mean: float) -> list[tuple[float, int]]:
        return [plane for several in run("squares", work.planes, mean) for plane in several]

    sums = [plane for several in run("sums", work.planes) for plane in several]
    return statistics_of(math.prod(image.shape), sums, squares, lambda: image[0:1, 0:1, 0:1].flat[0])
