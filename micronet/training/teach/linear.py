"""Logistic regression on the features of annotated voxels: what few strokes can teach with the fewest numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.boosting import Trees, check_classes
from micronet.networks.pixel_trees import PixelTrees

__all__ = ["train_linear"]

# Steps of Newton's method, none of which changes a slope by more than 1; and the steepest logit.
_STEPS, _STEEPEST = 100, 500.0
_SAME = 1e-6


def train_linear(
    features: NDArray[np.float32],
    lumen: NDArray[np.bool_],
    scales_um: Sequence[float],
    *,
    penalty: float = 10.0,
    around_um: float = 0.0,
) -> PixelTrees:
    """Fit a logistic regression to features of annotated voxels, by Newton's method (Nelder and Wedderburn 1972).

    Parameters
    ----------
    features, lumen, scales_um, around_um
        As `micronet.networks.pixel_trees.train_pixel_trees`.
    penalty : float
        Half of it times the squared slopes, of features as multiples of their standard deviation, is added to the
        cross-entropy, which is summed over the voxels.

    Returns
    -------
    PixelTrees
        Without any trees: a start, and a slope for each feature.

    Raises
    ------
    InputError
        If a class is missing.
    """
    check_classes(lumen)
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.where(spread > _SAME, 1 / np.maximum(spread, _SAME), 0.0)  # what does not vary tells nothing
    x = np.hstack([(features - mean) * scale, np.ones((len(features), 1))])
    held = np.append(np.full(features.shape[1], penalty), 0.0)  # the start is free
    weight = np.append(np.zeros(features.shape[1]), np.log(lumen.mean() / (1 - lumen.mean())))
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weight, -_STEEPEST, _STEEPEST)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(held)
        step = np.linalg.solve(curvature, x.T @ (lumen - p) - held * weight)
        largest = np.abs(step).max()
        weight += step / max(largest, 1.0)
        if largest < 1e-9:
            break
    slope = weight[:-1] * scale
    start, nothing = float(np.float32(weight[-1] - slope @ mean)), np.empty((0, 1))
    trees = Trees(
        nothing.astype(np.int32), nothing.astype(np.float32), np.empty((0, 2), np.float32), start,
        slope.astype(np.float32),
    )  # fmt: skip
    return PixelTrees(tuple(float(np.float32(scale)) for scale in scales_um), trees, float(np.float32(around_um)))
