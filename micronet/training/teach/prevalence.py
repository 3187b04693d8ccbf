"""How common lumen is in a volume of which strokes are annotated, and what that changes.

A person paints about as many strokes of lumen as of background; in the volume lumen may be a twentieth. A learner takes
the strokes' share for the volume's and calls too much lumen. The volume itself says better: the share is the one at
which the probabilities, corrected for it, have it as their mean (Saerens, Latinne and Decaestecker 2002). Whole slices
are no such choice of the person's; there the correction made results worse, and is not to be used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["annotated_slices", "annotates_slices", "logit_shift", "prevalence"]

#: From this share of its voxels on a slice counts as annotated; below, there are strokes in it.
_DENSE = 0.5
_LEAST = 1e-4


def annotated_slices(labels: NDArray[np.uint8]) -> tuple[int, NDArray[np.bool_]] | None:
    """Return an axis, and of every slice along it whether it is annotated mostly, if most annotated voxels lie in such.

    A few strokes beside an annotated slice do not make it strokes; of strokes alone None is returned.

    Parameters
    ----------
    labels : ndarray of uint8, shape (Z, Y, X)
        0 not annotated.
    """
    annotated = labels > 0
    total = np.count_nonzero(annotated)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(annotated, axis=others)
        dense = counts >= _DENSE * labels.size / labels.shape[axis]
        if counts[dense].sum() > 0.5 * total:
            return axis, np.asarray(dense)
    return None


def annotates_slices(labels: NDArray[np.uint8]) -> bool:
    """Return whether slices were annotated, not strokes alone; arguments as `annotated_slices`."""
    return annotated_slices(labels) is not None


def prevalence(probability: NDArray[np.float32], taught: float) -> float:
    """Return the share of lumen in a volume.

    Parameters
    ----------
    probability : ndarray of float32, any shape
        What a learner says of voxels all over the volume.
    taught : float
        Share of lumen in what it learned from, above 0 and below 1.

    Returns
    -------
    float
        At least 0.0001 and at most 0.9999.

    Notes
    -----
    Expectation maximisation: the mean of ``p r / (p r + (1 - p) s)``, r and s the present shares of lumen and of
    background over the taught ones, is the next share.
    """
    # A histogram of the probabilities does for the mean: a thousandth of a share is nobody's concern.
    counts, edges = np.histogram(probability, 4096, (0.0, 1.0))
    p, weight = (edges[1:] + edges[:-1]) / 2, counts / max(counts.sum(), 1)
    share = taught
    for _ in range(1000):
        lumen = p * share / taught
        found = float(weight @ (lumen / (lumen + (1 - p) * (1 - share) / (1 - taught))))
        found = min(max(found, _LEAST), 1 - _LEAST)
        if abs(found - share) < 1e-6:
            break
        share = found
    return found


def logit_shift(found: float, taught: float) -> float:
    """Return what to add to logits so that lumen is as common as found, not as taught.

    >>> round(logit_shift(0.1, 0.5), 4)
    -2.1972
    """
    return float(np.log(found / (1 - found)) - np.log(taught / (1 - taught)))
