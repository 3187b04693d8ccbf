"""A small classifier of blocks that keeps every voxel: does a block hold lumen, and where in it was that seen.

Three 3x3x3 convolutions with batch normalisation and ReLU (8, 16, 16 channels), none of which halves the resolution,
and one linear layer: its output at a voxel is the class activation there (Zhou et al. 2016), and the logit of a block
is the largest in it. A block without lumen so says of all of its voxels that they are none; one with lumen asks for a
single voxel, and what looks alike in other blocks answers with it (multiple-instance learning, Dietterich et al. 1997).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["HALO", "BlockNet", "activation_of_voxels", "block_maxima", "window_bytes"]

_CHANNELS = (8, 16, 16)
#: So many voxels to each side a voxel is judged by.
HALO = len(_CHANNELS)
# Voxels of a window that is looked at in one pass: of one shape, as what a convolution takes depends on it.
_WINDOW = (24, 64, 64)
# Bytes a voxel of a window, the most that was measured.
_WINDOW_BYTES = 1200


class BlockNet(nn.Module):
    """Takes an image (N, 1, D, H, W), normalised, and returns the activation of its voxels, a logit, as large.

    Attributes
    ----------
    layers : torch.nn.Sequential
        The convolutional layers; the last gives the features that `linear` weighs.
    linear : torch.nn.Conv3d
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for channels in _CHANNELS:
            layers += [nn.Conv3d(before, channels, 3, padding=1, bias=False), nn.BatchNorm3d(channels), nn.ReLU()]
            before = channels
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Conv3d(before, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the activation of every voxel."""
        found: Tensor = self.linear(self.layers(image))
        return found


def block_maxima(activation: Tensor, block: Sequence[int]) -> Tensor:
    """Return the largest activation of each block.

    Parameters
    ----------
    activation : Tensor of shape (N, 1, D, H, W)
    block : (z, y, x)
        Size in voxels; the last block along an axis may be shorter.

    Returns
    -------
    Tensor of shape (N, 1, blocks along D, H, W)
    """
    return nn.functional.max_pool3d(activation, tuple(block), ceil_mode=True)


def activation_of_voxels(network: BlockNet, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the activation of every voxel of a volume, computed in windows, each with what it is judged by.

    Parameters
    ----------
    network : BlockNet
    image : ndarray of shape (Z, Y, X), float32
        Normalised.
    """
    network.eval()
    padded = np.pad(image, HALO, mode="symmetric")
    found = np.empty(image.shape, np.float32)
    with torch.no_grad():
        for begin in product(*map(range, (0, 0, 0), image.shape, _WINDOW)):
            spans = list(zip(begin, _WINDOW, strict=True))
            seen = padded[tuple(slice(b, b + n + 2 * HALO) for b, n in spans)]
            inner = network(torch.from_numpy(seen)[None, None])[0, 0, HALO:-HALO, HALO:-HALO, HALO:-HALO]
            found[tuple(slice(b, b + n) for b, n in spans)] = inner.numpy()
    return found


def window_bytes(shape: Sequence[int]) -> int:
    """Return about how many bytes `activation_of_voxels` takes beside the image, filled up, and what it returns."""
    return _WINDOW_BYTES * math.prod(min(n, edge) + 2 * HALO for n, edge in zip(shape, _WINDOW, strict=True))
