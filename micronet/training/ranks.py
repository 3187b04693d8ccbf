"""Several processes that share the steps of one training (``torchrun``): the first leads, the others compute.

The first process alone has the session: it reads commands, steps the optimiser, validates and writes. For every step it
tells the others where the training is and the weights; each takes its share of the volumes, and the first adds all
gradients in the order of the volumes. Nobody else adds anything, so any number of processes gives the same bits.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed
from torch import Tensor, nn

from micronet.core.errors import MicronetError
from micronet.training.accumulation import MeanGradient, Share
from micronet.training.scoring import numbers_of, with_numbers
from micronet.training.trainer import Trainer

__all__ = ["Processes", "RankLostError"]

# A person may think at the prompt for days while the others wait.
_PATIENCE = timedelta(days=365)


class RankLostError(MicronetError):
    """Another process of the training has ended; the step in hand has changed nothing."""


class Processes:
    """The processes of a training, joined when made; a context manager that lets the others go.

    Parameters
    ----------
    rank, size : int
        Number of this process, from 0, and of all.

    Raises
    ------
    RankLostError
        If the others cannot be reached.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        try:
            torch.distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            _lost(error)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self.rank == 0:
            with contextlib.suppress(RankLostError):  # whoever is gone need not be told
                self._tell(None)
        torch.distributed.destroy_process_group()

    def gradients(self, trainer: Trainer, indices: Sequence[int]) -> list[Share]:
        """Leave the mean gradient of these shares of the present step in the network; return what they say.

        Of the first process. The same numbers, to the bit, as `micronet.training.accumulation.gradients_of`.
        """
        mean = MeanGradient(trainer.model)
        try:
            self._tell({"indices": list(indices), "place": trainer.place()})
            self._send(_weights_of(trainer.model))
            shares = [
                share
                for first in range(0, len(indices), self.size)
                for share in self._round(trainer, indices[first:], first, mean)
            ]
        except RankLostError:
            mean.begin_share()
            raise
        mean.leave()
        return shares

    def _round(self, trainer: Trainer, indices: Sequence[int], first: int, mean: MeanGradient) -> list[Share]:
        """Compute a share in each process, this one's the `first` of the step, and add them in their order."""
        mean.begin_share()
        share = trainer.share(indices[0], first)
        gradients = self._gathered(mean.vector())
        said = self._gathered(_said(share))
        count = min(self.size, len(indices))
        for gradient in gradients[:count]:
            mean.add(gradient)
        return [_heard(share, one) for one in said[:count]]

    def follow(self, trainer: Trainer) -> None:
        """Compute what the first process asks for, until it is done. Of every other process."""
        while (told := self._hear()) is not None:
            trainer.go_to(told["place"])
            weights = _weights_of(trainer.model)
            self._send(weights)
            _take_weights(trainer.model, weights)
            indices, mean = told["indices"], MeanGradient(trainer.model)
            for first in range(0, len(indices), self.size):
                number = first + self.rank
                mean.begin_share()
                # Who has nothing to do gives something of the right size, which nobody adds.
                share = trainer.share(indices[min(number, len(indices) - 1)], number)
                self._gathered(mean.vector())
                self._gathered(_said(share))

    def _tell(self, what: Mapping[str, Any] | None) -> None:
        text = b"" if what is None else json.dumps(what).encode()
        self._send(torch.tensor([len(text)]))
        if text:
            self._send(torch.frombuffer(bytearray(text), dtype=torch.uint8))

    def _hear(self) -> dict[str, Any] | None:
        length = torch.zeros(1, dtype=torch.int64)
        self._send(length)
        if not int(length):
            return None
        text = torch.zeros(int(length), dtype=torch.uint8)
        self._send(text)
        told: dict[str, Any] = json.loads(bytes(text.numpy()))
        return told

    def _send(self, tensor: Tensor) -> None:
        """Give every process what the first has in a tensor."""
        try:
            torch.distributed.broadcast(tensor, src=0)
        except RuntimeError as error:
            _lost(error)

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        """Return, in the first process, what each has, in their order."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == 0 else None
        try:
            torch.distributed.gather(tensor, parts, dst=0)
        except RuntimeError as error:
            _lost(error)
        return parts or []


def _lost(error: Exception) -> NoReturn:
    raise RankLostError(
        "another process of this training is gone; what was trained is kept, and resume goes on from there"
    ) from error


def _weights_of(model: nn.Module) -> Tensor:
    """Return parameters and running means: (values,), float32, on the CPU."""
    return torch.cat([tensor.detach().reshape(-1).float().cpu() for tensor in _values(model)])


def _take_weights(model: nn.Module, weights: Tensor) -> None:
    at = 0
    with torch.no_grad():
        for tensor in _values(model):
            tensor.copy_(weights[at : at + tensor.numel()].reshape(tensor.shape))
            at += tensor.numel()


def _values(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *(tensor for tensor in model.buffers() if tensor.is_floating_point())]


def _said(share: Share) -> Tensor:
    return torch.tensor([share.loss, *numbers_of(share.scores)], dtype=torch.float64)


def _heard(share: Share, said: Tensor) -> Share:
    """Return what another process says of a share, as this one's own is."""
    loss, *counts = said.tolist()
    return Share(share.name, loss, with_numbers(share.scores, [int(count) for count in counts]))
