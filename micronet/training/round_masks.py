"""The distorted masks of a round, which a refining network is trained on; those of the next are made meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from micronet.training.distortion.distort import distort, sample_distortion, size_map
from micronet.training.streams import DISTORTION, stream

__all__ = ["RoundMasks"]


class RoundMasks:
    """Draws the distorted masks of all training volumes, a round at a time.

    Parameters
    ----------
    masks : sequence of ndarray of shape (Z, Y, X), bool
        Of the training volumes.
    variant : {"default", "published"}
        Of the distortion, where rounds are drawn by their number.
    seed : int

    Attributes
    ----------
    present : list of ndarray of shape (Z, Y, X), or None
        Of the present round: float32 in [0, 1] as published, else uint8 in [0, 255]. None until it is drawn.
    """

    def __init__(self, masks: Sequence[NDArray[np.bool_]], variant: Literal["default", "published"], seed: int) -> None:
        self.present: list[NDArray[Any]] | None = None
        self._masks = masks
        self._variant = variant
        self._seed = seed
        self._size_maps: list[NDArray[np.uint8]] = []
        self._next: Future[list[NDArray[Any]]] | None = None
        self._background = ThreadPoolExecutor(max_workers=1)

    def forget(self) -> None:
        """Forget what was drawn, also for the next round: the counters have changed."""
        self.present, self._next = None, None

    def draw_published(self, legacy: np.random.RandomState) -> list[NDArray[Any]]:
        """Draw the present round from the one sequential generator, as published."""
        self.present = []
        for index, mask in enumerate(self._masks):
            ratio, bandwidth = sample_distortion(legacy)
            self.present.append(distort(mask, self._sizes(index), ratio, bandwidth, legacy, "published"))
        return self.present

    def draw(self, number: int, another: bool) -> list[NDArray[Any]]:
        """Draw the present round by its number; with `another` to follow, have that one made meanwhile."""
        self.present = self._drawn(number) if self._next is None else self._next.result()
        self._next = self._background.submit(self._drawn, number + 1) if another else None
        return self.present

    def _drawn(self, number: int) -> list[NDArray[Any]]:
        masks: list[NDArray[Any]] = []
        for index, mask in enumerate(self._masks):
            rng = stream(self._seed, DISTORTION, number, index)
            ratio, bandwidth = sample_distortion(rng)
            drawn = distort(mask, self._sizes(index), ratio, bandwidth, rng, self._variant)
            masks.append(np.rint(drawn * 255).astype(np.uint8))
        return masks

    def _sizes(self, index: int) -> NDArray[np.uint8]:
        while len(self._size_maps) <= index:
            self._size_maps.append(size_map(self._masks[len(self._size_maps)]).astype(np.uint8))
        return self._size_maps[index]
