"""Train the classifier of blocks, and take from where it looked what is surely lumen and what is surely none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from micronet.core.errors import InputError, setting
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.networks.blocknet import HALO, BlockNet, activation_of_voxels, block_maxima, window_bytes
from micronet.training.optimisers import Adam

__all__ = [
    "STEPS",
    "BlockMap",
    "block_map",
    "map_bytes",
    "over_voxels",
    "sparse_labels",
    "train_block_net",
    "train_bytes",
]

Labels = NDArray[np.uint8]
Array = NDArray[np.float32]

#: Of training, a minute of one core.
STEPS = 240
_RATE = 5e-3
#: Of what a step sees, along each axis, about; whole blocks, at least one.
_CROP = 48
#: So many of the blocks without lumen stay empty in the map. docs/weak.md has what was measured.
_EMPTY = 0.95
#: What is below the activation that leaves so many of them empty is surely background, what is above the other lumen.
_SURE = (0.90, 0.99)
#: Bytes a voxel of what a step sees: activations, and gradients on their way; from 590 to 850 were measured.
_STEP_BYTES = 860


def train_block_net(
    image: Array,
    blocks: Labels,
    size: Sequence[int],
    *,
    steps: int = STEPS,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] = lambda done, whole, loss: None,
) -> BlockNet:
    """Train a classifier on the blocks of one volume.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        Normalised.
    blocks : ndarray of uint8, one element a block
        0 not known, 1 holds lumen, 2 does not; as `micronet.training.blocks.labels.read_blocks` gives them.
    size : (z, y, x)
        Of a block in voxels.
    steps : int
        Each sees some neighbouring blocks.
    seed : int
        Names initial weights, draws and flips; the network repeats with the same number of PyTorch's threads.
    on_step : callable
        Receives steps done, steps to do, and the loss; may raise to stop.

    Returns
    -------
    BlockNet

    Raises
    ------
    InputError
        Where no block is known to hold lumen, or none to hold none.
    """
    check_both(blocks)
    rng = np.random.default_rng([seed, 20])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BlockNet().train()
    optimizer = Adam(network.parameters(), _RATE)
    crops = _Crops(image, blocks, size)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 + math.cos(math.pi * step / steps)) / 2
        seen, inside, truth = crops.draw(rng)
        flips = [axis for axis in (2, 3, 4) if rng.random() < 0.5]
        activation = network(seen.flip(flips)).flip(flips)[..., HALO:-HALO, HALO:-HALO, HALO:-HALO]
        logits = block_maxima(activation.masked_fill(~inside, -math.inf), size)[0, 0]
        known = truth > 0
        loss = binary_cross_entropy_with_logits(logits[known], (truth[known] == LUMEN).float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        on_step(step + 1, steps, float(loss.detach()))
    return network.eval()


def check_both(blocks: Labels) -> None:
    """Raise InputError where the blocks that are known all say the same."""
    yes, no = (int(np.count_nonzero(blocks == value)) for value in (LUMEN, BACKGROUND))
    if not yes:
        raise InputError(f"of {no:,} blocks that are known none holds lumen: there is nothing to learn it from")
    if not no:
        raise InputError(
            f"all {yes:,} blocks that are known hold lumen: nothing is known to be background; "
            f"take smaller blocks {setting('block')}"
        )


class _Crops:
    """What the steps see: some neighbouring blocks with what surrounds them."""

    def __init__(self, image: Array, blocks: Labels, size: Sequence[int]) -> None:
        self._size, self._blocks, self._shape = size, blocks, image.shape
        self._known = np.argwhere(blocks > 0)
        self._count = _blocks_at_once(blocks.shape, size)
        # Filled up to whole blocks; what is beyond the image is left out of the maxima.
        filled = [n * edge - length for n, edge, length in zip(blocks.shape, size, image.shape, strict=True)]
        self._image = np.pad(image, [(HALO, HALO + more) for more in filled], mode="symmetric")

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image (1, 1, D, H, W) with `HALO` voxels around the blocks, what is inside, and the labels."""
        one = self._known[rng.integers(len(self._known))]
        first = [
            int(rng.integers(max(0, at - count + 1), min(at, n - count) + 1))
            for at, count, n in zip(one, self._count, self._blocks.shape, strict=True)
        ]
        begin = [at * edge for at, edge in zip(first, self._size, strict=True)]
        length = [count * edge for count, edge in zip(self._count, self._size, strict=True)]
        box = tuple(slice(b, b + n + 2 * HALO) for b, n in zip(begin, length, strict=True))
        axes = [np.arange(b, b + n) < most for b, n, most in zip(begin, length, self._shape, strict=True)]
        inside = axes[0][:, None, None] & axes[1][:, None] & axes[2]
        labels = self._blocks[tuple(slice(b, b + n) for b, n in zip(first, self._count, strict=True))]
        seen = torch.from_numpy(np.ascontiguousarray(self._image[box]))
        return seen[None, None], torch.from_numpy(inside), torch.from_numpy(np.ascontiguousarray(labels))


