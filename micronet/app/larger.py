"""What `train_network.py` asks of a larger network: its build, its size, how it is trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from micronet.app.terminal import option_of
from micronet.core.errors import InputError
from micronet.data.dataset import Sample
from micronet.networks.library import LIBRARY, Build
from micronet.networks.registry import Network
from micronet.segment.window_plan import WindowWish
from micronet.training.crops import usual_crop
from micronet.training.ports import Settings
from micronet.training.practice import Practice
from micronet.training.presence import IMAGE_LOSSES, IMAGE_PRACTICE
from micronet.training.trainer import Trainer

__all__ = ["asked_of", "check_size", "described", "for_classes", "practice_of"]

# What is asked of a network that tells what images hold, and what the data set says in its place.
_IMAGE_BUILD, _OF_CROPS = ("dimensions", "start_channels"), ("crop_size", "samples_per_volume")
# What a network may lack; the rest of its build depends on the data.
_OPTIONAL = ("depth", "start_channels", "num_stacks", "kernel_size", "norm")


def asked_of(network: Network, arguments: argparse.Namespace, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return build and practice as they were asked for, else as the session to be resumed had them.

    InputError for what the network lacks, or a value that makes no sense.
    """
    takes = _IMAGE_BUILD if network.of_images else LIBRARY[network.name].takes
    lacking = [name for name in _OPTIONAL if getattr(arguments, name) is not None and name not in takes]
    if lacking:
        raise InputError(f"{network.title} has no {', '.join(map(option_of, lacking))}; it is of one size there")
    build = _given(arguments, [name for name in takes if hasattr(arguments, name)], saved.get("build"))
    practice = _given(arguments, [field.name for field in fields(Practice)], saved.get("practice"))
    windows = _given(arguments, [field.name for field in fields(WindowWish)], saved.get("windows"))
    if network.of_images:
        given = [*windows, *(["max_ram"] if arguments.max_ram is not None else [])]
        if given:
            named = ", ".join(map(option_of, given))
            raise InputError(f"{network.title} sees images in crops of its own: leave out {named}")
        return {"build": build, "practice": _image_practice(practice)}
    WindowWish(**windows)
    Build(**build)
    if (crop := practice.get("crop_size")) is not None:
        practice["crop_size"] = _crop(crop, build.get("dimensions", 3))
    Practice(**{"crop_size": (1, 1, 1)} | practice)
    return {"build": build, "practice": practice, "windows": windows}


def _image_practice(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for of a network that tells what images hold; InputError for what it has not."""
    if given := [name for name in _OF_CROPS if name in asked]:
        raise InputError(
            f"{', '.join(map(option_of, given))}: the data set says what is seen of an image, by its keys crop and step"
        )
    practice: dict[str, Any] = {"batch_size": IMAGE_PRACTICE.batch_size, "loss": IMAGE_PRACTICE.loss} | asked
    if practice["loss"] not in IMAGE_LOSSES:
        known = ", ".join(IMAGE_LOSSES)
        raise InputError(f"--loss {practice['loss']}: what images hold is learned by one of {known}")
    Practice(**{"crop_size": (1, 1, 1)} | practice)
    return practice


def _given(arguments: argparse.Namespace, names: Sequence[str], saved: Any) -> dict[str, Any]:
    found = dict(saved) if isinstance(saved, dict) else {}
    return found | {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _crop(sizes: Sequence[int], dimensions: int) -> list[int]:
    """Return the crop as Z, Y, X; InputError where it has not the axes of the network."""
    if dimensions == 2 and len(sizes) == 2:
        return [1, *sizes]
    if len(sizes) != 3 or (dimensions == 2 and sizes[0] != 1):
        wanted = "Y,X" if dimensions == 2 else "Z,Y,X"
        raise InputError(
            f"a crop of a {dimensions}-D network is {wanted}, found {','.join(map(str, sizes))} --crop-size"
        )
    return list(sizes)


def check_size(model: nn.Module, arguments: argparse.Namespace) -> None:
    """Raise InputError where a network has more or fewer parameters than allowed, before anything is loaded."""
    count = sum(parameter.numel() for parameter in model.parameters())
    most, least = getattr(arguments, "max_params", None), getattr(arguments, "min_params", None)
    if most is not None and count > most:
        raise InputError(f"the network has {count:,} parameters, more than --max-params {most:,}")
    if least is not None and count < least:
        raise InputError(f"the network has {count:,} parameters, fewer than --min-params {least:,}")


def for_classes(settings: Settings, network: Network, classes: Sequence[str]) -> Settings:
    """Return settings whose network tells the classes of the data set apart, where it has several.

    InputError where no network of the kind does, or another session's did not.
    """
    before = list(settings.build.get("classes", ()))
    if before and before != list(classes):
        now = ", ".join(classes) or "one class"
        raise InputError(f"the session tells {', '.join(before)} apart, '{settings.dataset}' now has {now}")
    if not classes:
        return settings
    if not network.sized:
        raise InputError(
            f"'{settings.dataset}' has the classes {', '.join(classes)}, and a {network.title} tells one from "
            f'background: write segment = "{classes[0]}" under [defaults] instead, or train_network.py takes them all'
        )
    return replace(settings, build={**settings.build, "classes": list(classes)})


def practice_of(settings: Settings, samples: Sequence[Sample]) -> Practice:
    """Return the practice of a larger network, its crop the usual one of these volumes where nobody says."""
    asked = dict(settings.practice)
    crop = asked.pop("crop_size", None) or usual_crop(samples, settings.build.get("dimensions", 3))
    return Practice(crop_size=tuple(crop), **asked)


def described(trainer: Trainer) -> str:
    """Return what is to be said of a larger network at the beginning; empty for another."""
    practice = trainer.practice
    if practice is None:
        return ""
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    several = f"classes {', '.join(trainer.names[1:])}; " if trainer.several else ""
    crop = " x ".join(map(str, practice.crop_size))
    seen = f"crops ({crop})" if max(practice.crop_size) > 1 else "images"
    return (
        f"{several}{count:,} parameters; loss {practice.loss}, {practice.optimizer}, schedule {practice.schedule}, "
        f"{trainer.steps_a_pass:,} steps of {practice.batch_size} {seen} an epoch"
    )
