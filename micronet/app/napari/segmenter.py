"""The computing part of the widget: masks, one after each refinement. It knows nothing of napari."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from micronet.core.errors import InputError
from micronet.core.provenance import sha256_of
from micronet.core.volume import Volume
from micronet.networks.card import card_line
from micronet.networks.registry import network_of
from micronet.networks.weights import load_model
from micronet.segment.refine import predict
from micronet.segment.time_lapse import FIRST_ITERATIONS

__all__ = ["Step", "default_weights", "steps", "trained_folder", "warning"]


@dataclass(frozen=True, eq=False)
class Step:
    """A mask on its way: of which time point, after which refinement, of how many; and the voxels inside."""

    time_point: int
    iteration: int
    of: int
    mask: NDArray[np.bool_]
    voxels: int


def trained_folder() -> Path:
    """Return where the weights lie that come with micronet: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "trained_models"
    return inside if inside.is_dir() else package.parent / "trained_models"


def default_weights() -> Path:
    """Return the weight file that the widget begins with."""
    return trained_folder() / "ur-net_phantom.pt"


def steps(
    array: NDArray[Any],
    weights: Path,
    *,
    iterations: int = 10,
    threshold: float = 0.5,
    start: NDArray[Any] | None = None,
) -> Iterator[Step]:
    """Yield the mask after every refinement.

    Parameters
    ----------
    array : ndarray of shape (Z, Y, X) or (T, Z, Y, X)
        Intensities. Each time point starts from the probability found at the one before.
    weights : Path
        Of a µr-Net, or of a µ-Net, which looks once.
    iterations : int
        Refinements of a time point; `FIRST_ITERATIONS` at least of the first of several that starts from nothing.
    threshold : float
        Lumen is above it, in [0, 1).
    start : ndarray of shape (Z, Y, X), optional
        Labels; where they are not 0 the first refinement starts from 1. µr-Net only.

    Yields
    ------
    Step

    Raises
    ------
    MicronetError
        If the array, the weights, the threshold or the start cannot be used.
    """
    if array.ndim not in (3, 4):
        raise InputError(f"the layer must have the axes Z, Y, X, and T before them, this one has {array.ndim}")
    if not 0 <= threshold < 1:
        raise InputError(f"the threshold must lie in [0, 1), found {threshold}")
    model = _model(weights, weights.stat().st_mtime_ns if weights.is_file() else 0)
    probability = None
    if start is not None:
        if not network_of(model).refines:
            raise InputError("µ-Net looks once and starts from nothing; choose a µr-Net or no start")
        probability = (start != 0).astype(np.float32)
    refines = network_of(model).refines
    for time_point, volume in enumerate(array if array.ndim == 4 else array[None]):
        count = iterations if refines else 1
        if refines and array.ndim == 4 and probability is None:  # the others start from what is found here
            count = max(iterations, FIRST_ITERATIONS)
        for iteration in range(1, count + 1):
            # One refinement at a time, from the soft result of the last: what predict does in one go.
            before = probability if refines else None
            probability = predict(np.asarray(volume), model, 1, before)
            mask = probability > threshold
            yield Step(time_point, iteration, count, mask, int(np.count_nonzero(mask)))


def warning(grid: Volume, array: NDArray[Any], weights: Path) -> str | None:
    """Say where a layer lies outside of what the weights were trained on, None where it does not; as `infer.py`."""
    if array.ndim not in (3, 4) or not weights.is_file():
        return None
    volume = grid.with_array(np.asarray(array if array.ndim == 3 else array[0]))
    return card_line(weights, sha256_of(weights), Path("layer"), volume)


@lru_cache(maxsize=2)
def _model(weights: Path, _changed: int) -> nn.Module:
    return load_model(weights)
