"""Weights of a convolution as the micro-kernels read them: blocks [dx 3][dy 3][output 4] (microkernels.BLOCK).

``taps[m, c]`` is the block of input channel c summed over the z taps in the set m, a bit for each dz (1: z - 1, 2: z,
4: z + 1). Single bits are plain convolution; more than one bit is for planes that several taps read, as they do where
a plane is shown repeatedly (nearest upsampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.layout import Array

__all__ = ["DZ_IN_SET", "Packed", "pack"]

#: DZ_IN_SET[m] are the z taps in set m.
DZ_IN_SET = [[dz for dz in range(3) if m >> dz & 1] for m in range(8)]


@dataclass(frozen=True)
class Packed:
    """One convolution.

    Parameters
    ----------
    taps : ndarray of shape (8, inputs, 3, 3, 4)
        ``taps[m, i, dx, dy, o]``, zero for outputs that the convolution does not have.
    bias : ndarray of shape (4,)
        Zero where there is no such output.
    back : ndarray of shape (groups, 8, outputs, 3, 3, 4)
        The adjoint: ``back[g, m, o, dx, dy, i]`` leads from output o to inputs 4 g .. 4 g + 3; dx and dy flipped, m
        not (backward code lists the planes that each z tap reached).
    """

    taps: Array
    bias: Array
    back: Array


def _in_sets(weight: NDArray[np.float64]) -> Array:
    """Sum (inputs, outputs, dz, dy, dx) over sets of dz; return float32 (8, inputs, dx, dy, 4)."""
    inputs, outputs = weight.shape[:2]
    sets = np.zeros((8, inputs, 3, 3, 4))
    for m, members in enumerate(DZ_IN_SET):
        for dz in members:
            sets[m, ..., :outputs] += weight[:, :, dz].transpose(0, 3, 2, 1)
    return sets.astype(np.float32)


def pack(weight: Array, bias: Array, groups: list[list[int]]) -> Packed:
    """Pack a convolution of weight (outputs, inputs, 3, 3, 3) and bias (outputs,).

    Parameters
    ----------
    weight, bias : ndarray, float32
        As in PyTorch.
    groups : list of list of int
        The input channels of each gradient that backward asks for, at most four each; an input channel of -1 stands
        for a channel of zeros.
    """
    wide = weight.astype(np.float64)
    adjoint = [
        _in_sets(np.stack([wide[:, i] if i >= 0 else 0 * wide[:, 0] for i in group], axis=1)[..., ::-1, ::-1])
        for group in groups
    ]
    padded_bias = np.zeros(4, np.float32)
    padded_bias[: len(bias)] = bias
    back = np.stack(adjoint) if adjoint else np.zeros((0, 8, len(bias), 3, 3, 4), np.float32)
    return Packed(_in_sets(wide.transpose(1, 0, 2, 3, 4)), padded_bias, back)
