"""The backward pass of µ-Net and µr-Net on NumPy arrays.

    decode_gradient (up0.4 .. up0.1) -> gradient of up0.0's output, at full size
    upsampled_gradient -> gradient of x3 -> coarse levels, last layer first -> gradient of pooled x0
    encode_gradient (up0.0's skip connection, down0)

Between the sweeps all threads meet. Gradients are added up in float64 over planes, and over parts in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.threads import Team, physical_cores, split
from micronet.networks.kernels.coarse import finish_stack, gradient_stack
from micronet.networks.kernels.gradient_decoder import decode_gradient, largest, upsampled_gradient
from micronet.networks.kernels.gradient_encoder import encode_gradient
from micronet.networks.kernels.gradient_planes import new_sums, new_totals
from micronet.networks.kernels.layout import Array, kept_stack, new_stack
from micronet.networks.kernels.microkernels import kernel_addresses
from micronet.networks.kernels.network import (
    Activations,
    Encoded,
    Network,
    Part,
    Size,
    check_mask,
    checked,
    decode_probability,
    encode_image,
    pool_whole_mask,
    run_coarse_levels,
)
from micronet.networks.kernels.weights import DZ_IN_SET

__all__ = ["Saved", "backward", "forward_saving"]

_SETS = 8  # sets of z taps, weights.py


@dataclass(frozen=True)
class Saved:
    """What backward needs of a forward pass; nothing of it is changed, so backward may run any number of times."""

    network: Network
    encoded: Encoded
    mask: Array | None
    activations: Activations
    up0: list[Part]
    probability: Array
    threads: int

    def large(self) -> list[Array]:
        """Return the full-size arrays, for a caller that looks after memory itself."""
        return [self.probability, self.encoded.x0, *(result for *_, results in self.up0 for result in results)]

    def with_large(self, arrays: Sequence[Array]) -> Saved:
        """Return a copy with other arrays in place of `large`."""
        probability, x0, *rest = arrays
        up0 = [(z0, z1, (rest[3 * k], rest[3 * k + 1], rest[3 * k + 2])) for k, (z0, z1, _) in enumerate(self.up0)]
        return replace(self, probability=probability, encoded=replace(self.encoded, x0=x0), up0=up0)


def forward_saving(
    parameters: Mapping[str, Array], image: Array, mask: Array | None = None, threads: int | None = None
) -> tuple[Array, Saved]:
    """Return the probability as `micronet.networks.kernels.forward` does, and what `backward` needs."""
    network = Network(parameters)
    image = checked(image, "image")
    mask = check_mask(network, mask, (image.shape[0], image.shape[1], image.shape[2]))
    threads = threads or physical_cores()
    with Team(threads) as team:
        encoded = encode_image(network, image, team)
        pooled_mask = None if mask is None else pool_whole_mask(mask, team)
        activations = run_coarse_levels(network, encoded.size, encoded.pooled, pooled_mask, team)
        x3, nearest = activations.stacks["up1.4"], activations.nearest[0]
        probability, up0 = decode_probability(network, encoded, x3, nearest, mask, team, keep=True)
    return probability, Saved(network, encoded, mask, activations, up0, probability, threads)


def backward(saved: Saved, gradient: Array) -> dict[str, Array]:
    """Return the gradient of every parameter.

    Parameters
    ----------
    saved : Saved
        From `forward_saving`.
    gradient : ndarray of shape (Z, Y, X)
        Gradient with respect to the probability.

    Returns
    -------
    dict of str to ndarray
        By the names of the state dict, float32.
    """
    with Team(saved.threads) as team:
        return _Backward(saved, team).run(checked(gradient, "gradient", saved.encoded.size))


class _Backward:
    """One backward pass: the totals of each layer as they come in."""

    def __init__(self, saved: Saved, team: Team) -> None:
        self.saved, self.team = saved, team
        self.layers, self.stacks = saved.network.layers, saved.activations.stacks
        self.kernels = kernel_addresses()
        self.zeros = np.zeros(4, np.float32)
        #: Of each layer, (z taps or sets, inputs, dy, dx, outputs) and the bias's, as in `Totals`, lanes added up.
        self.totals: dict[str, NDArray[np.float64]] = {}
        self.scale = np.ones(2, np.float32)

    def run(self, given: Array) -> dict[str, Array]:
        full = self.saved.encoded.size
        self.choose_scale(given)
        at_up0 = self.through_up0(given)
        x3 = self.through_upsampling("up0.0", 0, at_up0, self.stacks["up1.4"])
        pooled = self.through_coarse_levels(x3)
        self.through_down0(at_up0, pooled, full)
        return self.parameters()

    def choose_scale(self, given: Array) -> None:
        """Choose the power of two that brings the largest gradient before the sigmoid near 1.

        Where a trained network is sure, the sigmoid's slope falls to 1e-38 and every product after it is subnormal,
        which a CPU computes a hundred times slower. Backward is linear: it may work on a multiple, and what is 1e-20 of
        the largest gradient may be 0.
        """
        p = self.saved.probability
        found = self.team.run(lambda z0, z1: largest(p, given, z0, z1), split(len(p), self.team.threads))
        outer, inner = (max(values) for values in zip(*found, strict=True))
        if 0 < inner and np.isfinite(outer):
            self.scale[0] = 2.0 ** min(-math.frexp(inner)[1], 100)
            self.scale[1] = max(1e-30, 1e-20 * inner / outer)

    def sums_and_totals(self, names: tuple[str, ...]) -> tuple[Any, Any]:
        inputs = [self.layers[name].taps.shape[1] for name in names]
        return tuple(new_sums(3, i) for i in inputs), tuple(new_totals(3, i) for i in inputs)

    def collect(self, names: tuple[str, ...], job: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> None:
        """Run ``job(z0, z1) -> totals of each name`` and add up."""
        results = self.team.run(job, parts)
        for k, name in enumerate(names):
            self.totals[name] = np.sum([result[k].sum(axis=-1) for result in results], axis=0)

    def through_up0(self, given: Array) -> Array:
        depth, height, width = self.saved.encoded.size
        result = kept_stack(depth, 4, height, width)
        names = ("up0.1", "up0.3", "up0.4")
        backs = tuple(self.layers[name].back[0] for name in names)

        def part(z0: int, z1: int, kept: tuple[Array, Array, Array]) -> Any:
            rings = tuple(new_stack(3, channels, height, width) for channels in (1, 4, 4))
            # the four inputs of up0.4 take the place of outputs, of which it has one
            sums, totals = self.sums_and_totals(("up0.1", "up0.3", "down0.0"))
            p = self.saved.probability
            decode_gradient(
                self.kernels, p, given, self.scale, z0, z1, kept, backs, rings, result, sums, totals, self.zeros
            )
            return totals

        self.collect(names, part, self.saved.up0)
        flipped = self.totals["up0.4"][:3, 0, ::-1, ::-1, :].transpose(0, 3, 1, 2)  # (dz, input, dy, dx)
        whole = np.zeros((4, 4, 3, 3, 4))
        whole[:3, ..., 0] = flipped
        whole[3, 0, 0, 0] = self.totals["up0.4"][3, 0, 0, 0]
        self.totals["up0.4"] = whole
        return result

    def through_upsampling(self, name: str, level: int, given: Array, source: Array) -> Array:
        """Return the gradient of `source`, upsampled input of layer `name`, and take in its weights' gradients."""
        size, coarse = self.saved.activations.size[level : level + 2]
        target = new_stack(coarse[0], 4, coarse[1], coarse[2])
        back = self.layers[name].back[1]
        nearest = self.saved.activations.nearest[level]

        def part(z0: int, z1: int) -> Any:
            rings = tuple(new_stack(1, 4, size[1], size[2]) for _ in range(3))
            sums, totals = new_sums(_SETS, 4), new_totals(_SETS, 4)
            upsampled_gradient(
                self.kernels, z0, z1, given, nearest, source, back, target, rings, sums, totals, self.zeros
            )
            return (totals,)

        self.collect((f"{name} upsampled",), part, split(coarse[0], self.team.threads))
        return target

    def through_coarse_levels(self, x3: Array) -> Array:
        """Return the gradient of pooled x0, given that of x3."""
        _, quarter, sixteenth = self.saved.activations.size
        at = self.finish(x3, "up1.4", quarter)
        at = self.back("up1.4", at, ("up1.3",), quarter)
        at = self.finish(self.back("up1.3", at, ("up1.1",), quarter), "up1.1", quarter)
        at = self.back("up1.1", at, ("up1.0",), quarter)
        x1 = self.back("up1.0", at, ("down1.2",), quarter)
        x2 = self.through_upsampling("up1.0", 1, at, self.stacks["bottom.5"])
        at = self.finish(x2, "bottom.5", sixteenth)
        at = self.back("bottom.5", at, ("bottom.4",), sixteenth)
        at = self.finish(self.back("bottom.4", at, ("bottom.2",), sixteenth), "bottom.2", sixteenth)
        at = self.back("bottom.2", at, ("bottom.1",), sixteenth)
        pooled1 = self.back("bottom.1", at, ("pooled1",), sixteenth)
        at = self.finish(x1, "down1.2", quarter, pooled1)
        at = self.back("down1.2", at, ("down1.1",), quarter)
        sources = ("pooled",) if self.saved.mask is None else ("pooled mask", "pooled")
        return self.back("down1.1", at, sources, quarter)

    def finish(self, gradient: Array, activated: str, size: Size, pooled: Array | None = None) -> Array:
        """Add what came through pooling, multiply by SELU's slope; in place."""
        through_pooling = gradient[:0] if pooled is None else pooled
        self.team.run(
            lambda z0, z1: finish_stack(z0, z1, gradient, through_pooling, self.stacks[activated], size),
            split(size[0], self.team.threads),
        )
        return gradient

    def back(self, name: str, given: Array, sources: tuple[str, ...], size: Size) -> Array:
        """Return the gradient of the inputs of layer `name`, and take in its weights' gradients."""
        target = kept_stack(size[0], 4, size[1], size[2])
        layer = self.layers[name]
        first = self.stacks[sources[0]]
        second = self.stacks[sources[1]] if len(sources) > 1 else first[:0]

        def part(z0: int, z1: int) -> Any:
            (sums,), totals = self.sums_and_totals((name,))
            gradient_stack(
                self.kernels, z0, z1, given, (first, second), layer.back[0], target, sums, totals[0], self.zeros, size
            )
            return totals

        self.collect((name,), part, split(size[0], self.team.threads))
        return target

    def through_down0(self, at_up0: Array, pooled: Array, size: Size) -> None:
        depth, height, width = size
        encoded, first = self.saved.encoded, self.layers["down0.0"]
        names = ("down0.0", "down0.1", "up0.0")
        backs = self.layers["down0.1"].back[0], self.layers["up0.0"].back[0]
        mask = np.empty((0, height, width), np.float32) if self.saved.mask is None else self.saved.mask

        def part(z0: int, z1: int) -> Any:
            shapes = ((5, 1), (5, 1), (3, 4), (3, 4), (3, 4))
            rings = tuple(new_stack(slots, channels, height, width) for slots, channels in shapes)
            sums, totals = self.sums_and_totals(names)
            encode_gradient(
                self.kernels,
                encoded.image,
                mask,
                encoded.x0,
                at_up0,
                pooled,
                z0,
                z1,
                first.taps,
                first.bias,
                backs,
                rings,
                sums,
                totals,
                self.zeros,
            )
            return totals

        self.collect(names, part, split(depth, self.team.threads))

    def parameters(self) -> dict[str, Array]:
        """Return the gradients under the names and in the shapes of the parameters."""
        for name in ("up0.0", "up1.0"):
            sets = self.totals.pop(f"{name} upsampled")
            total = self.totals[name]
            upsampled = total.shape[1] - (4 if name == "up0.0" else 3)
            for members, taps in enumerate(DZ_IN_SET):
                for dz in taps:
                    total[dz, upsampled:] += sets[members, : total.shape[1] - upsampled]
        gradients: dict[str, Array] = {}
        for name, outputs in self.saved.network.outputs.items():
            total = self.totals[name][..., :outputs] / self.scale[0]
            weight: NDArray[np.float64] = total[:3].transpose(4, 1, 0, 2, 3)
            gradients[f"{name}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
            gradients[f"{name}.bias"] = total[3, 0, 0, 0].astype(np.float32)
        return gradients
