"""How a training on what images hold is put together, for `micronet.app.launch`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch

from micronet.app.larger import check_size, for_classes
from micronet.app.prompt import say
from micronet.data.dataset import DataSet, Sample
from micronet.data.image_samples import ImageSample, never_or_always
from micronet.data.weak.images import Images, open_images
from micronet.networks.micranet import MicraNet
from micronet.networks.registry import Network
from micronet.training.ports import Settings
from micronet.training.practice import Practice
from micronet.training.presence import IMAGE_RECIPE, PresenceTrainer
from micronet.training.recipe import NUMPY_SEED, TORCH_SEED, Recipe

__all__ = ["image_trainer"]


def image_trainer(
    network: Network, settings: Settings, arguments: argparse.Namespace
) -> tuple[Settings, DataSet, Mapping[str, Sequence[Sample]], PresenceTrainer]:
    """Return the settings with the classes of the data set, the data set, its images, and what trains on them.

    A class that is in all images of a split, or in none, is told.
    """
    images = open_images(settings.dataset, settings.data)
    settings = for_classes(settings, network, images.classes)
    torch.manual_seed(settings.seed)
    model = cast(MicraNet, network.build(**{"dimensions": 3} | dict(settings.build)))
    check_size(model, arguments)
    practice = Practice(**{"crop_size": images.cut.size or (1, 1, 1)} | dict(settings.practice))
    for split, samples in images.samples.items():
        _say_never_or_always(split, images.classes, samples)
    trainer = PresenceTrainer(
        model.to(getattr(arguments, "device", "cpu")),
        images.samples["train"],
        images.samples["validation"],
        _recipe(settings, images, practice),
        settings.seed + NUMPY_SEED - TORCH_SEED,
        practice,
    )
    return settings, images.dataset, cast(Mapping[str, Sequence[Sample]], images.samples), trainer


def _say_never_or_always(split: str, classes: Sequence[str], samples: Sequence[ImageSample]) -> None:
    if samples:
        done = "learned" if split == "train" else "scored"
        for name, what in never_or_always(classes, samples).items():
            say(f"note: class {name} is {what} ({split}): it cannot be {done}")


def _recipe(settings: Settings, images: Images, practice: Practice) -> Recipe:
    """Return the recipe with what was asked for; the data set's augmentation takes the place of its own."""
    return replace(
        IMAGE_RECIPE,
        optimizer=practice.optimizer,
        augmentation=images.dataset.augmentation or IMAGE_RECIPE.augmentation,
        validate_every=settings.validate_every,
        patience=practice.early_stopping_patience,
        accumulate=settings.accumulate,
    )
