"""Exclusive classes: which one a voxel is, by the probability of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["most_probable"]


def most_probable(probabilities: Sequence[Any] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the number of the most probable class of each voxel, 0 where background is as probable.

    Parameters
    ----------
    probabilities : (classes, Z, Y, X) array, or a sequence of volumes (Z, Y, X) that give their planes one by one
        Of each class, float in [0, 1]; what they lack to 1 is the background's.

    Returns
    -------
    ndarray of shape (Z, Y, X), uint8
        0 background, 1 the first class, ..

    Examples
    --------
    >>> shares = np.array([[0.5, 0.3, 0.1], [0.1, 0.6, 0.4]]).reshape(2, 1, 1, 3)
    >>> most_probable(shares).tolist()
    [[[1, 2, 0]]]
    """
    found = np.empty(probabilities[0].shape, np.uint8)
    for out, planes in zip(found, zip(*probabilities, strict=True), strict=True):  # no temporary of the volume's size
        shares = np.stack(planes)
        out[...] = np.argmax(np.concatenate(((1 - shares.sum(0))[None], shares)), axis=0)
    return found