def _blocks_at_once(blocks: Sequence[int], size: Sequence[int]) -> list[int]:
    """Return how many blocks a step sees along each axis, of so many of that size."""
    return [min(n, max(1, _CROP // edge)) for n, edge in zip(blocks, size, strict=True)]


def train_bytes(shape: Sequence[int], size: Sequence[int]) -> int:
    """Return about how many bytes the training takes beside the image, of so many voxels, in blocks of that size."""
    size = [min(edge, length) for edge, length in zip(size, shape, strict=True)]
    blocks = [-(-length // edge) for length, edge in zip(shape, size, strict=True)]
    filled = math.prod(n * edge + 2 * HALO for n, edge in zip(blocks, size, strict=True))
    counts = _blocks_at_once(blocks, size)
    return 4 * filled + _STEP_BYTES * math.prod(n * edge + 2 * HALO for n, edge in zip(counts, size, strict=True))


def map_bytes(shape: Sequence[int]) -> int:
    """Return about how many bytes the map, and what is sure of it, take beside the image."""
    padded = math.prod(length + 2 * HALO for length in shape)
    return 8 * math.prod(shape) + max(4 * padded + window_bytes(shape), 4 * math.prod(shape))


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Where a classifier of blocks saw lumen.

    Parameters
    ----------
    activation : ndarray of shape (Z, Y, X), float32
        A logit; what is larger looks more like what blocks with lumen have and others have not.
    threshold : float
        Where it is cut.
    sure : (float, float)
        Below the first a voxel is surely background, above the second surely lumen.
    empty : ndarray of bool, shape (Z, Y, X)
        Voxels of blocks that are known to hold no lumen.
    """

    activation: Array
    threshold: float
    sure: tuple[float, float]
    empty: NDArray[np.bool_]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """What the map alone says is lumen."""
        return (self.activation > self.threshold) & ~self.empty


def block_map(network: BlockNet, image: Array, blocks: Labels, size: Sequence[int]) -> BlockMap:
    """Return where a classifier saw lumen, cut so that 19 of 20 blocks without lumen are empty; all then become so.

    Arguments as `train_block_net`.
    """
    activation = activation_of_voxels(network, image)
    largest = block_maxima(torch.from_numpy(activation)[None, None], size)[0, 0].numpy()
    low, threshold, high = (float(np.quantile(largest[blocks == BACKGROUND], p)) for p in (_SURE[0], _EMPTY, _SURE[1]))
    return BlockMap(activation, threshold, (low, high), over_voxels(blocks == BACKGROUND, size, image.shape))


def sparse_labels(found: BlockMap, blocks: Labels, size: Sequence[int]) -> Labels:
    """Return what is sure: 1 lumen, 2 background, 0 neither, of the voxels of known blocks.

    Parameters
    ----------
    found : BlockMap
    blocks, size
        As in `train_block_net`.

    Returns
    -------
    ndarray of uint8, shape (Z, Y, X)
        Of blocks with lumen the voxels that are surely one or the other; of those without all.

    Raises
    ------
    InputError
        If nothing is sure to be lumen.
    """
    labels = np.zeros(found.activation.shape, np.uint8)
    yes = over_voxels(blocks == LUMEN, size, labels.shape)
    labels[yes & (found.activation > found.sure[1])] = LUMEN
    labels[(yes & (found.activation < found.sure[0])) | found.empty] = BACKGROUND
    if not (labels == LUMEN).any():
        raise InputError("the classifier of blocks is sure of no voxel that it is lumen: label more blocks")
    return labels


def over_voxels(blocks: NDArray[np.bool_], size: Sequence[int], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return what is said of blocks for each of their voxels."""
    places = [np.arange(length) // edge for length, edge in zip(shape, size, strict=True)]
    return blocks[np.ix_(*places)]
