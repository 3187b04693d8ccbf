"""Training of a network that tells which classes images hold: batches, loss and scores; the rest is Trainer's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.core.errors import InputError, setting
from micronet.data.augmentation import IMAGES
from micronet.data.dataset import Sample
from micronet.data.image_samples import ImageSample, Part, never_or_always
from micronet.measure.overlap import Overlap
from micronet.measure.presence import ClassScore, class_scores
from micronet.networks.micranet import MicraNet
from micronet.networks.normalize import standardize
from micronet.training.image_crops import ImageCrops
from micronet.training.practice import Practice
from micronet.training.recipe import NETWORK_RECIPE, NUMPY_SEED, Recipe
from micronet.training.streams import DROPOUT, stream
from micronet.training.trainer import Trainer

__all__ = ["IMAGE_LOSSES", "IMAGE_PRACTICE", "IMAGE_RECIPE", "PresenceTrainer", "presence_of"]

#: With and without weights of the classes.
IMAGE_LOSSES = ("weighted_bce", "bce")
IMAGE_RECIPE = replace(NETWORK_RECIPE, augmentation=IMAGES)
IMAGE_PRACTICE = Practice(crop_size=(1, 1, 1), batch_size=16, loss="weighted_bce")
# Of small images so many voxels are looked at at a time.
_VOXELS_AT_A_TIME = 1 << 17
# No probability is nearer to 0 or 1 in a validation loss.
_SMALLEST = 1e-6


class PresenceTrainer(Trainer):
    """Trains a network on images of which is known what they hold, or which of their blocks hold what.

    Its F is that of all labels together, at `threshold`; `class_scores` are those of each class.

    Parameters
    ----------
    model : MicraNet
        Trained in place.
    train, validation : sequence of ImageSample
        All of blocks of one size, or none.
    recipe, seed, practice
        As `Trainer`; `practice.crop_size` is not looked at, and `practice.loss` is one of `IMAGE_LOSSES`.

    Raises
    ------
    InputError
        If images, network and practice do not fit.
    """

    def __init__(
        self,
        model: MicraNet,
        train: Sequence[ImageSample],
        validation: Sequence[ImageSample] = (),
        recipe: Recipe = IMAGE_RECIPE,
        seed: int = NUMPY_SEED,
        practice: Practice = IMAGE_PRACTICE,
    ) -> None:
        if practice.loss not in IMAGE_LOSSES:
            raise InputError(
                f"what images hold is learned by the losses {', '.join(IMAGE_LOSSES)}, found {practice.loss} "
                f"{setting('loss')}"
            )
        self._block = _block_of([*train, *validation])
        _check_planes(model, [*train, *validation])
        super().__init__(
            model, cast(Sequence[Sample], train), cast(Sequence[Sample], validation), recipe, seed, practice=practice
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """What the network tells of images."""
        return cast(MicraNet, self.model).classes

    def _begin_practice(self) -> None:
        practice = cast(Practice, self.practice)
        images = cast(Sequence[ImageSample], self.train_samples)
        if len(never_or_always(self.classes, images)) == len(self.classes):
            raise InputError("nothing can be learned: every class is in all training images, or in none")
        crops = ImageCrops(images, practice.batch_size, self.recipe.augmentation, self.seed)
        self._crops, heavier = crops, torch.from_numpy(crops.heavier)
        if self._block is not None:
            heavier = heavier.reshape(-1, 1, 1, 1)  # beside (N, K, D, H, W)
        self._heavier = heavier if practice.loss == "weighted_bce" else torch.ones_like(heavier)

    def _looked(self, x: Tensor, target: Tensor, weight: Tensor | None, drawn: int) -> tuple[Tensor, Tensor]:
        place = next(self.model.parameters()).device
        self.model.train()
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):  # dropout draws from it
            torch.manual_seed(int(stream(self.seed, DROPOUT, drawn).integers(2**63)))
            logits = cast(MicraNet, self.model).scores(x.to(place), self._block)
        counted = None if weight is None else weight.to(place)
        return torch.sigmoid(logits), _bce(logits, target.to(place), counted, self._heavier.to(place))

    def _step_scores(self, probability: Tensor, target: Tensor, weight: Tensor | None) -> Overlap:
        labels, told = target.numpy() > 0.5, probability.cpu().numpy() > 0.5
        known = np.ones(labels.shape, bool) if weight is None else weight.numpy() > 0
        return Overlap(*(int((one & known).sum()) for one in (told & labels, told & ~labels, ~told & labels)))

    def score(self, samples: Sequence[Any], on_look: Callable[[Any], None] | None = None) -> tuple[Overlap, float]:
        """Return the counts of all labels together at `threshold`, and the loss; `class_scores` are then of them."""
        images = cast(Sequence[ImageSample], samples)
        labels, told = self._together([(sample, self.presence(sample, on_look)) for sample in images])
        self.class_scores = class_scores(self.classes, labels, told, self.threshold)
        counts = sum((one.overlap for one in self.class_scores), Overlap(0, 0, 0))
        logits, target = torch.logit(torch.from_numpy(told), eps=_SMALLEST), torch.from_numpy(labels == 1).float()
        return counts, _bce(logits, target, torch.from_numpy(labels >= 0).float(), self._heavier.flatten()).item()

    def scored(self, found: Sequence[tuple[ImageSample, Sequence[NDArray[np.float32]]]]) -> tuple[ClassScore, ...]:
        """Return the scores of each class, of what `presence` gave for images."""
        return class_scores(self.classes, *self._together(found), self.threshold)

    def _together(
        self, found: Sequence[tuple[ImageSample, Sequence[NDArray[np.float32]]]]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return labels and probabilities, (N, K) each, of all parts and blocks of images."""
        count = len(self.classes)
        pairs = [pair for sample, told in found for pair in zip(sample.parts, told, strict=True)]
        if not pairs:
            raise InputError("no crop of these images is seen")
        labels = np.concatenate([part.labels.reshape(count, -1) for part, _ in pairs], 1).T
        return labels, np.concatenate([told.reshape(count, -1) for _, told in pairs], 1).T

    def presence(self, sample: ImageSample, on_part: Callable[[Any], None] | None = None) -> list[NDArray[np.float32]]:
        """Return the probability of each class for each part of an image, (K,) or (K, D, H, W) as its labels."""
        return presence_of(cast(MicraNet, self.model), sample, on_part)


