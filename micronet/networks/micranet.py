"""MICRA-Net's way: a network that learns which classes an image holds; where it looked is read from its layers.

Four blocks of two 3x3 convolutions (3x3x3 in 3-D), each with batch normalisation and ReLU, with 2x max pooling between
blocks; the maximum over the image, dropout, and a linear layer: one logit a class, several classes at once. Asked for
blocks of voxels it takes the maximum over each block instead, of the same layers: one pass over an image says which of
its blocks hold what, each seen with what surrounds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from micronet.core.classes import check_classes
from micronet.core.errors import InputError, setting
from micronet.networks.class_names import class_names, class_names_tensor
from micronet.networks.library import MOST_PARAMETERS

__all__ = ["STRIDE", "MicraNet", "is_micranet", "micranet_for_state", "micranet_parameters"]

#: Voxels along each axis that one activation of the last layer stands for: 2 for each of three poolings.
STRIDE = 8
_BLOCKS = 4
_PREFIX = "image_config."
_USUAL_CHANNELS, _MOST_CHANNELS = 32, 512


class MicraNet(nn.Module):
    """Takes images (N, 1, D, H, W), normalised, and says which classes each of them holds.

    Parameters
    ----------
    dimensions : {2, 3}
        A 2-D network takes slices, D = 1.
    classes : sequence of str
        Their names; any number of them may be in one image.
    start_channels : int
        Of the first block; each block after it has twice as many.
    dropout : float
        Share of the pooled features that a training step leaves out.

    Attributes
    ----------
    dimensions : int
    classes : tuple of str
    start_channels : int
    layers : tuple of torch.nn.ReLU
        What ends each of the eight convolutional layers, the first of them first.

    Raises
    ------
    InputError
        For values that no network is built with.
    """

    name: ClassVar[str] = "micranet"
    title: ClassVar[str] = "MICRA-Net"

    def __init__(
        self,
        dimensions: int = 2,
        classes: Sequence[str] = ("lumen",),
        start_channels: int = _USUAL_CHANNELS,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if dimensions not in (2, 3):
            raise InputError(f"dimensions must be 2 or 3, found {dimensions} {setting('dimensions')}")
        if not 1 <= start_channels <= _MOST_CHANNELS:
            raise InputError(
                f"start_channels must be a whole number from 1 to {_MOST_CHANNELS}, found {start_channels} "
                f"{setting('start_channels')}"
            )
        self.dimensions, self.start_channels = dimensions, start_channels
        self.classes = check_classes(classes)
        about = micranet_parameters(dimensions, start_channels, len(self.classes))
        if about > MOST_PARAMETERS:
            raise InputError(
                f"a {self.title} like this has {about:,} parameters, at most {MOST_PARAMETERS:,} are built: make it "
                f"smaller {setting('start_channels')}"
            )
        self.image_config = _Config(dimensions, start_channels, self.classes)
        ends = [1, *(start_channels * 2**block for block in range(_BLOCKS))]
        self.blocks = nn.ModuleList(_block(before, after, dimensions) for before, after in pairwise(ends))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(ends[-1], len(self.classes))

    @property
    def settings(self) -> dict[str, Any]:
        """How it is built, as its constructor takes it."""
        return {"dimensions": self.dimensions, "classes": self.classes, "start_channels": self.start_channels}

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The modules whose outputs are `features`."""
        return tuple(module for module in self.blocks.modules() if isinstance(module, nn.ReLU))

    @property
    def parameter_count(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def voxel_bytes(self) -> int:
        """Bytes a voxel that a pass takes beside its input, about, gradients of all layers included; measured."""
        held = sum(2.0**block / 2 ** (block * self.dimensions) for block in range(_BLOCKS))
        # Two layers a block: convolution, normalised, ReLU, gradient. A 3-D convolution works in memory of its own.
        return int(4 * 8 * self.start_channels * held) + (160 if self.dimensions == 3 else 0)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the activations of the eight layers, the first first, each computed from the one before it.

        Parameters
        ----------
        x : Tensor of shape (N, 1, D, H, W)
            Normalised; any size.

        Returns
        -------
        list of Tensor
            Of shape (N, channels, D, H, W) in 3-D, (N, channels, H, W) in 2-D; H of the two layers of block b is that
            of `x` divided by 2^b, rounded up, and so are the other axes. Gradients run from `scores_of` the last
            through all of them.
        """
        if x.ndim != 5 or x.shape[1] != 1 or 0 in x.shape:
            raise InputError(f"{self.title} takes (N, 1, D, H, W), found {tuple(x.shape)}")
        if self.dimensions == 2 and x.shape[2] != 1:
            raise InputError(f"a 2-D {self.title} takes slices, found {x.shape[2]} of them in one image")
        found = []
        x = x[:, :, 0] if self.dimensions == 2 else x
        for number, block in enumerate(self.blocks):
            if number:
                x = self._pooled(x, 2)
            for module in cast(nn.Sequential, block):
                x = module(x)
                if isinstance(module, nn.ReLU):
                    found.append(x)
        return found

    def scores_of(self, last: Tensor, block: int | None = None) -> Tensor:
        """Return the logits of the classes from the activations of the last layer.

        Parameters
        ----------
        last : Tensor of shape (N, channels, [D,] H, W)
            The last of `features`.
        block : int, optional
            Edge of blocks in voxels, a multiple of `STRIDE`; default: the image is one.

        Returns
        -------
        Tensor
            (N, classes), or of blocks (N, classes, D, H, W) with one element a block, counted from the first voxel;
            the last along an axis may be shorter. A block of a 2-D network is a square of its slice.
        """
        if block is None:
            logits: Tensor = self.linear(self.dropout(last.flatten(2).amax(2)))
            return logits
        if block < STRIDE or block % STRIDE:
            raise InputError(f"the edge of a block must be a multiple of {STRIDE} voxels, found {block}")
        pooled = self._pooled(last, block // STRIDE)
        pooled = pooled[:, :, None] if self.dimensions == 2 else pooled
        blocks: Tensor = self.linear(self.dropout(pooled.movedim(1, -1))).movedim(-1, 1)
        return blocks

    def scores(self, x: Tensor, block: int | None = None) -> Tensor:
        """Return the logits of what `features` takes, as `scores_of`."""
        return self.scores_of(self.features(x)[-1], block)

    def forward(self, x: Tensor) -> Tensor:
        """Return the probability (N, classes) that an image holds each class; they do not exclude each other."""
        return torch.sigmoid(self.scores(x))

    def _pooled(self, x: Tensor, edge: int) -> Tensor:
        """Return the maxima of squares or cubes; the last along an axis may be shorter, so that any size is taken."""
        pooling = nn.functional.max_pool2d if self.dimensions == 2 else nn.functional.max_pool3d
        return pooling(x, edge, ceil_mode=True)


class _Config(nn.Module):
    """Settings as tensors, so that the weights alone say what they are of."""

    def __init__(self, dimensions: int, start_channels: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("dimensions", torch.tensor(float(dimensions)))
        self.register_buffer("start_channels", torch.tensor(float(start_channels)))
        self.register_buffer("classes", class_names_tensor(classes))


def _block(before: int, after: int, dimensions: int) -> nn.Sequential:
    convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dimensions == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    for channels in (before, after):  # no bias: the normalisation has one
        layers += [convolution(channels, after, 3, padding=1, bias=False), norm(after), nn.ReLU()]
    return nn.Sequential(*layers)


def micranet_parameters(dimensions: int, start_channels: int, classes: int) -> int:
    """Return how many weights and biases a network has, before any memory is taken.

    >>> micranet_parameters(2, 32, 1)
    1172897
    """
    ends: list[int] = [start_channels * 2**block for block in range(_BLOCKS)]
    before = [1, *ends[:-1]]
    taps: int = 3**dimensions
    convolutions = sum(taps * (one + two) * two + 4 * two for one, two in zip(before, ends, strict=True))
    return convolutions + (ends[-1] + 1) * classes


def is_micranet(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a network of this module."""
    return any(key.startswith(_PREFIX) for key in state)


def micranet_for_state(state: Mapping[str, Tensor]) -> MicraNet:
    """Build the network that a state dict states the settings of, with fresh weights.

    Raises
    ------
    InputError
        If they are missing, or not those of a network that is built.
    """
    dimensions, start = (_whole(state, name) for name in ("dimensions", "start_channels"))
    classes = class_names(state.get(f"{_PREFIX}classes"), f"{_PREFIX}classes")
    if tuple(getattr(state.get("linear.weight"), "shape", ())) != (len(classes), start * 2 ** (_BLOCKS - 1)):
        raise InputError(f"its last layer does not fit {len(classes)} classes and {start} channels")
    return MicraNet(dimensions, classes, start)


def _whole(state: Mapping[str, Tensor], name: str) -> int:
    tensor = state.get(f"{_PREFIX}{name}")
    value = float(tensor) if tensor is not None and tensor.numel() == 1 else math.nan
    if not (value.is_integer() and 0 <= value <= _MOST_CHANNELS):
        raise InputError(f"the weights do not say how their network is built: '{_PREFIX}{name}' is no such number")
    return int(value)
