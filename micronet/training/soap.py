"""SOAP: Adam in the axes in which the gradients of a layer vary. Made for networks as small as these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from micronet.core.errors import InputError

__all__ = ["Soap"]

#: Weight of the past, at every step: in the mean gradient, and in the second moments.
_PAST = 0.95
#: Steps between two looks for new axes.
_EVERY = 5
# What is divided by is at least this part of its mean over a layer: below lie rounding errors.
_LEAST = 1e-5
_SIDES = ("left", "right")


class Soap(torch.optim.Optimizer):
    """Adam in the eigenvectors of the gradients' second moments (Vyas et al. 2024, arXiv:2409.11321).

    Adam scales each weight by itself, which ignores that the weights of a convolution see nearly the same voxels. Here
    a layer's gradient G, (outputs, inputs x taps), is turned into the eigenvectors of the running means of G Gᵀ
    and Gᵀ G, scaled there as Adam does, and turned back. With a few thousand weights that costs milliseconds a step,
    and saves most of the steps (docs/training.md).

    Parameters
    ----------
    parameters : iterable of Tensor
        float32 or float64; those of one axis (biases) are scaled one by one, as Adam does.
    lr : float
        Positive; may be changed between steps (``param_groups``).

    Raises
    ------
    InputError
        If `lr` is not positive.

    Notes
    -----
    Beside what Vyas et al. do, the second moments follow the axes when these turn: v becomes (QᵀP)² v, where P are the
    old and Q the new axes and the square is taken entry by entry, which is exact where moments along different
    axes do not correlate. All state is tensors of the parameter's dtype and one integer; the axes are computed in
    float64. A gradient that is not finite leaves the axes as they are.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, -2.0]]))
    >>> optimizer = Soap([weight], lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     ((weight @ torch.tensor([[1.0, 0.9], [0.9, 1.0]])) ** 2).sum().backward()
    ...     loss = optimizer.step()
    >>> bool(weight.abs().max() < 0.2)
    True
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        if not lr > 0:
            raise InputError(f"the learning rate must be positive, found {lr}")
        super().__init__(list(parameters), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the parameters once; `closure`, if given, computes the gradients and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = parameter.grad.reshape(len(parameter) if parameter.ndim > 1 else 1, -1)
                    change = _direction(self.state[parameter], gradient, turns=parameter.ndim > 1)
                    parameter.add_(change.reshape(parameter.shape), alpha=-group["lr"])
        return loss


def _direction(state: dict[str, Any], gradient: Tensor, *, turns: bool) -> Tensor:
    """Return the step of one layer, of about 1 along every axis, for a gradient (outputs, inputs x taps)."""
    if not state:
        state["step"] = 0
        state["mean"], state["squares"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        for side, length in zip(_SIDES, gradient.shape, strict=True):
            state[side] = gradient.new_zeros(length, length)
            state[f"{side} axes"] = torch.eye(length, dtype=gradient.dtype, device=gradient.device)
    if turns:
        state["left"].lerp_(gradient @ gradient.T, 1 - _PAST)
        state["right"].lerp_(gradient.T @ gradient, 1 - _PAST)
        if state["step"] % _EVERY == 0:
            _turn(state)
    left, right = (state[f"{side} axes"] for side in _SIDES)
    state["step"] += 1
    so_far = 1 - _PAST ** state["step"]
    state["mean"].lerp_(gradient, 1 - _PAST)
    state["squares"].lerp_((left.T @ gradient @ right).square(), 1 - _PAST)
    scale = (state["squares"] / so_far).sqrt()
    along = left.T @ (state["mean"] / so_far) @ right / (scale + _LEAST * scale.mean()).clamp_min(1e-30)
    step: Tensor = left @ along @ right.T
    return step


def _turn(state: dict[str, Any]) -> None:
    """Find new axes, and what the second moments are along them."""
    if not (torch.isfinite(state["left"]).all() and torch.isfinite(state["right"]).all()):
        return
    for side in _SIDES:
        axes = torch.linalg.eigh(state[side].double()).eigenvectors.to(state[side].dtype)
        share = (axes.T @ state[f"{side} axes"]).square()
        state["squares"] = share @ state["squares"] if side == "left" else state["squares"] @ share.T
        state[f"{side} axes"] = axes
