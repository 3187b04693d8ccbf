"""µ-Net and µr-Net: 3-D U-Nets with 6,402 and 6,618 parameters.

Layers, channel order, initialisation and state-dict names are those of the published networks, so weights go
both ways. The U shape is that of the 3-D U-Net (Çiçek et al. 2016), the activation SELU (Klambauer et al. 2017).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from micronet.core.errors import InputError
from micronet.networks import engine
from micronet.networks.unchanged import Layout, layout_of, unchanged_parameters

__all__ = ["MINIMUM_AXIS", "MicroNet", "MicroRNet", "check_values"]

#: Smallest length of any axis: two poolings by 4 leave 2 voxels, the least that reflect padding by 1 accepts.
MINIMUM_AXIS = 32

# With larger weights sums overflow, and every voxel is not a number.
_LARGEST_WEIGHT = 1e30


def check_values(state: Mapping[str, Tensor]) -> None:
    """Raise InputError where a state dict holds a value that no network can be computed with."""
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"weights hold values that are not finite, first in '{key}'")
        if (tensor.abs() > _LARGEST_WEIGHT).any():
            raise InputError(f"weights hold values above {_LARGEST_WEIGHT:g}, first in '{key}'")


def _conv(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, kernel_size=3, padding=1, padding_mode="reflect")


class _TinyUNet(nn.Module):
    """The U shape that both networks share; `mask_channels` masks join after the first block."""

    name: ClassVar[str]
    mask_channels: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        m = self.mask_channels
        self.down0 = nn.Sequential(_conv(1, 4), _conv(4, 4), nn.SELU())
        self.down1 = nn.Sequential(nn.AvgPool3d(4), _conv(m + 4, 4), _conv(4, 4), nn.SELU())
        self.bottom = nn.Sequential(
            nn.AvgPool3d(4), _conv(4, 3), _conv(3, 3), nn.SELU(), _conv(3, 3), _conv(3, 3), nn.SELU()
        )
        self.up1 = nn.Sequential(_conv(7, 4), _conv(4, 4), nn.SELU(), _conv(4, 4), _conv(4, 4), nn.SELU())
        self.up0 = nn.Sequential(_conv(m + 8, 4), _conv(4, 4), nn.SELU(), _conv(4, 4), _conv(4, 1), nn.Sigmoid())
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                fan_in = module.in_channels * 27
                nn.init.normal_(module.weight, 0.0, fan_in**-0.5)
                assert module.bias is not None  # noqa: S101 - for the type checker: every convolution here has one
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the foreground probability.

        Parameters
        ----------
        x : Tensor of shape (N, 1 + mask channels, D, H, W)
            Channel 0 is the normalised image; in µr-Net channel 1 is the normalised mask. D, H, W of at least 32.

        Returns
        -------
        Tensor of shape (N, 1, D, H, W), in [0, 1]

        Raises
        ------
        InputError
            If the channels are not the network's or an axis is shorter than 32.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check(x)
            parameters = unchanged_parameters(self, _layout(self.mask_channels), alone=False)
            if len(x) > 0 and engine.serves(x, parameters):
                return engine.forward(x, parameters)
        image, mask = x[:, :1], x[:, 1:]
        x0 = torch.cat((mask, self.down0(image)), dim=1)  # (N, m + 4, D, H, W)
        x1 = self.down1(x0)  # (N, 4, D/4, H/4, W/4)
        x2 = self.bottom(x1)  # (N, 3, D/16, H/16, W/16)
        x3 = self.up1(torch.cat((x1, interpolate(x2, size=x1.shape[2:])), dim=1))  # (N, 4, D/4, H/4, W/4)
        probability: Tensor = self.up0(torch.cat((x0, interpolate(x3, size=x0.shape[2:])), dim=1))
        return probability

    def _check(self, x: Tensor) -> None:
        channels = 1 + self.mask_channels
        if x.ndim != 5 or x.shape[1] != channels or min(x.shape[2:]) < MINIMUM_AXIS:
            raise InputError(
                f"{self.name} takes (N, {channels}, D, H, W) with D, H, W of at least {MINIMUM_AXIS}, "
                f"found {tuple(x.shape)}"
            )

    def engine_parameters(self) -> dict[str, Tensor]:
        """Return the parameters for the numba engine to compute with, without a call of this module.

        Empty where that would not give what a call gives: ``forward``, a layer or a hook is not as it was built.
        """
        if type(self) not in (MicroNet, MicroRNet):
            return {}
        return unchanged_parameters(self, _layout(self.mask_channels), alone=True)


@functools.cache
def _layout(mask_channels: int) -> Layout:
    with torch.random.fork_rng(devices=[]):
        return layout_of(MicroRNet() if mask_channels else MicroNet())


class MicroNet(_TinyUNet):
    """µ-Net: image in, lumen probability out (6,402 parameters).

    >>> sum(p.numel() for p in MicroNet().parameters())
    6402
    """

    name = "u-net"
    mask_channels = 0


class MicroRNet(_TinyUNet):
    """µr-Net: image and mask in, refined mask out (6,618 parameters).

    >>> sum(p.numel() for p in MicroRNet().parameters())
    6618
    """

    name = "ur-net"
    mask_channels = 1
