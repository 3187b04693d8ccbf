"""Larger networks of MONAI's making: U-Net and V-Net, and U-Nets in a row as a stacked hourglass; 3-D and 2-D.

Nothing of them is written here but what stands around them: shapes of any size, slices for a 2-D network, the heads and
links of the hourglass, and their settings, which go with the weights as small tensors (``config.*``). MONAI is imported
when a network is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from micronet.core.classes import BACKGROUND, check_classes
from micronet.core.errors import InputError, setting
from micronet.networks.class_names import class_names, class_names_tensor

__all__ = [
    "LIBRARY",
    "NORMS",
    "Build",
    "Hourglass",
    "LibraryNetwork",
    "UNet",
    "VNet",
    "built_from",
    "parameters_about",
    "states_settings",
]

NORMS = ("batch", "instance", "group")
#: More parameters than this are not built: V-Net has 46 million.
MOST_PARAMETERS = 100_000_000
_LARGEST = {
    "dimensions": (2, 3),
    "out_channels": (1, 64),
    "depth": (1, 8),
    "start_channels": (1, 512),
    "kernel_size": (3, 7),
    "num_stacks": (1, 16),
}
_PREFIX = "config."
_VNET_PARAMETERS = {2: 9_400_000, 3: 45_600_000}
# Voxels of one slice that a 2-D network looks at are few; this many are computed at a time.
_PIXELS_AT_A_TIME = 1 << 20
# What a step of training keeps of a voxel, of what a pass takes of it: 0.9 to 1.4, in 2-D up to 2.9, where the features
# of all layers are kept and the coarse ones are more; and for its losses, up to 60 bytes a channel (boundary_dice).
_KEPT, _LOSS_BYTES = {2: 3.0, 3: 1.5}, 64


@dataclass(frozen=True)
class Build:
    """How a network is built; a network takes those of its class's `takes`.

    Parameters
    ----------
    dimensions : {2, 3}
        A 2-D network looks at every (Y, X) slice by itself.
    out_channels : int
        1 (the probability of the lumen), or one a class, background first.
    depth : int
        How often the resolution is halved.
    start_channels : int
        Of the first layer; each halving doubles them.
    kernel_size : int
        Odd.
    norm : {"batch", "instance", "group"}
    num_stacks : int
        Bodies in a row, of an hourglass.
    classes : tuple of str
        Names of the exclusive classes beside background, one output channel each after that of the background. None
        where the one channel is the probability of the lumen; what has several channels and no names gets some.
    """

    dimensions: int = 3
    out_channels: int = 1
    depth: int = 4
    start_channels: int = 4
    kernel_size: int = 3
    norm: Literal["batch", "instance", "group"] = "batch"
    num_stacks: int = 1
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Settle channels and names; raise InputError for values that no network is built with."""
        if self.classes:
            object.__setattr__(self, "classes", check_classes(self.classes))
            if self.out_channels not in (1, len(self.classes) + 1):
                raise InputError(
                    f"{len(self.classes)} classes and {BACKGROUND} are {len(self.classes) + 1} channels, found "
                    f"{self.out_channels}"
                )
            object.__setattr__(self, "out_channels", len(self.classes) + 1)
        for name, (least, most) in _LARGEST.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= most):
                raise InputError(f"{name} must be a whole number from {least} to {most}, found {value}")
        if self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd, found {self.kernel_size} {setting('kernel_size')}")
        if self.norm not in NORMS:
            raise InputError(f"norm must be one of {', '.join(NORMS)}, found '{self.norm}'")
        if self.out_channels > 1 and not self.classes:
            object.__setattr__(self, "classes", tuple(f"class {number}" for number in range(1, self.out_channels)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at every resolution, the finest first."""
        return tuple(self.start_channels * 2**level for level in range(self.depth + 1))

    @property
    def monai_norm(self) -> str | tuple[str, dict[str, int]]:
        """The normalisation in MONAI's words; groups are as many as divide every layer, 8 at most."""
        return ("group", {"num_groups": math.gcd(8, self.start_channels)}) if self.norm == "group" else self.norm


class _Config(nn.Module):
    """Settings as tensors, so that the weights alone say what they are of."""

    def __init__(self, network: str, build: Build, takes: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("network", torch.tensor(float(list(LIBRARY).index(network))))
        for name in takes:
            value = getattr(build, name)
            number = NORMS.index(value) if name == "norm" else value
            self.register_buffer(name, torch.tensor(float(number)))
        if build.classes:
            self.register_buffer("classes", class_names_tensor(build.classes))


class LibraryNetwork(nn.Module):
    """A network of MONAI's that takes (N, 1, D, H, W) of any size and returns the probability, as all of ours do.

    Of several exclusive classes the logits have a channel more, the first, for the background.

    Parameters
    ----------
    build : Build

    Attributes
    ----------
    build : Build
    takes : tuple of str
        The settings of `Build` that it has.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("dimensions", "out_channels")

    def __init__(self, build: Build | None = None) -> None:
        super().__init__()
        self.build = build or Build()
        about = parameters_about(self.name, self.build)
        if about > MOST_PARAMETERS:
            raise InputError(
                f"a {self.title} like this has about {about:,} parameters, at most {MOST_PARAMETERS:,} are built: "
                f"make it smaller {setting('depth', 'start_channels')}"
            )
        self.config = _Config(self.name, self.build, self.takes)

    @property
    def settings(self) -> dict[str, Any]:
        """Its build settings by name, of those that it has; names of classes where there are several."""
        named = {"classes": [*self.build.classes]} if self.build.classes else {}
        return {name: getattr(self.build, name) for name in self.takes} | named

    @property
    def classes(self) -> tuple[str, ...]:
        """What its probability is of, a channel each."""
        return self.build.classes or ("lumen",)

    @property
    def halvings(self) -> int:
        """How often the resolution is halved."""
        return self.build.depth

    @property
    def parameter_count(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def voxel_bytes(self) -> int:
        """Bytes a voxel that is computed takes during a pass beside input and output, at most; measured."""
        return 4 * (self._features_held + 4 * self.build.out_channels)

    @property
    def _features_held(self) -> int:
        """Numbers a voxel that a pass holds at the finest resolution beside its outputs."""
        return self.build.start_channels + (6 if self.build.depth == 1 else 3)

    def pass_bytes(self, size: Sequence[int]) -> int:
        """Return the bytes that a pass over so many voxels (Z, Y, X) takes beside input and output, about."""
        multiple: int = 2**self.halvings
        depth, height, width = (-(-length // multiple) * multiple for length in size)
        if self.build.dimensions == 3:
            return depth * height * width * self.voxel_bytes
        at_a_time = min(size[0], _slices_at_a_time(*size[1:]))
        held = 4 * (3 + 3 * self.build.out_channels) * math.prod(size)
        return held + at_a_time * height * width * self.voxel_bytes

    def step_bytes(self, size: Sequence[int]) -> int:
        """Return the bytes that a step of training takes for each crop of (Z, Y, X) voxels, at most; measured."""
        multiple: int = 2**self.halvings
        flat = self.build.dimensions == 2
        sides = [-(-length // multiple) * multiple for length in size[1 if flat else 0 :]]
        each = _KEPT[self.build.dimensions] * self.voxel_bytes + _LOSS_BYTES * self.build.out_channels
        return int(math.prod(sides) * (size[0] if flat else 1) * each)

    def scores(self, x: Tensor) -> list[Tensor]:
        """Return the logits (N, out_channels, D, H, W) of every output, the one that counts last.

        Parameters
        ----------
        x : Tensor of shape (N, 1, D, H, W)
            Normalised. Axes are padded to multiples of 2^depth by repeating the last plane, and cut back.
        """
        if x.ndim != 5 or x.shape[1] != 1:
            raise InputError(f"{self.title} takes (N, 1, D, H, W), found {tuple(x.shape)}")
        if self.build.dimensions == 3:
            return self._of_any_size(x)
        count, _, depth, height, width = x.shape
        slices = x.transpose(1, 2).reshape(count * depth, 1, height, width)
        at_a_time = len(slices) if self.training else _slices_at_a_time(height, width)
        found = [self._of_any_size(part) for part in torch.split(slices, at_a_time)]
        together = [torch.cat(parts) for parts in zip(*found, strict=True)]
        return [one.reshape(count, depth, self.build.out_channels, height, width).transpose(1, 2) for one in together]

    def forward(self, x: Tensor) -> Tensor:
        """Return the probability of each of its classes, (N, classes, D, H, W), of what `scores` takes."""
        return probability_of(self.scores(x)[-1])

    def _of_any_size(self, x: Tensor) -> list[Tensor]:
        multiple = 2**self.halvings
        sizes = [-(-length // multiple) * multiple for length in x.shape[2:]]
        if math.prod(sizes) == multiple ** len(sizes) and (self.training or self.build.norm == "instance"):
            sizes[-1] *= 2  # a normalisation of one voxel at the coarsest resolution is none
        inside = tuple(slice(length) for length in x.shape[2:])
        margins = [margin for size, length in zip(sizes, x.shape[2:], strict=True) for margin in (size - length, 0)]
        if any(margins):
            x = nn.functional.pad(x, margins[::-1], mode="replicate")
        return [found[(slice(None), slice(None), *inside)] for found in self._outputs(x)]

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every output for an input whose axes fit."""
        raise NotImplementedError


class UNet(LibraryNetwork):
    """MONAI's ``UNet``: its halvings by strides, its transposed convolutions, PReLU."""

    name = "unet"
    title = "U-Net"
    takes = ("dimensions", "out_channels", "depth", "start_channels", "kernel_size", "norm")

    def __init__(self, build: Build | None = None) -> None:
        super().__init__(build)
        self.net = _body(self.build, 1, self.build.out_channels)

    def _outputs(self, x: Tensor) -> list[Tensor]:
        return [self.net(x)]


class VNet(LibraryNetwork):
    """MONAI's ``VNet``, which comes in one size."""

    name = "vnet"
    title = "V-Net"

    def __init__(self, build: Build | None = None) -> None:
        super().__init__(build)
        self.net = _nets().VNet(
            spatial_dims=self.build.dimensions,
            in_channels=1,
            out_channels=self.build.out_channels,
            dropout_dim=self.build.dimensions,
        )

    @property
    def halvings(self) -> int:
        """How often the resolution is halved."""
        return 4

    @property
    def _features_held(self) -> int:
        return 170

    def _outputs(self, x: Tensor) -> list[Tensor]:
        return [self.net(x)]


class Hourglass(LibraryNetwork):
    """U-Nets in a row, each with an output of its own; the next gets the features and the score of the last.

    Every body is MONAI's ``UNet`` to `start_channels` features. Its head, a 1x1x1 convolution, makes the score of them;
    its link, another, makes the input of the next body of features and score. All outputs are trained, the last counts.
    """

    name = "hourglass"
    title = "stacked hourglass"
    takes = ("dimensions", "out_channels", "depth", "start_channels", "kernel_size", "norm", "num_stacks")

    def __init__(self, build: Build | None = None) -> None:
        super().__init__(build)
        build = self.build
        features, stacks = build.start_channels, range(build.num_stacks)
        convolution = nn.Conv2d if build.dimensions == 2 else nn.Conv3d
        self.bodies = nn.ModuleList(_body(build, features if number else 1, features) for number in stacks)
        self.heads = nn.ModuleList(convolution(features, build.out_channels, 1) for _ in stacks)
        self.links = nn.ModuleList(convolution(features + build.out_channels, features, 1) for _ in stacks[1:])

    @property
    def _features_held(self) -> int:
        build = self.build
        links = 6 if build.num_stacks > 1 else 4
        return links * build.start_channels + 8 + build.num_stacks * (build.out_channels + 2)

    def _outputs(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for number, (body, head) in enumerate(zip(self.bodies, self.heads, strict=True)):
            features = body(x)
            found.append(head(features))
            if number < len(self.links):
                x = self.links[number](torch.cat((features, found[-1]), 1))
        return found


#: The networks of this module by their names.
LIBRARY: Mapping[str, type[LibraryNetwork]] = {kind.name: kind for kind in (UNet, VNet, Hourglass)}


def _slices_at_a_time(height: int, width: int) -> int:
    return max(1, _PIXELS_AT_A_TIME // (height * width))


def probability_of(scores: Tensor) -> Tensor:
    """Return the probability of each class of logits (N, C, ..).

    Of one channel it is its sigmoid. Of several it is their softmax without the first, which is of the background:
    (N, C - 1, ..); what these lack to 1 is the background's.
    """
    return torch.sigmoid(scores) if scores.shape[1] == 1 else torch.softmax(scores, 1)[:, 1:]


def parameters_about(name: str, build: Build) -> int:
    """Return about how many weights a network has, before any memory is taken; MONAI's normalisations apart."""
    if name == VNet.name:
        return _VNET_PARAMETERS[build.dimensions]
    channels = build.channels
    taps: int = build.kernel_size**build.dimensions
    stacks = build.num_stacks if name == Hourglass.name else 1
    outputs = build.start_channels if name == Hourglass.name else build.out_channels
    ends = [outputs, *channels[:-2]]  # what every way up ends with
    body = sum(one * other for one, other in pairwise(channels))
    body += sum(2 * channel * end for channel, end in zip(channels[:-2], ends, strict=False))
    body += (channels[-2] + channels[-1]) * ends[-1]
    return stacks * taps * (body + channels[0])


def states_settings(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict says how its network is built."""
    return any(key.startswith(_PREFIX) for key in state)


def built_from(state: Mapping[str, Tensor]) -> LibraryNetwork:
    """Build the network that a state dict states the settings of, with fresh weights.

    Raises
    ------
    InputError
        If they are missing, or not those of a network that is built.
    """
    stated = {key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if key.startswith(_PREFIX)}
    names = list(LIBRARY)
    kind = LIBRARY[names[_whole(stated, "network", len(names) - 1)]]
    values: dict[str, Any] = {name: _whole(stated, name, 10_000) for name in kind.takes}
    if "norm" in values:
        values["norm"] = NORMS[_whole(stated, "norm", len(NORMS) - 1)]
    if "classes" in stated:
        values["classes"] = class_names(stated["classes"], f"{_PREFIX}classes")
    return kind(Build(**values))


def _whole(stated: Mapping[str, Tensor], name: str, most: int) -> int:
    tensor = stated.get(name)
    value = float(tensor) if tensor is not None and tensor.numel() == 1 else -1.0
    if not (value.is_integer() and 0 <= value <= most):
        raise InputError(f"the weights do not say how their network is built: '{_PREFIX}{name}' is no such number")
    return int(value)


def _body(build: Build, inputs: int, outputs: int) -> nn.Module:
    body: nn.Module = _nets().UNet(
        spatial_dims=build.dimensions,
        in_channels=inputs,
        out_channels=outputs,
        channels=build.channels,
        strides=(2,) * build.depth,
        kernel_size=build.kernel_size,
        up_kernel_size=build.kernel_size,
        norm=build.monai_norm,
    )
    return body


def _nets() -> Any:
    """Return MONAI's networks; InputError that says what to install."""
    try:
        import monai.networks.nets as nets
    except ImportError as error:
        raise InputError("U-Net, V-Net and hourglass are MONAI's, which is not installed: pip install monai") from error
    return nets


assert set(_LARGEST) | {"norm", "classes"} == {field.name for field in fields(Build)}  # noqa: S101 - every setting has its bounds
