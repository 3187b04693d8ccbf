"""Random numbers of a training: a seed, a purpose and counters name one stream.

A resumed run so needs no generator's state, only the counters.
"""

from __future__ import annotations

import numpy as np

__all__ = ["DISTORTION", "DROPOUT", "ORDER", "OWN_MASK", "VIEW", "stream"]

ORDER, DISTORTION, VIEW, OWN_MASK, DROPOUT = range(5)


def stream(seed: int, purpose: int, *counters: int) -> np.random.Generator:
    """Return the generator of one stream.

    >>> stream(7, VIEW, 3).random() == stream(7, VIEW, 3).random() != stream(7, ORDER, 3).random()
    True
    """
    return np.random.default_rng([seed, purpose, *counters])
