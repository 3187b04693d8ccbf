"""Compile what a command will need before it needs it, and tell how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from micronet.networks.kernels.boosting import boost, logits
from micronet.networks.kernels.gradient import backward, forward_saving
from micronet.networks.kernels.jit import cache_folder, unkept
from micronet.networks.kernels.layout import Array
from micronet.networks.kernels.microkernels import kernel_addresses
from micronet.networks.kernels.network import forward
from micronet.networks.kernels.scale_space import features, tree_sum

__all__ = ["is_compiled", "pixels_are_compiled", "warm_up", "warm_up_pixels"]

_PIXELS = "pixels"


def _stamp(what: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{what}.compiled"


def _is_stamped(what: str) -> bool:
    stamp = _stamp(what)
    return stamp is not None and stamp.is_file()


def _put_stamp(what: str) -> None:
    stamp = _stamp(what)
    if stamp is not None and not unkept():
        with contextlib.suppress(OSError):  # it costs the next start a look at what is kept
            stamp.touch()


def _what(training: bool) -> str:
    return "training" if training else "forward"


def is_compiled(training: bool = False) -> bool:
    """Return whether `warm_up` has been through on this machine, for this version of the kernels."""
    return _is_stamped(_what(training))


def pixels_are_compiled() -> bool:
    """Return whether `warm_up_pixels` has been."""
    return _is_stamped(_PIXELS)


def warm_up(training: bool = False, progress: Callable[[float], None] | None = None) -> None:
    """Compile, or load from the cache, the forward pass of both networks and for training the backward pass.

    `progress` is called with the fraction done, from 0 to 1.
    """
    told = progress or (lambda fraction: None)
    shapes = {"down0.0": (4, 1), "down0.1": (4, 4), "down1.1": (4, 5), "down1.2": (4, 4)}
    shapes |= {"bottom.1": (3, 4), "bottom.2": (3, 3), "bottom.4": (3, 3), "bottom.5": (3, 3)}
    shapes |= {"up1.0": (4, 7), "up1.1": (4, 4), "up1.3": (4, 4), "up1.4": (4, 4)}
    shapes |= {"up0.0": (4, 9), "up0.1": (4, 4), "up0.3": (4, 4), "up0.4": (1, 4)}
    parameters: dict[str, Array] = {
        f"{name}.weight": np.zeros((*shape, 3, 3, 3), np.float32) for name, shape in shapes.items()
    }
    parameters |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    volume = np.zeros((32, 32, 32), np.float32)
    told(0.0)
    kernel_addresses()
    told(0.1)
    if training:
        _, saved = forward_saving(parameters, volume, volume, 1)
        told(0.4)
        backward(saved, volume)
    else:
        forward(parameters, volume, volume, 1)
    told(1.0)
    _put_stamp(_what(training))


def warm_up_pixels(progress: Callable[[float], None] | None = None) -> None:
    """Compile, or load from the cache, the features of voxels and the trees on them; `progress` as `warm_up`."""
    told = progress or (lambda fraction: None)
    volume = np.zeros((4, 4, 4), np.float32)
    unit = (1.0, 1.0, 1.0)
    told(0.0)
    found = features(volume, (1.0,), unit, threads=1)
    told(0.4)
    rows = np.ascontiguousarray(found.reshape(len(found), -1).T)
    trees = boost(rows, np.arange(len(rows)) % 2 == 0, trees=1, threads=1)
    told(0.6)
    logits(rows, trees)
    told(0.7)
    tree_sum(volume, (1.0,), unit, trees, threads=1)
    told(1.0)
    _put_stamp(_PIXELS)
