"""The loss of a whole volume, summed up over parts of it, so that no more than a part is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micronet.core.planes import Planes
from micronet.training.network_losses import Loss, logits_of, loss_named, one_hot, shares_of

__all__ = ["loss_bytes", "loss_of_volume"]

#: Voxels of a part where distances end at its faces; other losses have them smaller by `_FINER`.
PART = 1 << 21
_FINER = 8
# Losses that are of sums over a volume, whose rest is a mean over its voxels: none, or the boundary loss.
_OF_SUMS, _NO_REST = ("dice", "boundary_dice", "fbeta"), ("dice", "fbeta")
# Bytes that a voxel of a part takes, of each channel and, for its distances, of all together; measured.
_EACH, _DISTANCES = 32, 64
# MONAI's Dice loss has this above and below the line.
_SMOOTH = 1e-5


def loss_of_volume(
    name: str,
    loss: Loss,
    found: Sequence[Planes],
    target: NDArray[Any],
    weight: NDArray[np.bool_] | None,
    beta_squared: float,
) -> float:
    """Return the loss of what was found in a volume.

    Parameters
    ----------
    name : str
        As `network_losses.loss_named` has it.
    loss : Loss
        That loss.
    found : sequence of Planes, each of shape (Z, Y, X)
        Probability of each class.
    target, weight : ndarray of that shape, or None
        As `micronet.data.dataset.Sample` has them.
    beta_squared : float

    Notes
    -----
    It is what `loss` makes of the whole volume; but of ``boundary_dice``, in a volume of more than `PART` voxels, the
    distances to the boundary end at the faces of parts.
    """
    channels = 1 if len(found) == 1 else 1 + len(found)
    dice = loss_named("dice", channels)
    planes = _planes(name, target.shape)
    sums, total, counted = torch.zeros(3, channels, dtype=torch.float64), 0.0, 0.0
    for first in range(0, len(target), planes):
        part = slice(first, first + planes)
        probability = torch.from_numpy(np.stack([one[part] for one in found]))
        logits, truth = logits_of(probability[None], channels), torch.from_numpy(target[part])[None, None]
        amount = None if weight is None else torch.from_numpy(weight[part])[None, None].float()
        if name in _OF_SUMS:
            sums += _sums(logits, truth, amount)
        if name not in _NO_REST:
            mean = loss(logits, truth, amount, beta_squared)
            voxels = float(truth.numel() if amount is None else amount.sum())
            if name in _OF_SUMS:  # the mean of the boundary loss is over all voxels
                mean, voxels = mean - dice(logits, truth, amount, beta_squared), float(truth.numel())
            total, counted = total + voxels * mean.item(), counted + voxels
    rest = total / counted if counted else 0.0
    return rest + (_of_sums(name, sums, beta_squared) if name in _OF_SUMS else 0.0)


def loss_bytes(name: str, channels: int, shape: Sequence[int]) -> int:
    """Return the bytes that the loss of a (Z, Y, X) volume takes beside what it is of, at most."""
    voxels = min(shape[0], _planes(name, shape)) * shape[1] * shape[2]
    return voxels * (_EACH * channels + _DISTANCES * (name == "boundary_dice"))


def _planes(name: str, shape: Sequence[int]) -> int:
    """Return how many planes are a part."""
    part = PART if name == "boundary_dice" else PART // _FINER
    return max(1, part // (shape[1] * shape[2]))


def _sums(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return, of each channel, the sums of what is right, of the annotation and of the probability: (3, C)."""
    shares, truth = shares_of(logits), one_hot(target, logits)
    if weight is not None:
        shares, truth = shares * weight, truth * weight
    axes = (0, 2, 3, 4)
    return torch.stack([one.sum(axes, dtype=torch.float64) for one in (shares * truth, truth, shares)])


def _of_sums(name: str, sums: Tensor, beta_squared: float) -> float:
    right, annotated, predicted = sums
    if name == "fbeta":
        below = beta_squared * annotated + predicted
        return float(torch.where(below > 0, 1 - (1 + beta_squared) * right / below, 0.0).mean())
    return float((1 - (2 * right + _SMOOTH) / (annotated + predicted + _SMOOTH)).mean())
