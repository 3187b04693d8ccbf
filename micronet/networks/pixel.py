"""Pixel networks: small perceptrons on the scale-space features of a voxel (kernels/scale_space.py).

They know a voxel's surroundings at six scales, in µm, and nothing else: what one annotated slice can teach in a second.
A network is several perceptrons, the members, which started from other weights; its probability is their mean.

The state dict is all there is, plain float32 tensors: ``scales_um`` (scales,), ``feature_mean`` and ``feature_sd``
(features,), and for layers 0, 1, 2 ``layerN.weight`` (members, outputs, inputs) and ``layerN.bias`` (members, outputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micronet.core.errors import InputError
from micronet.networks.by_voxel import ByVoxel
from micronet.networks.kernels.scale_space import Layer, Part, feature_count, perceptron

__all__ = ["PixelNetwork", "pixel_network_for_state"]

#: More than any of these is no pixel network of ours; a file may hold anything.
_MOST_SCALES, _MOST_MEMBERS, _MOST_HIDDEN = 32, 64, 1024


class _Linear(nn.Module):
    """One layer of every member."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        # He et al. 2015: what ReLU halves is made up for.
        weight = torch.randn(members, outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (members, N, outputs) for (members, N, inputs)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))


class PixelNetwork(ByVoxel, nn.Module):
    """Features of a voxel in, lumen probability out.

    Parameters
    ----------
    scales_um : sequence of float
        Of the features, in µm.
    members : int
        Perceptrons whose probabilities are averaged.
    hidden : int
        Width of the two hidden layers.
    generator : torch.Generator, optional
        Draws the initial weights.

    >>> network = PixelNetwork((0.7, 1.0, 1.6, 2.5, 4.0, 6.0))
    >>> sum(p.numel() for p in network.parameters())
    2113
    """

    name = "pixel"
    #: It is shown images as they are; trees may have them evened first.
    around_um = 0.0
    scales_um: Tensor
    feature_mean: Tensor
    feature_sd: Tensor

    def __init__(
        self, scales_um: Sequence[float], members: int = 1, hidden: int = 32, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        inputs = feature_count(len(scales_um))
        self.register_buffer("scales_um", torch.tensor(scales_um, dtype=torch.float32))
        self.register_buffer("feature_mean", torch.zeros(inputs))
        self.register_buffer("feature_sd", torch.ones(inputs))
        self.layer0 = _Linear(members, inputs, hidden, generator)
        self.layer1 = _Linear(members, hidden, hidden, generator)
        self.layer2 = _Linear(members, hidden, 1, generator)

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales in µm, as the state dict holds them."""
        return tuple(self.scales_um.tolist())

    def normalized(self, features: Tensor) -> Tensor:
        """Return features (..., features) minus their mean, over their standard deviation."""
        return (features - self.feature_mean) / self.feature_sd

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        x : Tensor of shape (members, N, features)
            Normalised features; each member sees its own.

        Returns
        -------
        Tensor of shape (members, N)
        """
        logits: Tensor = self.layer2(torch.relu(self.layer1(torch.relu(self.layer0(x)))))
        return logits[..., 0]

    def layers(self) -> list[Layer]:
        """Return weights and biases that take features as they are: the first layer normalises them too."""
        with torch.no_grad():
            first = self.layer0.weight.double() / self.feature_sd.double()
            bias = self.layer0.bias.double() - first @ self.feature_mean.double()
            folded = [(first, bias), *((layer.weight, layer.bias) for layer in (self.layer1, self.layer2))]
            return [(weight.float().numpy(), bias.float().numpy()) for weight, bias in folded]

    def look(
        self,
        seen: NDArray[np.float32],
        spacing_um: Sequence[float],
        out: NDArray[np.float32] | None = None,
        threads: int | None = None,
        within: Part = (slice(None), slice(None)),
    ) -> NDArray[np.float32]:
        """Return the same of some planes and rows of an image, or of a box of one with rows as long as the image's.

        Arguments as `predict`. A voxel as far from the box's faces as `kernels.scale_space.reach` says, or as the
        image's own faces, has the very number that it has in the whole image.
        """
        return perceptron(seen, self.scales, spacing_um, self.layers(), out, threads, within)


def pixel_network_for_state(state: Mapping[str, Tensor]) -> PixelNetwork:
    """Build the pixel network that a state dict belongs to, decided from its tensors alone.

    Raises
    ------
    InputError
        If tensors are missing, extra, of shapes that do not fit each other, not finite, or a scale or standard
        deviation is not positive.
    """
    scales, weight = state.get("scales_um"), state.get("layer0.weight")
    if scales is None or weight is None or scales.ndim != 1 or weight.ndim != 3:
        raise InputError(
            "not a pixel network: 'scales_um' (scales,) and 'layer0.weight' (members, 32, features) expected"
        )
    sizes = len(scales), weight.shape[0], weight.shape[1]
    if any(not 0 < size <= most for size, most in zip(sizes, (_MOST_SCALES, _MOST_MEMBERS, _MOST_HIDDEN), strict=True)):
        raise InputError(
            f"a pixel network of {sizes[0]} scales, {sizes[1]} members and {sizes[2]} hidden units; at most "
            f"{_MOST_SCALES}, {_MOST_MEMBERS} and {_MOST_HIDDEN} expected"
        )
    network = PixelNetwork([1.0] * sizes[0], sizes[1], sizes[2], torch.Generator())
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if found != expected:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise InputError(
            f"not a pixel network: '{wrong[0]}' is {found.get(wrong[0], 'missing')}, "
            f"{expected.get(wrong[0], 'nothing')} expected"
        )
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all() or (key in ("scales_um", "feature_sd") and not (tensor > 0).all()):
            raise InputError(f"weights hold values that no pixel network has, first in '{key}'")
    network.load_state_dict(state)
    return network.eval()
