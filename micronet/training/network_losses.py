"""The losses of larger networks: MONAI's and PyTorch's, with voxels that do not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from micronet.core.errors import InputError, setting
from micronet.training.losses import fbeta_loss

__all__ = ["Loss", "logits_of", "loss_named", "one_hot", "shares_of"]

#: Takes logits (N, C, D, H, W), target (N, 1, D, H, W) (bool of one channel, else the number of the class, uint8),
#: weight of the target's shape or None, and beta squared; returns a scalar.
Loss = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]

_OF_ONE_CHANNEL = ("bce", "weighted_bce", "fbeta")
_OF_SEVERAL = ("cross_entropy",)
_SMALLEST = 1e-6


def loss_named(name: str, out_channels: int, lumen_share: float = 0.5) -> Loss:
    """Return a loss by its name.

    Parameters
    ----------
    name : str
        ``dice``: MONAI's soft Dice. ``bce``, ``cross_entropy``: PyTorch's. ``weighted_bce``: the same, lumen counting
        ``(1 - lumen_share) / lumen_share`` times. ``boundary_dice``: soft Dice plus MONAI's boundary loss.
        ``focal``: MONAI's. ``fbeta``: that of the µ-Nets.
    out_channels : int
        Of the network.
    lumen_share : float
        Of the annotated training voxels.

    Raises
    ------
    InputError
        If the loss does not fit so many classes.
    """
    if name in _OF_ONE_CHANNEL and out_channels > 1:
        raise InputError(f"the loss {name} is of one class, the data set has {out_channels - 1} {setting('loss')}")
    if name in _OF_SEVERAL and out_channels == 1:
        raise InputError(
            f"the loss {name} is of several exclusive classes, the data set has one: bce is the same of one "
            f"{setting('loss')}"
        )
    if name == "fbeta":
        return lambda logits, target, weight, beta: fbeta_loss(torch.sigmoid(logits), target, beta, weight)
    if name in ("bce", "weighted_bce"):
        heavier = torch.tensor((1 - lumen_share) / lumen_share) if name == "weighted_bce" else None
        return lambda logits, target, weight, _: _bce(logits, target, weight, heavier)
    if name == "cross_entropy":
        return lambda logits, target, weight, _: _counted_mean(
            nn.functional.cross_entropy(logits, target[:, 0].long(), reduction="none")[:, None], weight
        )
    if name == "focal":
        focal = _monai_losses().FocalLoss(use_softmax=out_channels > 1, reduction="none")
        return lambda logits, target, weight, _: _counted_mean(focal(logits, one_hot(target, logits)), weight)
    dice = _monai_losses().DiceLoss()
    if name == "dice":
        return lambda logits, target, weight, _: _dice(dice, logits, target, weight)
    boundary = _monai_losses().BoundaryLoss()
    return lambda logits, target, weight, _: (
        _dice(dice, logits, target, weight) + _boundary(boundary, logits, target, weight)
    )


def logits_of(probability: Tensor, out_channels: int) -> Tensor:
    """Return logits (N, out_channels, ..) whose probability, as `networks.library.probability_of` has it, that is.

    They are as far from infinity as those of 1e-6.
    """
    if out_channels == 1:
        return torch.logit(probability, eps=_SMALLEST)
    background = 1 - probability.sum(1, keepdim=True)
    return torch.cat((background, probability), 1).clamp_min(_SMALLEST).log()


def shares_of(logits: Tensor) -> Tensor:
    """Return the probability of every channel: of several, background among them, they add up to 1."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)


def _bce(logits: Tensor, target: Tensor, weight: Tensor | None, heavier: Tensor | None) -> Tensor:
    heavier = None if heavier is None else heavier.to(logits.device)
    each = nn.functional.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), reduction="none", pos_weight=heavier
    )
    return _counted_mean(each, weight)


def _counted_mean(each: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over the voxels that count, and all channels."""
    if weight is None:
        return each.mean()
    return (each * weight).sum() / (weight.sum() * each.shape[1]).clamp_min(1)


def one_hot(target: Tensor, logits: Tensor) -> Tensor:
    """Return a target as 0 and 1, a channel for each of the logits', of their number type."""
    if logits.shape[1] == 1:
        return target.to(logits.dtype)
    hot = nn.functional.one_hot(target[:, 0].long(), logits.shape[1])
    return hot.movedim(-1, 1).to(logits.dtype)


def _dice(dice: Any, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    probability, truth = shares_of(logits), one_hot(target, logits)
    if weight is not None:
        probability, truth = probability * weight, truth * weight
    loss: Tensor = dice(probability, truth)
    return loss


def _boundary(boundary: Any, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return MONAI's boundary loss; a voxel that does not count counts as predicted right."""
    probability, truth = shares_of(logits), one_hot(target, logits)
    if weight is not None:
        probability = torch.where(weight > 0, probability, truth)
    if probability.shape[2] == 1:  # an image: distances lie in its plane
        probability, truth = probability[:, :, 0], truth[:, :, 0]
    loss: Tensor = boundary(probability, truth)
    return loss


def _monai_losses() -> Any:
    try:
        import monai.losses as losses
    except ImportError as error:
        raise InputError("this loss is MONAI's, which is not installed: pip install monai") from error
    return losses
