"""Thin stacks: an axis that is too short for the networks is mirrored, and what they say is cut back to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from micronet.networks.models import MINIMUM_AXIS

__all__ = ["Padding"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Padding:
    """What a volume lacks to be looked at: the one place that decides, pads and cuts back.

    An axis below `least` voxels is mirrored at both ends (``numpy.pad`` mode ``"symmetric"``,
    which repeats the last voxel and goes on from there, again and again where the axis is shorter than its margins),
    so that the volume lies in the middle; of an odd number the larger half comes after it. Longer axes are left alone.

    Parameters
    ----------
    inside : (Z, Y, X)
        Voxels of the volume, at least one along each axis.
    least : int
        The shortest axis that the network takes, as the registry says.

    Examples
    --------
    >>> padding = Padding((30, 40, 50))
    >>> padding.shape, padding.pad(np.zeros((30, 40, 50))).shape
    ((32, 40, 50), (32, 40, 50))
    """

    inside: tuple[int, ...]
    least: int = MINIMUM_AXIS

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """Voxels that are put before and after, along each axis."""
        lacking = (max(self.least - length, 0) for length in self.inside)
        return tuple((lacks // 2, lacks - lacks // 2) for lacks in lacking)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of what the network looks at."""
        z, y, x = (max(self.least, length) for length in self.inside)
        return z, y, x

    @property
    def needed(self) -> bool:
        """Whether an axis is too short."""
        return self.shape != tuple(self.inside)

    @property
    def note(self) -> str | None:
        """One line for the person, None where nothing is padded."""
        short = [(axis, str(n)) for axis, n in zip("ZYX", self.inside, strict=True) if n < self.least]
        if not short:
            return None
        axes, lengths = (", ".join(words) for words in zip(*short, strict=True))
        which = f"axis {axes} has" if len(short) == 1 else f"axes {axes} have"
        return (
            f"{which} {lengths} planes: padded to {self.least} by mirroring for the network; the result has {lengths}"
        )

    def pad(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return an array (Z, Y, X) of the shape `inside` with its mirrored margins; itself where there are none."""
        return np.pad(array, self.widths, "symmetric") if self.needed else array

    def unpad(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return the inside of an array of the padded shape, contiguous; itself where there are no margins."""
        if not self.needed:
            return array
        inside = zip(self.widths, self.inside, strict=True)
        return np.ascontiguousarray(array[tuple(slice(before, before + length) for (before, _), length in inside)])

    def inset(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return an array of the shape `inside` with zeros around it."""
        return np.pad(array, self.widths)

    def pad_planes(self, read: Callable[[int, int], NDArray[_Scalar]], first: int, stop: int) -> NDArray[_Scalar]:
        """Return the planes from `first` up to `stop` of the padded volume.

        `read` gives such a range of planes of the volume, at the shape `inside`; all of them where Z is padded, which
        are few then.
        """
        if not self.needed:
            return read(first, stop)
        if any(self.widths[0]):
            return self.pad(read(0, self.inside[0]))[first:stop]
        return np.pad(read(first, stop), ((0, 0), *self.widths[1:]), "symmetric")

    def unpad_planes(self, first: int, planes: NDArray[Any]) -> tuple[int, NDArray[Any]]:
        """Return which plane of the volume is the first of these padded ones, and the insides of its planes."""
        if not self.needed:
            return first, planes
        begin = self.widths[0][0]
        here = slice(max(begin - first, 0), max(begin + self.inside[0] - first, 0))
        (above, _), (left, _) = self.widths[1:]
        return max(first - begin, 0), planes[here, above : above + self.inside[1], left : left + self.inside[2]]

    def pad_box(
        self, read: Callable[[tuple[slice, ...]], NDArray[_Scalar]], box: tuple[slice, ...]
    ) -> NDArray[_Scalar]:
        """Return a box of the padded volume; `read` gives a box of the volume, whole along the axes that are padded."""
        if not self.needed:
            return read(box)
        short = [any(width) for width in self.widths]
        wanted = zip(short, box, self.inside, strict=True)
        found = read(tuple(slice(0, length) if padded else part for padded, part, length in wanted))
        found = np.pad(found, self.widths, "symmetric")  # of axes that are long enough nothing
        return found[tuple(part if padded else slice(None) for padded, part in zip(short, box, strict=True))]

    def unpad_box(self, box: tuple[slice, ...], found: NDArray[Any]) -> tuple[tuple[slice, ...], NDArray[Any]]:
        """Return which box of the volume lies in this one of the padded volume, and its voxels; it may be empty."""
        place, inside = [], []
        for part, (before, _), length in zip(box, self.widths, self.inside, strict=True):
            first = min(max(part.start - before, 0), length)
            stop = max(min(part.stop - before, length), first)
            place.append(slice(first, stop))
            inside.append(slice(first + before - part.start, stop + before - part.start))
        return tuple(place), found[tuple(inside)]
