"""Compile what a command will need before it needs it, and tell how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from micronet.networks.kernels.boosting import boost, logits
from micronet.networks.kernels.gradient import backward, forward_saving
from micronet.networks.kernels.jit import cache_folder, unkept
from micronet.networks.kernels.layout import Array
from micronet.networks.kernels.microkernels import kernel_addresses
from micronet.networks.kernels.network import forward
from micronet.networks.kernels.scale_space import feature_count, features, features_at, perceptron, tree_sum
from micronet.networks.kernels.tubes import with_tubes

__all__ = ["Work", "is_compiled", "warm_up"]

#: A pass of µ-Net or µr-Net; their training and its validations; pixel trees, fitted and asked; pixel networks, asked.
Work = Literal["forward", "training", "trees", "perceptrons"]
Told = Callable[[float], None]


def _stamp(work: Work) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{work}.compiled"


def is_compiled(work: Work) -> bool:
    """Return whether `warm_up` has been through on this machine, for this version of the kernels."""
    stamp = _stamp(work)
    return stamp is not None and stamp.is_file()


def warm_up(work: Work, progress: Told | None = None) -> None:
    """Compile, or load from the cache, what a kind of work needs.

    `progress` is called with the fraction done, from 0 to 1.
    """
    told = progress or (lambda fraction: None)
    told(0.0)
    if work in ("forward", "training"):
        _convolutions(work == "training", told)
    else:
        _voxels(work == "trees", told)
    told(1.0)
    stamp = _stamp(work)
    if stamp is not None and not unkept():
        with contextlib.suppress(OSError):  # it costs the next start a look at what is kept
            stamp.touch()


def _convolutions(training: bool, told: Told) -> None:
    shapes = {"down0.0": (4, 1), "down0.1": (4, 4), "down1.1": (4, 5), "down1.2": (4, 4)}
    shapes |= {"bottom.1": (3, 4), "bottom.2": (3, 3), "bottom.4": (3, 3), "bottom.5": (3, 3)}
    shapes |= {"up1.0": (4, 7), "up1.1": (4, 4), "up1.3": (4, 4), "up1.4": (4, 4)}
    shapes |= {"up0.0": (4, 9), "up0.1": (4, 4), "up0.3": (4, 4), "up0.4": (1, 4)}
    parameters: dict[str, Array] = {
        f"{name}.weight": np.zeros((*shape, 3, 3, 3), np.float32) for name, shape in shapes.items()
    }
    parameters |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    volume = np.zeros((32, 32, 32), np.float32)
    kernel_addresses()
    told(0.1)
    if training:
        _, saved = forward_saving(parameters, volume, volume, 1)
        told(0.4)
        backward(saved, volume)
        told(0.8)
    forward(parameters, volume, volume, 1)


def _voxels(trees: bool, told: Told) -> None:
    image, spacing = np.zeros((4, 4, 4), np.float32), (1.0, 1.0, 1.0)
    if not trees:
        widths = (feature_count(1), 1, 1, 1)
        layers = [
            (np.zeros((1, outputs, inputs), np.float32), np.zeros((1, outputs), np.float32))
            for inputs, outputs in pairwise(widths)
        ]
        perceptron(image, spacing[:1], spacing, layers, None, 1)
        return
    features(image, spacing[:1], spacing, threads=1)
    found = with_tubes(features_at(image, image == 0, spacing[:1], spacing, 1).T).T
    told(0.7)
    fitted = boost(found, np.arange(len(found)) % 2 == 0, trees=1)
    logits(found, fitted)
    told(0.9)
    tree_sum(image, spacing[:1], spacing, fitted, None, 1)
