"""The steps of a segmentation in tiles, as one process or many do them: each reads boxes of arrays, and writes others.

Every array is written in pieces that belong to one step of one number, so that steps of a kind may be done in any
order, by any process, twice. What a pass writes has its number in its name: nobody who was thought lost and is not can
touch what a later pass reads. ::

    image -> sums, squares                              of planes, for mean and standard deviation
    image, probability.0 -> encode -> pooled, mask.0    once for all passes; probability.0 is what to start from
    pooled, mask.k-1 -> down -> lowest                  pass k, quarter tiles
    lowest -> bottom -> bottom                          one step
    pooled, mask.k-1, bottom -> up -> x3                quarter tiles
    image, x3, probability.k-1 -> decode -> probability.k, mask.k
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from micronet.networks import engine
from micronet.networks.normalize import standardize
from micronet.networks.padding import Padding
from micronet.segment.aside import Aside
from micronet.segment.plane_work import PlaneWork
from micronet.segment.refine import MASK, Change
from micronet.segment.shelf import Shelf
from micronet.segment.tile_plan import TilePlan

__all__ = ["TileWork"]

Box = tuple[slice, ...]


class TileWork(PlaneWork):
    """What a process needs to do any step.

    Parameters
    ----------
    shelf : Shelf
        Holds ``image`` (Z, Y, X), and ``start`` where there is a mask to start from.
    plan : TilePlan
        Of `inside`, padded.
    parameters : mapping of str to Tensor
        Of the network.
    inside : (Z, Y, X)
        Voxels that are looked at.
    refines : bool
        The network takes a mask.
    starts : bool
        There is a ``start``.
    alone : bool
        This process does the steps of each kind in their order: the next tile is read while one is computed, and the
        last one written.
    """

    def __init__(
        self,
        shelf: Shelf,
        plan: TilePlan,
        parameters: Mapping[str, Tensor],
        inside: tuple[int, int, int],
        *,
        refines: bool,
        starts: bool,
        alone: bool = False,
    ) -> None:
        super().__init__(shelf)
        self.plan, self.inside = plan, inside
        self._parameters, self._refines, self._starts = parameters, refines, starts
        self._padding = Padding(inside)
        if self._padding.shape != plan.size:
            raise AssertionError(f"a plan for {plan.size}, not {self._padding.shape}")
        padded = [any(width) for width in self._padding.widths]
        if any(short and side < length for short, side, length in zip(padded, plan.sides, plan.size, strict=True)):
            raise AssertionError(f"tiles of {plan.sides} cut an axis that is mirrored")
        self._fine, self._coarse = engine.tiles_of(plan.size, plan.sides, plan.coarse_sides)
        self._steps = functools.lru_cache(maxsize=1)(self._new_steps)
        self._pools = functools.lru_cache(maxsize=1)(lambda k: self._new_steps(k, 0.0, 1.0))
        self._kind = ""
        self._aside = Aside(alone)

    def make_coarse(self) -> None:
        """Make the arrays of the coarse levels but for the masks'."""
        sides = self._coarse_pieces()
        for name, shape in engine.tile_store_shapes(self.plan.size).items():
            if name != "mask":
                self.shelf.make(name, shape, sides[name])

    def make_pass(self, number: int) -> None:
        """Make the arrays that pass `number` writes; 0 is what is done before the first."""
        if self._refines:
            self.shelf.make(f"mask.{number}", engine.tile_store_shapes(self.plan.size)["mask"], self._pooled_pieces(1))
        if number:  # an axis that is mirrored is whole in a tile, so that tiles are pieces of the volume too
            self.shelf.make(f"probability.{number}", self.inside, self.plan.sides)

    def encode(self, number: int, mean: float, sd: float) -> None:
        """Do what does not depend on a pass, for a tile."""
        self._begin("encode")
        tile = self._fine[number]
        steps = self._steps(0, mean, sd)
        self._expect(number, None, mean, sd)
        steps.encode(tile)
        if self._refines:
            steps.pool(tile, self._mask_reader(0), MASK)

    def down(self, number: int, k: int) -> None:
        """Do the way down of pass `k` for a tile of the quarter scale."""
        self._begin("coarse")
        self._steps(k - 1, 0.0, 1.0).down(self._coarse[number])

    def bottom(self, number: int, k: int) -> None:
        """Do the lowest level of pass `k`."""
        self._begin("coarse")
        self._steps(k - 1, 0.0, 1.0).bottom()

    def up(self, number: int, k: int) -> None:
        """Do the way up of pass `k` for a tile of the quarter scale."""
        self._begin("coarse")
        self._steps(k - 1, 0.0, 1.0).up(self._coarse[number])

    def decode(self, number: int, k: int, mean: float, sd: float, last: bool) -> Change:
        """Compute the probability after pass `k` for a tile, and what the next pass needs of it, if there is one."""
        self._begin("decode")
        tile = self._fine[number]
        # Read once: for the network, and to see what changed.
        window = self._aside.get(("mask", number), lambda: self._mask_reader(k - 1)(tile.window))
        mask = (lambda _: window) if self._refines else None
        steps = self._steps(k - 1, mean, sd)
        self._expect(number, k - 1, mean, sd)
        found = steps.decode(tile, mask, MASK)
        place, now = self._padding.unpad_box(tile.core, found)
        before = self._padding.unpad_box(tile.core, window[tile.inside])[1]
        now, change = now.copy(), Change()

        def keep() -> None:
            if now.size:
                change.add(before, now)
                self.shelf[f"probability.{k}"][place] = now

        self._aside.later(keep)
        if self._refines and not last:
            core = self._padding.pad_box(lambda _: now, tile.core)
            self._pools(k).pool(tile, lambda _: core, MASK)
        if number == self.fine - 1:
            self._aside.finish()
        return change

    @property
    def coarse(self) -> int:
        """Number of tiles of the quarter scale."""
        return len(self._coarse)

    @property
    def fine(self) -> int:
        """Number of tiles."""
        return len(self._fine)

    def _begin(self, kind: str) -> None:
        if kind != self._kind:  # steps of one kind leave their memory to each other
            engine.forget_memory()
            self._aside.forget()
        self._kind = kind

    def _expect(self, number: int, k: int | None, mean: float, sd: float) -> None:
        """Begin to read what the tile after this one needs: the image, and the probability after pass `k`."""
        if number + 1 < self.fine:
            window = self._fine[number + 1].window
            self._aside.expect(_key(window), lambda: self._normalised(window, mean, sd))
            if k is not None:
                self._aside.expect(("mask", number + 1), lambda: self._mask_reader(k)(window))

    def _normalised(self, box: Box, mean: float, sd: float) -> NDArray[np.float32]:
        return self._padding.pad_box(lambda part: standardize(self.shelf["image"][part], mean, sd), box)

    def _mask_reader(self, k: int) -> Any:
        return functools.partial(self._padding.pad_box, functools.partial(self._probability, k))

    def _probability(self, k: int, box: Box) -> NDArray[np.float32]:
        """Return a box of the probability after pass `k`."""
        if k == 0 and not self._starts:
            return np.zeros([part.stop - part.start for part in box], np.float32)
        name = f"probability.{k}" if k else "start"
        return self.shelf[name][box].astype(np.float32, copy=False)  # type: ignore[no-any-return]

    def _new_steps(self, k: int, mean: float, sd: float) -> Any:
        """Return the engine's steps of the pass after `k`."""
        shelf = self.shelf

        def image(box: Box) -> NDArray[np.float32]:
            return self._aside.get(_key(box), lambda: self._normalised(box, mean, sd))  # type: ignore[no-any-return]

        stores = engine.tile_stores(
            self.plan.size, self._refines, lambda name: shelf[f"mask.{k}" if name == "mask" else name]
        )
        return engine.tile_steps(self._parameters, self.plan.size, image, stores)

    def _pooled_pieces(self, channels: int) -> tuple[int, int, int, int]:
        z, y, x = self.plan.sides
        return z // 4, channels, y // 4, x // 4

    def _coarse_pieces(self) -> dict[str, tuple[int, int, int, int]]:
        z, y, x = self.plan.coarse_sides
        whole = math.prod(self.plan.size)
        return {
            "pooled": self._pooled_pieces(4),
            "x3": (z, 4, y, x),
            "lowest": (z // 4, 4, y // 4, x // 4),
            "bottom": (whole, 4, whole, whole),
        }


def _key(box: Box) -> tuple[Any, ...]:
    return tuple((part.start, part.stop) for part in box)
