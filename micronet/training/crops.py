"""What a larger network sees in a step: crops around annotated voxels, each seen in a way of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micronet.core.errors import InputError, setting
from micronet.data.augmentation import Augmentation, Box, View
from micronet.data.dataset import Sample
from micronet.networks.normalize import standardize
from micronet.training.streams import ORDER, VIEW, stream

__all__ = ["Batch", "Crops", "usual_crop"]

# The longest axis of a crop where nobody says, and how many volumes have curves of their own.
_USUAL, _MOST_NAMED = 64, 12


class Batch(NamedTuple):
    """What one step sees: the network's input, target and weight (N, C, D, H, W), and how the log calls it.

    The target is bool, or of several classes their numbers, uint8.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None
    name: str


def usual_crop(samples: Sequence[Sample], dimensions: int) -> tuple[int, int, int]:
    """Return the crop where nobody says: 64 voxels along each axis, fewer where a volume has fewer."""
    z, y, x = (min(_USUAL, *(sample.image.shape[axis] for sample in samples)) for axis in range(3))
    return (1 if dimensions == 2 else z), y, x


class Crops:
    """Draws the batches of an epoch: `samples_per_volume` crops of every volume, in a random order.

    A crop is centred on a voxel that is annotated, moved inwards where it would leave the volume: of background, of
    lumen or of any of several classes, with equal chances, as far as the volume has them annotated.

    Parameters
    ----------
    samples : sequence of Sample
    size : (Z, Y, X)
    samples_per_volume, batch_size : int
    augmentation : Augmentation, optional
        None shows every crop as it is.
    seed : int

    Raises
    ------
    InputError
        If a crop is larger than a volume, or lumen, background or a class is annotated nowhere.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int, int],
        samples_per_volume: int,
        batch_size: int,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        for sample in samples:
            if any(wanted > there for wanted, there in zip(size, sample.image.shape, strict=True)):
                raise InputError(
                    f"volume {sample.entry.name}: it has {_shown(sample.image.shape)} voxels, fewer than a crop of "
                    f"{_shown(size)} {setting('crop_size')}"
                )
        self._samples = samples
        self._size = size
        self._each = samples_per_volume
        self._batch_size = batch_size
        self._augmentation = augmentation
        self._seed = seed
        self._planes = [_per_plane(sample) for sample in samples]
        self.voxels = sum(planes.sum(1) for planes in self._planes)
        for count, name in zip(self.voxels, samples[0].names, strict=True):
            if not count:
                raise InputError(f"the class {name} has no annotated voxel in the training volumes")

    @property
    def batches_a_pass(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._samples) * self._each // self._batch_size)

    def batch(self, passes_begun: int, number: int, drawn: int) -> Batch:
        """Return a batch of an epoch, the `passes_begun`-th, by its number; `drawn` names what is drawn for it."""
        order = stream(self._seed, ORDER, passes_begun).permutation(len(self._samples) * self._each)
        chosen = order[number * self._batch_size : (number + 1) * self._batch_size] // self._each
        crops = [self._crop(int(index), stream(self._seed, VIEW, drawn, k)) for k, index in enumerate(chosen)]
        images, masks, weights = zip(*crops, strict=True)
        weight = None
        if any(one is not None for one in weights):
            weight = _stacked([np.ones(self._size, bool) if one is None else one for one in weights]).float()
        names = {self._samples[index].entry.name for index in chosen}
        named = len(names) == 1 and len(self._samples) <= _MOST_NAMED
        return Batch(_stacked(images), _stacked(masks), weight, names.pop() if named else "crops")

    def _crop(
        self, index: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_] | None]:
        sample = self._samples[index]
        view = self._view(index, rng)
        if view.bent and sample.weight is not None and not view.place(sample.weight).any():
            view = replace(view, bent=0.0)  # the one annotated voxel was bent away
        image = standardize(view.place(sample.image), sample.mean, sample.sd)
        view.tone(image)
        target = view.place(sample.target, labels=True)
        return image, target, None if sample.weight is None else view.place(sample.weight)

    def _view(self, index: int, rng: np.random.Generator) -> View:
        centre = self._annotated(index, rng)
        shape = self._samples[index].image.shape
        firsts = [
            min(max(place - length // 2, 0), there - length)
            for place, length, there in zip(centre, self._size, shape, strict=True)
        ]
        box: Box = tuple((first, first + length) for first, length in zip(firsts, self._size, strict=True))
        if self._augmentation is None:
            return View(box, (False, False, False), 1.0, 0.0, 0.0, 0)
        return self._augmentation.draw_of(box, rng)

    def _annotated(self, index: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """Return an annotated voxel: of a class drawn among those that the volume has, each voxel of it as likely."""
        sample, planes = self._samples[index], self._planes[index]
        label = rng.choice(np.flatnonzero(planes.sum(1)))
        ends = np.cumsum(planes[label])
        number = int(rng.integers(ends[-1]))
        z = int(np.searchsorted(ends, number, side="right"))
        mask = sample.target[z] == label
        inside = mask if sample.weight is None else mask & sample.weight[z]
        at = np.flatnonzero(inside)[number - int(ends[z] - planes[label][z])]
        y, x = divmod(int(at), inside.shape[1])
        return z, y, x


def _per_plane(sample: Sample) -> NDArray[np.int64]:
    """Return how many voxels of background and of each class are annotated in each plane, (1 + classes, Z)."""
    counts = np.empty((len(sample.names), len(sample.target)), np.int64)
    for z, plane in enumerate(sample.target):
        inside = plane.ravel() if sample.weight is None else plane[sample.weight[z]]
        counts[:, z] = np.bincount(inside.view(np.uint8), minlength=len(counts))
    return counts


def _stacked(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)[:, None])


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(str(length) for length in shape)