def _bce(logits: Tensor, target: Tensor, weight: Tensor | None, heavier: Tensor) -> Tensor:
    """Return the binary cross entropy over the labels that count, those of what is there `heavier` times."""
    each = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=heavier)
    return each.mean() if weight is None else (each * weight).sum() / weight.sum().clamp_min(1)


def presence_of(
    model: MicraNet, sample: ImageSample, on_part: Callable[[Any], None] | None = None
) -> list[NDArray[np.float32]]:
    """Return what a network says of each part of an image: the probability of each class, shaped as its labels.

    `on_part` is told of each part before it is read, and may raise.
    """
    place = next(model.parameters()).device
    model.eval()
    found = []
    with torch.inference_mode():
        for parts in _together(sample.parts):
            seen = []
            for part in parts:
                if on_part is not None:
                    on_part(part)
                seen.append(standardize(sample.read(part.box), sample.mean, sample.sd))
            logits = model.scores(torch.from_numpy(np.stack(seen)[:, None]).to(place), sample.block)
            found += [*torch.sigmoid(logits).cpu().numpy()]
    return found


def _together(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield the parts of an image in their order, those of one shape that follow each other together, up to a limit."""
    for shape, alike in groupby(parts, lambda part: part.shape):
        several, most = list(alike), max(1, _VOXELS_AT_A_TIME // math.prod(shape))
        yield from (several[first : first + most] for first in range(0, len(several), most))


def _block_of(samples: Sequence[ImageSample]) -> int | None:
    blocks = {sample.block for sample in samples}
    if len(blocks) > 1:
        raise InputError("some images have labels of blocks, others not, or of others")
    return blocks.pop() if blocks else None


def _check_planes(model: MicraNet, samples: Sequence[ImageSample]) -> None:
    """Refuse volumes for a 2-D network, and images for a 3-D one."""
    for sample in samples:
        planes = {part.shape[0] for part in sample.parts}
        if model.dimensions == 2 and planes - {1}:
            raise InputError(
                f"volume {sample.entry.name}: {max(planes)} planes are seen at a time, and a 2-D network sees one "
                f"{setting('dimensions')}"
            )
        if model.dimensions == 3 and planes == {1}:
            raise InputError(
                f"volume {sample.entry.name}: it is seen plane by plane, and a 3-D network sees several "
                f"{setting('dimensions')}"
            )
