"""Compile what a command will need before it needs it, and tell how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from micronet.networks.kernels.gradient import backward, forward_saving
from micronet.networks.kernels.jit import cache_folder, unkept
from micronet.networks.kernels.layout import Array
from micronet.networks.kernels.microkernels import kernel_addresses
from micronet.networks.kernels.network import forward

__all__ = ["is_compiled", "warm_up"]


def _stamp(training: bool) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / ("training.compiled" if training else "forward.compiled")


def is_compiled(training: bool = False) -> bool:
    """Return whether `warm_up` has been through on this machine, for this version of the kernels."""
    stamp = _stamp(training)
    return stamp is not None and stamp.is_file()


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
    stamp = _stamp(training)
    if stamp is not None and not unkept():
        with contextlib.suppress(OSError):  # it costs the next start a look at what is kept
            stamp.touch()
