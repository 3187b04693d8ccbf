"""PyTorch's optimisers as trainings here use them: without its compiler."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

__all__ = ["SGD", "Adam", "AdamW", "RMSprop", "eager"]

_Kind = TypeVar("_Kind", bound=type[torch.optim.Optimizer])


def eager(kind: _Kind) -> _Kind:
    """Keep the methods of an optimiser's class from importing PyTorch's compiler, which nothing here uses.

    PyTorch shields them from being compiled with decorators that import ``torch._dynamo`` at the first call: 2 s
    at every start of a training. What they decorate is called as it is; none is differentiable.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        setattr(kind, name, inspect.unwrap(getattr(kind, name)))
    kind.step = torch.no_grad()(inspect.unwrap(kind.step))  # type: ignore[method-assign]
    return kind


@eager
class Adam(torch.optim.Adam):
    """As `torch.optim.Adam`."""


@eager
class AdamW(torch.optim.AdamW):
    """As `torch.optim.AdamW`."""


@eager
class SGD(torch.optim.SGD):
    """As `torch.optim.SGD`."""


@eager
class RMSprop(torch.optim.RMSprop):
    """As `torch.optim.RMSprop`."""
