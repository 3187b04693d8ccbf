"""The steps that tell how bright a volume on a disk is, and even it: to the bit as in memory, whoever does them.

Of the whole volume are its mean and standard deviation, and what it is evened by, which is averaged along Y and X plane
by plane and along Z column by column, and lies on the disk. ::

    image -> sums, squares                              of planes, for mean and standard deviation
    image -> sample; within -> within.k; across -> around.k    once for each of the surroundings
    image, around.k -> sums_evened, squares_evened      where the evened image is normalised again

Then `LightWork.seen` gives any box, normalised and evened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micronet.networks.evening import Evening, sampled, sampled_bytes
from micronet.networks.normalize import plane_squares, plane_sum, standardize
from micronet.segment.plane_work import PlaneWork
from micronet.segment.shelf import Shelf

__all__ = ["Light", "LightWork", "averaged_rows", "light_bytes"]

Array = NDArray[np.float32]
Box = tuple[slice, ...]
Size = tuple[int, int, int]

# Columns along Z are gathered as far as that takes this.
_COLUMN_BYTES = 16 << 20
# Bytes of a voxel while it is averaged along Z: as stored, and before and after in double precision; of a plane.
_AVERAGED, _PLANE = 28, 44


def averaged_rows(shape: Size) -> int:
    """Return how many rows are averaged along Z at once."""
    return min(shape[1], max(1, _COLUMN_BYTES // (_AVERAGED * shape[0] * shape[2])))


def light_bytes(shape: Size, *, evened: bool) -> int:
    """Return how many bytes a step takes."""
    columns = _AVERAGED * shape[0] * averaged_rows(shape) * shape[2]
    return max(_PLANE * shape[1] * shape[2], *((sampled_bytes(shape), columns) if evened else (0,)))


@dataclass(frozen=True)
class Light:
    """What is known of the whole image, and every step is told.

    `evenings` are by the surroundings of the plan; `evened` are mean and standard deviation after each, where a member
    sees it normalised again.
    """

    mean: float
    sd: float
    evenings: tuple[Evening, ...] = ()
    evened: tuple[tuple[float, float] | None, ...] = ()


class LightWork(PlaneWork):
    """What a process needs to do these steps.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X).
    size : (Z, Y, X)
        Of what is looked at of it.
    spacing_um : (z, y, x)
    around_um : sequence of float
        Surroundings that it is evened by, in µm.
    rows : int
        So many are averaged along Z at once.
    """

    def __init__(
        self, shelf: Shelf, size: Size, spacing_um: Sequence[float], around_um: Sequence[float], rows: int
    ) -> None:
        super().__init__(shelf)
        self.size, self.spacing_um, self.around_um, self.rows = size, spacing_um, tuple(around_um), rows

    @property
    def columns(self) -> int:
        """Number of steps that average along Z."""
        return -(-self.size[1] // self.rows)

    def make_surroundings(self, k: int, light: Light) -> None:
        """Make the arrays of what `within` and `across` write."""
        depth, height, width = self.size
        crosses = light.evenings[k].crosses_planes
        self.shelf.make(f"within.{k}" if crosses else f"around.{k}", self.size, (1, height, width))
        if crosses:
            self.shelf.make(f"around.{k}", self.size, (depth, self.rows, width))

    def sample(self, number: int, light: Light) -> Array:
        """Return the voxels of some planes from which it is told how bright the image is."""
        return np.stack([sampled(plane, self.size) for plane in self._seen_planes(number, light, None)])

    def within(self, number: int, light: Light, k: int) -> None:
        """Average the logarithms of some planes within them."""
        evening = light.evenings[k]
        into = self.shelf[f"within.{k}" if evening.crosses_planes else f"around.{k}"]
        for z, plane in zip(self._planes(number), self._seen_planes(number, light, None), strict=True):
            into[z : z + 1] = evening.within(evening.logarithm(plane))[None].astype(np.float32)

    def across(self, number: int, light: Light, k: int) -> None:
        """Average some rows of all planes along Z."""
        depth, height, width = self.size
        first = number * self.rows
        columns = (slice(0, depth), slice(first, min(first + self.rows, height)), slice(0, width))
        found = light.evenings[k].across(self.shelf[f"within.{k}"][columns])
        self.shelf[f"around.{k}"][columns] = found.astype(np.float32)

    def sums_evened(self, number: int, light: Light, k: int) -> list[float]:
        """Return what `plane_sum` gives of each of some planes of the evened image."""
        return [plane_sum(plane) for plane in self._seen_planes(number, light, k)]

    def squares_evened(self, number: int, mean: float, light: Light, k: int) -> list[tuple[float, int]]:
        """Return what `plane_squares` gives of each of some planes of the evened image."""
        return [plane_squares(plane, mean) for plane in self._seen_planes(number, light, k)]

    def _seen_planes(self, number: int, light: Light, k: int | None) -> Iterator[Array]:
        _, height, width = self.size
        for z in self._planes(number):
            yield self.seen((slice(z, z + 1), slice(0, height), slice(0, width)), light, k)[0]

    def seen(self, box: Box, light: Light, k: int | None) -> Array:
        """Return a box of the image, normalised, and evened where that is asked for."""
        image = standardize(self.shelf["image"][box], light.mean, light.sd)
        if k is None:
            return image
        for plane, smooth in zip(image, self.shelf[f"around.{k}"][box], strict=True):
            light.evenings[k].logarithm(plane, plane)
            plane -= smooth
        return image
