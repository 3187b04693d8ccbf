"""The soft F-beta loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from micronet.core.errors import InputError
from micronet.core.threads import Team, split
from micronet.networks.kernels.kept import kept_array

__all__ = ["fbeta_loss"]

#: Voxels that are worked on at a time: what they need stays in a core's second cache.
_PIECE = 1 << 16


def fbeta_loss(probability: Tensor, target: Tensor, beta_squared: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Return one minus the soft F-beta score, pooled over the batch.

    Parameters
    ----------
    probability : Tensor of shape (N, 1, D, H, W)
        Foreground probability in [0, 1] (not logits).
    target : Tensor of the same shape
        Annotation, bool or {0, 1}.
    beta_squared : float
        Positive; below 1 favours precision, above 1 recall.
    weight : Tensor of the same shape, optional
        Non-negative weight of each voxel; voxels of weight 0 (not annotated) do not count at all.

    Returns
    -------
    Tensor of shape ()
        ``1 - (1 + b) tp / ((1 + b) tp + b fn + fp)`` with ``b = beta_squared``. Nothing to find and nothing
        predicted gives 0.

    Raises
    ------
    InputError
        If the shapes differ or `beta_squared` is not positive.

    Notes
    -----
    With T the sum of the target and P that of the probability, ``fn = T - tp`` and ``fp = P - tp``: the
    denominator is ``b T + P``, so two sums and one product suffice. Source: van Rijsbergen 1979, chapter 7.

    >>> import torch
    >>> p = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])  # tp 3, fp 1, fn 2
    >>> t = torch.tensor([1, 1, 1, 0, 1, 1])
    >>> round(float(1 - fbeta_loss(p, t)), 4)
    0.6667
    """
    if probability.shape != target.shape or (weight is not None and weight.shape != target.shape):
        shapes = [tuple(t.shape) for t in (probability, target, weight) if t is not None]
        raise InputError(f"probability, target and weight differ in shape: {shapes}")
    if not beta_squared > 0:
        raise InputError(f"beta squared must be positive, found {beta_squared}")
    given = [tensor for tensor in (probability, target, weight) if tensor is not None]
    if (
        all(type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" for tensor in given)
        and probability.dtype == torch.float32
        and not any(tensor.requires_grad for tensor in given[1:])
        and not torch.compiler.is_compiling()
    ):
        loss: Tensor = _FbetaLoss.apply(probability, target, weight, beta_squared)  # type: ignore[no-untyped-call]
        return loss
    return _formula(probability, target, beta_squared, weight)


def _formula(probability: Tensor, target: Tensor, beta_squared: float, weight: Tensor | None) -> Tensor:
    """Return the loss as PyTorch computes and differentiates it, on any device."""
    truth = target.to(probability.dtype)
    true_positives, whole = probability * truth, truth
    if weight is not None:
        probability, true_positives, whole = probability * weight, true_positives * weight, truth * weight
    denominator = beta_squared * whole.sum() + probability.sum()
    empty = denominator == 0
    score = (1 + beta_squared) * true_positives.sum() / denominator.masked_fill(empty, 1.0)
    return 1 - score.masked_fill(empty, 1.0)


class _FbetaLoss(torch.autograd.Function):
    """`_formula` for float32 on the CPU: once through memory for the loss, once for its gradient.

    PyTorch writes and reads several arrays of the volume's size. Sums of pieces are added up in float64.
    """

    @staticmethod
    def forward(ctx: Any, probability: Tensor, target: Tensor, weight: Tensor | None, beta_squared: float) -> Tensor:
        tensors = [probability, target, *([] if weight is None else [weight])]

        def sums(pieces: Iterator[list[NDArray[np.float32]]]) -> NDArray[np.float64]:
            total = np.zeros(3)
            for chances, truth, *counted in pieces:
                for amount in counted:
                    chances = chances * amount
                found = chances * truth
                for amount in counted:
                    truth *= amount
                total += found.sum(), chances.sum(), truth.sum()
            return total

        true_positives, predicted, whole = sum(_in_parts([tensor.detach() for tensor in tensors], sums))
        denominator = beta_squared * whole + predicted
        share = (1 + beta_squared) / (denominator or 1.0)
        ctx.save_for_backward(*tensors)
        ctx.slopes = share, share * true_positives / (denominator or 1.0)
        return probability.new_tensor(1 - share * true_positives if denominator != 0 else 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        probability, *others = ctx.saved_tensors
        result = torch.from_numpy(kept_array(tuple(probability.shape)))
        lumen, anywhere = (np.float32(float(gradient) * slope) for slope in ctx.slopes)

        def slopes(pieces: Iterator[list[NDArray[np.float32]]]) -> None:
            for slope, truth, *counted in pieces:
                np.multiply(truth, -lumen, out=slope)
                slope += anywhere
                for amount in counted:
                    slope *= amount

        _in_parts([result, *others], slopes)
        return result, None, None, None


def _in_parts(tensors: list[Tensor], job: Callable[[Iterator[list[NDArray[np.float32]]]], Any]) -> list[Any]:
    """Return what `job` makes of each thread's part: of pieces of the flattened tensors, the first one's a view."""
    first, *others = (tensor.numpy().reshape(-1) for tensor in tensors)

    def part(begin: int, end: int) -> Any:
        places = (slice(at, min(at + _PIECE, end)) for at in range(begin, end, _PIECE))
        return job([first[place], *(other[place].astype(np.float32) for other in others)] for place in places)

    with Team(torch.get_num_threads()) as team:
        return team.run(part, split(first.size, team.threads, _PIECE))
