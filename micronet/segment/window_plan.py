"""Windows: the boxes in which a volume goes through a larger network, what a person may ask of them, what they take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from micronet.core.errors import InputError, setting
from micronet.io.zarr_write import boxes_of
from micronet.networks.registry import classes_of, dimensions_of, network_of

__all__ = ["BLENDS", "WindowWish", "Windows", "WindowsPlan"]

Size = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Blend = Literal["gaussian", "constant"]

#: How windows that overlap may be averaged.
BLENDS = ("gaussian", "constant")
#: An overlap of more computes a voxel a thousand times.
MOST_OVERLAP = 0.9
_OVERLAP = 0.5
# Sides that are tried where nobody says, the largest that fits is taken; of a 2-D network in Y and X.
_SIDES = {3: (128, 96, 64, 48, 32), 2: (512, 384, 256, 192, 128, 64)}


@dataclass(frozen=True)
class WindowWish:
    """What a person asks of windows; None is what is done by itself.

    Parameters
    ----------
    window : int, optional
        Side in voxels; by default the largest of some that fits into memory.
    overlap : float, optional
        Part of its side by which a window overlaps the next, 0 to 0.9; 0.5 by default.
    blend : {"gaussian", "constant"}, optional
        What a window's voxels count where windows overlap: less the nearer to its faces (default), or the same.
    border : int, optional
        Voxels of context around inner cubes, each of which one window decides alone: nothing overlaps.
    """

    window: int | None = None
    overlap: float | None = None
    blend: Blend | None = None
    border: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError for what makes no sense."""
        if self.border is not None:
            clash = [name for name in ("overlap", "blend") if getattr(self, name) is not None]
            if clash:
                raise InputError(
                    f"with a border every voxel is decided by one window, and nothing overlaps: leave one out "
                    f"{setting('border', *clash)}"
                )
            if self.border < 0:
                raise InputError(f"a border is not negative, found {self.border} {setting('border')}")
            if self.window is not None and 2 * self.border >= self.window:
                raise InputError(
                    f"windows of {self.window} voxels have nothing inside a border of {self.border} on each side "
                    f"{setting('window', 'border')}"
                )
        if self.window is not None and self.window < 1:
            raise InputError(f"a window has at least 1 voxel a side, found {self.window} {setting('window')}")
        if self.overlap is not None and not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(f"overlap must lie in 0 to {MOST_OVERLAP}, found {self.overlap} {setting('overlap')}")
        if self.blend is not None and self.blend not in BLENDS:
            raise InputError(f"blend must be one of {', '.join(BLENDS)}, found '{self.blend}' {setting('blend')}")

    @property
    def asked(self) -> tuple[str, ...]:
        """The settings that were given."""
        return tuple(name for name in ("window", "overlap", "blend", "border") if getattr(self, name) is not None)

    def check(self, model: nn.Module) -> None:
        """Raise InputError where windows are asked for of a network that does not go through them."""
        network = network_of(model)
        if self.asked and network.tiling != "windows":
            how = "whole or in slabs with the same bits" if network.tiling == "slabs" else "whole"
            raise InputError(
                f"{network.title} takes volumes {how}, windows are of the larger networks: leave them out "
                f"{setting(*self.asked)}"
            )

    def candidates(self, model: nn.Module, shape: Size) -> Iterator[Windows]:
        """Yield the windows that may be taken for a volume, in the order in which they are tried.

        The largest first, with the result in memory, then on the disk. InputError where a border leaves nothing.
        """
        flat, multiple = dimensions_of(model) == 2, _multiple(model)
        usual = dict.fromkeys(-(-side // multiple) * multiple for side in _SIDES[2 if flat else 3])
        for side in [*usual] if self.window is None else [self.window]:
            wanted = (1 if flat else side, side, side)
            sides = cast(Size, tuple(min(side, length) for side, length in zip(wanted, shape, strict=True)))
            for on_disk in (False, True):
                one = Windows(
                    shape,
                    sides,
                    0.0 if self.border is not None else _OVERLAP if self.overlap is None else self.overlap,
                    self.blend or "gaussian",
                    self.border,
                    multiple,
                    on_disk,
                )
                if not one.cuts_nothing:
                    yield one
                elif self.window is not None:
                    raise InputError(
                        f"windows of {side} voxels have nothing inside a border of {self.border} on each side, in "
                        f"steps of {multiple} voxels as this network sees them {setting('window', 'border')}"
                    )


@dataclass(frozen=True)
class Windows:
    """How a volume is cut.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of what is looked at.
    sides : (Z, Y, X)
        Of a window, along no axis longer than the volume.
    overlap, blend, border
        As `WindowWish`.
    multiple : int
        Voxels of a side that the network halves evenly: inner cubes begin at multiples of it, so that a window sees
        the same grid as the whole volume would.
    on_disk : bool
        Whether the result lies on the disk.
    """

    shape: Size
    sides: Size
    overlap: float
    blend: Blend
    border: int | None
    multiple: int
    on_disk: bool = False

    @property
    def averages(self) -> bool:
        """Whether there are several windows, that overlap and are averaged."""
        return self.border is None and self.count > 1

    @property
    def steps(self) -> Size:
        """From one window to the next along (Z, Y, X); with a border, sides of the inner cubes."""
        return cast(Size, tuple(self._step(axis) for axis in range(3)))

    @property
    def cuts_nothing(self) -> bool:
        """Whether a border leaves no inner cube."""
        return min(self.steps) < 1

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(self._cuts(axis)) for axis in range(3))

    @property
    def sides_words(self) -> str:
        """Their size for a person."""
        sides = " x ".join(map(str, self.sides))
        return f"one window of {sides} voxels" if self.count == 1 else f"{self.count:,} windows of {sides} voxels"

    @property
    def words(self) -> str:
        """How a volume is cut, for a person."""
        if self.count == 1:
            return self.sides_words
        if self.border is not None:
            inner = " x ".join(map(str, self.steps))
            return f"{self.sides_words}, of each the inner {inner}, nothing averaged"
        return f"{self.sides_words}, overlap {self.overlap:g}, weights {self.blend}"

    @property
    def record(self) -> dict[str, Any]:
        """How a volume was cut, for a record."""
        averaged = {"overlap": self.overlap, "blend": self.blend}
        how = averaged if self.border is None else {"border": self.border}
        return {"sides_zyx": list(self.sides), **how, "count": self.count}

    def rows(self) -> Iterator[tuple[slice, list[tuple[Box, Box]]]]:
        """Yield the windows that share their planes, and those planes; the uppermost first.

        Of each window the box that is looked at, and that of which its result is taken.
        """
        alongs = self.cuts
        for seen_z, taken_z in alongs[0]:
            boxes = [
                ((seen_z, seen_y, seen_x), (taken_z, taken_y, taken_x))
                for (seen_y, taken_y), (seen_x, taken_x) in itertools.product(*alongs[1:])
            ]
            yield taken_z, boxes

    @property
    def cuts(self) -> list[list[tuple[slice, slice]]]:
        """Along each axis, what each window sees and what is taken of it."""
        return [self._cuts(axis) for axis in range(3)]

    def window_bytes(self, model: nn.Module) -> int:
        """Return what it takes to look at a window: its input, the weights of its voxels, its result times these."""
        classes, network = len(classes_of(model)), network_of(model)
        return math.prod(self.sides) * 4 * (2 + classes) + network.pass_bytes(model, self.sides)

    def work_bytes(self, model: nn.Module) -> int:
        """Return what it takes to go through all windows, beside the volume as it is stored."""
        window, classes = self.window_bytes(model), len(classes_of(model))
        plane = 4 * (classes + 1) * math.prod(self.shape[1:])  # sums, and the sums of weights
        if self.on_disk:
            return window + self.sides[0] * plane
        return window + self.shape[0] * (plane + 4 * math.prod(self.shape[1:]))

    def _step(self, axis: int) -> int:
        side, length = self.sides[axis], self.shape[axis]
        if side == length:
            return side
        if self.border is None:
            return max(1, int(side * (1 - self.overlap)))
        return side if side == 1 else (side - 2 * self._context) // self.multiple * self.multiple

    @property
    def _context(self) -> int:
        """The border, no less than a multiple that the network halves evenly."""
        return -(-(self.border or 0) // self.multiple) * self.multiple

    def _cuts(self, axis: int) -> list[tuple[slice, slice]]:
        """Return, along an axis, what each window sees and what is taken of it."""
        side, length, step = self.sides[axis], self.shape[axis], self._step(axis)
        if side == length:
            return [(slice(0, length), slice(0, length))]
        if self.border is None:  # as MONAI: the last ones move inwards
            count = -(-(length - side) // step) + 1
            starts = (min(number * step, length - side) for number in range(count))
            return [(slice(start, start + side), slice(start, start + side)) for start in starts]
        context = 0 if side == 1 else self._context
        cuts = []
        for first in range(0, length, step):
            last = min(first + step, length)
            cuts.append((slice(max(first - context, 0), min(last + context, length)), slice(first, last)))
        return cuts


@dataclass(frozen=True)
class WindowsPlan:
    """The windows in which a larger network looks at a store; `needed` and `scratch_bytes` as of a `TilePlan`.

    `several` processes write what each window says to the disk, of which boxes are averaged then; one holds the sums of
    the planes that windows still reach.
    """

    windows: Windows
    needed: int
    scratch_bytes: int
    several: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> WindowsPlan:
        """Return what ``asdict`` tells, by way of JSON."""
        windows: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in told["windows"].items()
        }
        return cls(**{**told, "windows": Windows(**windows)})

    @property
    def count(self) -> int:
        """Number of windows, and of boxes that are averaged apart."""
        return self.windows.count + (len(self.boxes) if self.several and self.windows.averages else 0)

    def done(self, stages: Mapping[str, Any]) -> int:
        """Return how many of them were gone through in stages that are noted."""
        return self.windows.count * ("look" in stages)

    @property
    def boxes(self) -> list[Box]:
        """Boxes of the result that are averaged, or decided by a window, one after the other."""
        return list(boxes_of(self.windows.shape, self.sides))

    @property
    def sides(self) -> Size:
        """Their sides."""
        return self.windows.sides if self.windows.averages else self.windows.steps

    @property
    def in_memory(self) -> tuple[str, ...]:
        """No array is held in memory."""
        return ()

    @property
    def record(self) -> dict[str, Any]:
        """Nothing: `Memory` has them."""
        return {}

    @property
    def words(self) -> str:
        """The same for a person."""
        return self.windows.words


def _multiple(model: nn.Module) -> int:
    return int(2 ** getattr(model, "halvings", 0))
