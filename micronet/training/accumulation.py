"""A step of several volumes: the gradients of each, added up in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from micronet.training import scoring

__all__ = ["MeanGradient", "Share", "gradients_of", "together"]


class Share(NamedTuple):
    """What one volume, or one batch of crops, says in a step; its gradients are left in the network."""

    name: str
    loss: float
    scores: scoring.Scored


class MeanGradient:
    """The mean gradient of several shares of one step, and the mean of what each leaves in the buffers.

    Each share must be computed from the same network: `begin_share` puts the buffers (running means of batch
    normalisation) back to what they were before the step. All additions are in the order of `add`.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = [tensor.clone() for tensor in model.buffers()]
        self._sum: Tensor | None = None
        self._count = 0

    def begin_share(self) -> None:
        """Put the buffers back."""
        with torch.no_grad():
            for tensor, before in zip(self._model.buffers(), self._before, strict=True):
                tensor.copy_(before)

    def vector(self) -> Tensor:
        """Return what the share in hand has left in the network: (values,), float32, on the CPU."""
        parts = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        parts += self._running()
        return torch.cat([part.detach().reshape(-1).float().cpu() for part in parts])

    def add(self, vector: Tensor) -> None:
        """Add what a share has left."""
        self._sum = vector.clone() if self._sum is None else self._sum.add_(vector)
        self._count += 1

    def leave(self) -> None:
        """Leave the means in the network; counters of batches have gone on by one."""
        if self._sum is None:
            raise ValueError("no share was added")
        mean, at = self._sum / self._count, 0
        with torch.no_grad():
            places = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
            for place in (*places, *self._running()):
                place.copy_(mean[at : at + place.numel()].reshape(place.shape))
                at += place.numel()

    def _running(self) -> list[Tensor]:
        return [tensor for tensor in self._model.buffers() if tensor.is_floating_point()]


def gradients_of(model: nn.Module, count: int, share: Callable[[int], Share]) -> list[Share]:
    """Compute the shares 0 .. count - 1 of a step one after another, and leave their mean gradient in the network."""
    if count == 1:
        return [share(0)]
    mean, shares = MeanGradient(model), []
    for number in range(count):
        mean.begin_share()
        shares.append(share(number))
        mean.add(mean.vector())
    mean.leave()
    return shares


def together(shares: Sequence[Share]) -> Share:
    """Return several shares as one: mean loss, counts added up."""
    if len(shares) == 1:
        return shares[0]
    name = shares[0].name if shares[0].name in ("crops", "images") else f"{len(shares)} volumes"
    return Share(
        name, sum(share.loss for share in shares) / len(shares), scoring.pooled([share.scores for share in shares])
    )
