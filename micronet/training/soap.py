"""SOAP: Adam in the axes in which the gradients of a layer vary. Made for networks as small as these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from micronet.core.errors import InputError
from micronet.training.optimisers import eager

__all__ = ["Soap"]

#: Weight of the past, at every step: in the mean gradient, and in the second moments.
_PAST = 0.95
#: Steps between two looks for new axes.
_EVERY = 5
# What is divided by is at least this part of its mean over a layer: below lie rounding errors.
_LEAST = 1e-5
_SIDES = ("left", "right")
# Longer sides of a layer keep the axes that they have, as Vyas et al. do above 10,000: their eigenvectors cost too
# much. None of a µ-Net's is a third of it.
_LONGEST = 1024


@eager
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
    weight_decay : float
        Every step takes this part of each weight away, times the rate (decoupled, Loshchilov and Hutter 2019).

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

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        if not lr > 0:
            raise InputError(f"the learning rate must be positive, found {lr}")
        super().__init__(list(parameters), {"lr": lr, "weight_decay": weight_decay})

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
                    if decay := group.get("weight_decay"):  # a session of before it was there has none
                        parameter.mul_(1 - group["lr"] * decay)
                    parameter.add_(change.reshape(parameter.shape), alpha=-group["lr"])
        return loss


def _direction(state: dict[str, Any], gradient: Tensor, *, turns: bool) -> Tensor:
    """Return the step of one layer, of about 1 along every axis, for a gradient (outputs, inputs x taps)."""
    if not state:
        state["step"] = 0
        state["mean"], state["squares"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        for side, length in _turned(gradient):
            state[side] = gradient.new_zeros(length, length)
            state[f"{side} axes"] = torch.eye(length, dtype=gradient.dtype, device=gradient.device)
    if turns:
        for side, _ in _turned(gradient):
            state[side].lerp_(gradient @ gradient.T if side == "left" else gradient.T @ gradient, 1 - _PAST)
        if state["step"] % _EVERY == 0:
            _turn(state)
    state["step"] += 1
    so_far = 1 - _PAST ** state["step"]
    state["mean"].lerp_(gradient, 1 - _PAST)
    state["squares"].lerp_(_along(state, gradient).square(), 1 - _PAST)
    scale = (state["squares"] / so_far).sqrt()
    along = _along(state, state["mean"] / so_far) / (scale + _LEAST * scale.mean()).clamp_min(1e-30)
    return _along(state, along, back=True)


def _turned(gradient: Tensor) -> list[tuple[str, int]]:
    """Return the sides of a layer whose axes turn, with their lengths."""
    return [(side, length) for side, length in zip(_SIDES, gradient.shape, strict=True) if length <= _LONGEST]


def _along(state: dict[str, Any], values: Tensor, *, back: bool = False) -> Tensor:
    """Return what (outputs, inputs x taps) is along the axes; with `back`, what was along them."""
    left, right = (state.get(f"{side} axes") for side in _SIDES)
    if left is not None:
        values = (left if back else left.T) @ values
    if right is not None:
        values = values @ (right.T if back else right)
    return values


def _turn(state: dict[str, Any]) -> None:
    """Find new axes, and what the second moments are along them."""
    sides = [side for side in _SIDES if side in state]
    if not all(torch.isfinite(state[side]).all() for side in sides):
        return
    for side in sides:
        axes = torch.linalg.eigh(state[side].double()).eigenvectors.to(state[side].dtype)
        share = (axes.T @ state[f"{side} axes"]).square()
        state["squares"] = share @ state["squares"] if side == "left" else state["squares"] @ share.T
        state[f"{side} axes"] = axes
