"""Teach a pixel network on the annotated voxels of a volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from micronet.networks.kernels.boosting import check_classes
from micronet.networks.pixel import PixelNetwork
from micronet.training.optimisers import AdamW

__all__ = ["train_pixel_network"]

# Voxels that each member draws in each step, and the learning rate of the first.
_BATCH, _RATE = 8192, 5e-3


def train_pixel_network(
    features: NDArray[np.float32],
    lumen: NDArray[np.bool_],
    scales_um: Sequence[float],
    *,
    members: int = 3,
    steps: int = 400,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> PixelNetwork:
    """Train a pixel network on features of annotated voxels.

    Parameters
    ----------
    features : ndarray of shape (voxels, features), float32
        As `micronet.networks.kernels.scale_space.features_at` gives them.
    lumen : ndarray of bool, shape (voxels,)
        What the person says that the voxels are: lumen or background.
    scales_um : sequence of float
        Of the features.
    members, steps : int
        Perceptrons, and draws of voxels that each of them learns from.
    seed : int
        Names the initial weights and the draws; the weights repeat with the same number of PyTorch's threads.
    on_step : callable, optional
        Receives the number of steps done and the loss of the last.

    Returns
    -------
    PixelNetwork

    Raises
    ------
    InputError
        If one of the classes is missing.

    Notes
    -----
    The loss is cross-entropy plus one minus the soft Dice of the batch (Milletari et al. 2016), of each member; the
    optimiser AdamW (Loshchilov and Hutter 2019), its learning rate falls to 0 along half a cosine.
    """
    check_classes(lumen)
    generator = torch.Generator().manual_seed(seed)
    network = PixelNetwork(scales_um, members, generator=generator)
    _normalise_by(network, features)
    inputs, target = network.normalized(torch.from_numpy(features)), torch.from_numpy(lumen.astype(np.float32))
    optimizer = AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 + math.cos(math.pi * step / steps)) / 2
        drawn = torch.randint(len(inputs), (members, min(_BATCH, len(inputs))), generator=generator)
        logits, truth = network(inputs[drawn]), target[drawn]
        loss = _loss(logits, truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, float(loss.detach()) / members)
    return network.eval()


def _normalise_by(network: PixelNetwork, features: NDArray[np.float32]) -> None:
    """Let a network see features as multiples of their standard deviation from their mean."""
    network.feature_mean.copy_(torch.from_numpy(features.mean(0, dtype=np.float64)))
    # Where all annotated voxels agree, as where one is alone, a feature tells nothing.
    spread = features.std(0, dtype=np.float64)
    network.feature_sd.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))


def _loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy plus one minus soft Dice, summed over the members."""
    probability = torch.sigmoid(logits)
    both = (probability * truth).sum(1)
    dice = (2 * both + 1) / (probability.sum(1) + truth.sum(1) + 1)
    entropy = binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    return (entropy + 1 - dice).sum()
