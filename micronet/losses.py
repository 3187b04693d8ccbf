"""The soft F-beta loss."""

from torch import Tensor

from micronet.errors import InputError

__all__ = ["fbeta_loss"]


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
    truth = target.to(probability.dtype)
    if weight is not None:
        probability = probability * weight
        true_positives = (probability * truth).sum()
        denominator = beta_squared * (truth * weight).sum() + probability.sum()
    else:
        true_positives = (probability * truth).sum()
        denominator = beta_squared * truth.sum() + probability.sum()
    empty = denominator == 0
    score = (1 + beta_squared) * true_positives / denominator.masked_fill(empty, 1.0)
    return 1 - score.masked_fill(empty, 1.0)
