"""What a step sees where only is known what images hold: images, crops or blocks of them, each as it is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.data.augmentation import Augmentation, View
from micronet.data.image_samples import ImageSample, Part, whole_box
from micronet.networks.micranet import STRIDE
from micronet.networks.normalize import standardize
from micronet.training.crops import Batch
from micronet.training.streams import ORDER, VIEW, stream

__all__ = ["ImageCrops"]

_Pair = tuple[ImageSample, Part]


class ImageCrops:
    """Draws the batches of an epoch, in which every part of every image is seen once; a batch is of one shape.

    Parameters
    ----------
    samples : sequence of ImageSample
    batch_size : int
        Parts a step, about: those of one shape are shared out evenly.
    augmentation : Augmentation, optional
        None shows every part as it is.
    seed : int

    Attributes
    ----------
    batches_a_pass : int
        Steps of an epoch.
    heavier : ndarray of shape (K,), float32
        For each class how often more it is absent than there, as labels have it; 1 where one of both never is.

    Raises
    ------
    InputError
        If there is nothing to see, or too little of it for a normalisation.
    """

    def __init__(
        self, samples: Sequence[ImageSample], batch_size: int, augmentation: Augmentation | None, seed: int
    ) -> None:
        groups: dict[tuple[int, ...], list[_Pair]] = {}
        for sample in samples:
            for part in sample.parts:
                groups.setdefault(part.shape, []).append((sample, part))
        if not groups:
            raise InputError("there is no image, and no crop of one, to train on")
        self._groups = [groups[shape] for shape in sorted(groups)]
        for shape, pairs in groups.items():
            fewest = len(pairs) // -(-len(pairs) // batch_size)  # of the steps that share them out
            if max(shape) <= STRIDE and fewest == 1:
                raise InputError(
                    f"one image of {' x '.join(map(str, shape))} voxels is too little for a step, whose normalisation "
                    f"is over the step: take several {setting('batch_size')}"
                )
        self._batch_size, self._augmentation, self._seed = batch_size, augmentation, seed
        self._order: tuple[int, list[list[_Pair]]] | None = None
        self.batches_a_pass = sum(-(-len(pairs) // batch_size) for pairs in self._groups)
        self.heavier = _heavier([part for pairs in self._groups for _, part in pairs])

    def batch(self, passes_begun: int, number: int, drawn: int) -> Batch:
        """Return a batch of an epoch, the `passes_begun`-th, by its number; `drawn` names what is drawn for it.

        Target and weight are (N, K) or, of blocks, (N, K, D, H, W); the weight is 0 where nobody said.
        """
        if self._order is None or self._order[0] != passes_begun:
            self._order = passes_begun, list(self._drawn(stream(self._seed, ORDER, passes_begun)))
        seen = [
            self._seen(sample, part, stream(self._seed, VIEW, drawn, place))
            for place, (sample, part) in enumerate(self._order[1][number])
        ]
        images, labels = (np.stack(arrays) for arrays in zip(*seen, strict=True))
        known = labels >= 0
        weight = None if known.all() else torch.from_numpy(known.astype(np.float32))
        target = torch.from_numpy((labels == 1).astype(np.float32))
        return Batch(torch.from_numpy(images[:, None]), target, weight, "images")

    def _drawn(self, rng: np.random.Generator) -> Iterator[list[_Pair]]:
        batches: list[list[_Pair]] = []
        for pairs in self._groups:
            order = rng.permutation(len(pairs))
            for chosen in np.array_split(order, -(-len(pairs) // self._batch_size)):
                batches.append([pairs[index] for index in chosen])
        yield from (batches[index] for index in rng.permutation(len(batches)))

    def _seen(
        self, sample: ImageSample, part: Part, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        image = standardize(sample.read(part.box), sample.mean, sample.sd)
        if self._augmentation is None:
            return image, part.labels
        view = self._augmentation.draw_of(whole_box(part.shape), rng)
        view = replace(view, mirrored=_mirrored(view, part, sample.block), turned=(), bent=0.0)
        image = view.place(image)
        view.tone(image)
        if sample.block is None:
            return image, part.labels
        return image, np.flip(part.labels, tuple(1 + axis for axis, mirror in enumerate(view.mirrored) if mirror))


def _mirrored(view: View, part: Part, block: int | None) -> tuple[bool, ...]:
    """Return the axes to be mirrored: not one whose last block is shorter, which would then come first."""
    whole = (block is None or length % block == 0 for length in part.shape)
    return tuple(mirror and fits for mirror, fits in zip(view.mirrored, whole, strict=True))


def _heavier(parts: Sequence[Part]) -> NDArray[np.float32]:
    labels = np.concatenate([part.labels.reshape(len(part.labels), -1) for part in parts], axis=1)
    there, absent = (labels == 1).sum(1), (labels == 0).sum(1)
    both = (there > 0) & (absent > 0)
    return np.where(both, absent / np.maximum(there, 1), 1).astype(np.float32)
