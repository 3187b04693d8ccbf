"""The coarse levels, at 1/4 and 1/16 of the size: down1, bottom and up1, one step after the other.

Each is a function of stacks that may be the whole level or a window of it (tiles.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from micronet.core.threads import Team, split
from micronet.networks.kernels.coarse import convolve_stack, pool_stack, upsample_stack
from micronet.networks.kernels.layout import Array, kept_stack, new_stack
from micronet.networks.kernels.microkernels import LINEAR, SELU, kernel_addresses
from micronet.networks.kernels.sizes import Nearest, Size, coarser
from micronet.networks.kernels.weights import Packed

__all__ = ["Levels"]


class Levels:
    """The stacks of the coarse levels by the name of the layer that made them, in `stacks`.

    Parameters
    ----------
    layers : mapping of str to Packed
        The weights.
    quarter : (Z, Y, X)
        Size at a quarter of the scale, of the whole level or of a window.
    team : Team
    keep : bool
        Keep every stack, as backward needs; else each goes when the next ones are made.
    """

    def __init__(self, layers: Mapping[str, Packed], quarter: Size, team: Team, keep: bool) -> None:
        self._layers, self._quarter, self._team, self._keep = layers, quarter, team, keep
        self.stacks: dict[str, Array] = {}

    def down(self, pooled: Array, pooled_mask: Array | None) -> Array:
        """Run down1 on pooled x0 (and mask), and return its result pooled."""
        self.down_unpooled(pooled, pooled_mask)
        sixteenth = coarser(self._quarter)
        self.stacks["pooled1"] = pooled1 = new_stack(sixteenth[0], 4, sixteenth[1], sixteenth[2])
        pool_stack(0, sixteenth[0], self.stacks["down1.2"], pooled1, self._quarter)
        return pooled1

    def down_unpooled(self, pooled: Array, pooled_mask: Array | None) -> None:
        """Run down1 on pooled x0 (and mask)."""
        self.stacks["pooled"] = pooled
        if pooled_mask is None:
            self._convolve("down1.1", "pooled", LINEAR, self._quarter)
        else:
            self.stacks["pooled mask"] = pooled_mask
            self._convolve("down1.1", "pooled mask", LINEAR, self._quarter, "pooled")
        self._convolve("down1.2", "down1.1", SELU, self._quarter)
        self._forget("down1.1")

    def bottom(self, pooled1: Array, sixteenth: Size) -> Array:
        """Run bottom on the whole lowest level."""
        self.stacks["pooled1"] = pooled1
        self._convolve("bottom.1", "pooled1", LINEAR, sixteenth)
        self._forget("pooled1")
        self._convolve("bottom.2", "bottom.1", SELU, sixteenth)
        self._forget("bottom.1")
        self._convolve("bottom.4", "bottom.2", LINEAR, sixteenth)
        self._forget("bottom.2")
        self._convolve("bottom.5", "bottom.4", SELU, sixteenth)
        self._forget("bottom.4")
        return self.stacks["bottom.5"]

    def up(self, bottom: Array, nearest: Nearest) -> Array:
        """Run up1 on what `down_unpooled` left and on the lowest level, of which `nearest` shows a voxel at each."""
        quarter = self._quarter
        self.stacks["shown2"] = shown2 = new_stack(quarter[0], 4, quarter[1], quarter[2])
        upsample_stack(0, quarter[0], bottom, shown2, nearest)
        self._convolve("up1.0", "down1.2", LINEAR, quarter, "shown2")
        self._forget("down1.2", "shown2")
        del shown2
        self._convolve("up1.1", "up1.0", SELU, quarter)
        self._forget("up1.0")
        self._convolve("up1.3", "up1.1", LINEAR, quarter)
        self._forget("up1.1")
        self._convolve("up1.4", "up1.3", SELU, quarter)
        self._forget("up1.3")
        return self.stacks["up1.4"]

    def _forget(self, *names: str) -> None:
        for name in () if self._keep else names:
            del self.stacks[name]

    def _convolve(self, name: str, source: str, activation: int, size: Size, second: str | None = None) -> None:
        layer, kernel = self._layers[name], kernel_addresses()[0]
        given = self.stacks[source]
        sources = given, self.stacks[second] if second else given[:0]
        self.stacks[name] = target = kept_stack(size[0], 4, size[1], size[2])
        self._team.run(
            lambda z0, z1: convolve_stack(kernel, z0, z1, sources, layer.taps, layer.bias, activation, target, size),
            split(size[0], self._team.threads),
        )
