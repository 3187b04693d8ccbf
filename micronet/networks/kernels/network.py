"""µ-Net and µr-Net on NumPy arrays: the forward pass and repeated refinement.

    image -> encode (down0) -> x0 ---------------------------> decode (up0) -> probability
                |                                                 |
      mask -> pooled -> down1 -> x1 ------------------> up1 -> x3 (upsampled)
                                 |                       |
                                 +-> bottom -> x2 -> upsampled

The sweeps over full-size planes are encoder.py and decoder.py; the coarse levels are levels.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from micronet.core.errors import InputError
from micronet.core.threads import Team, physical_cores, split
from micronet.networks.kernels.decoder import AROUND, decode
from micronet.networks.kernels.encoder import encode, pool_mask
from micronet.networks.kernels.kept import kept_array
from micronet.networks.kernels.layout import Array, kept_stack, new_stack, strips
from micronet.networks.kernels.levels import Levels
from micronet.networks.kernels.microkernels import kernel_addresses
from micronet.networks.kernels.planes import Line
from micronet.networks.kernels.sizes import Nearest, Size, coarser, nearest_indices
from micronet.networks.kernels.weights import Packed, pack

__all__ = ["Activations", "Encoded", "Nearest", "Network", "Part", "Refiner", "Size", "forward", "nearest_indices"]

#: Planes z0 .. z1 - 1 that one thread did, and its results of up0.0, up0.1 and up0.3 (plane z in slot z % slots).
Part = tuple[int, int, tuple[Array, Array, Array]]

AS_IT_IS: Line = (1.0, 0.0)  # a mask that is normalised
_MINIMUM_AXIS = 32
_UP0 = ("up0.0", "up0.1", "up0.3", "up0.4")


class Network:
    """The weights of a µ-Net or µr-Net, packed for the kernels.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The 32 float32 tensors of a state dict, by name; whether it is a µ-Net or a µr-Net follows from them.
    """

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self.mask_channels = parameters["down1.1.weight"].shape[1] - 4
        if self.mask_channels not in (0, 1):
            raise InputError(f"down1.1.weight has {4 + self.mask_channels} input channels; 4 or 5 expected")
        m = self.mask_channels
        features = [m, m + 1, m + 2, m + 3]
        # input channels whose gradients backward needs, in groups of up to four
        groups = {"down0.0": [], "down1.1": [features], "up1.0": [[0, 1, 2, 3], [4, 5, 6]]}
        groups["up0.0"] = [features, [m + 4, m + 5, m + 6, m + 7]]
        self.layers: dict[str, Packed] = {}
        self.outputs: dict[str, int] = {}
        for key, weight in parameters.items():
            if not key.endswith(".weight"):
                continue
            name = key.removesuffix(".weight")
            group = groups.get(name, [list(range(weight.shape[1]))])
            self.layers[name] = pack(weight, parameters[f"{name}.bias"], group)
            self.outputs[name] = weight.shape[0]


@dataclass(frozen=True)
class Encoded:
    """What depends on the image alone: x0 at full size, and x0 pooled."""

    size: Size
    image: Array
    x0: Array
    pooled: Array


@dataclass(frozen=True)
class Activations:
    """Results of the coarse levels, by the name of the layer that made them; backward reads them.

    ``size[k]`` is the size of level k (1, 1/4, 1/16); ``nearest[k]`` shows level k + 1 at level k.
    """

    size: tuple[Size, Size, Size]
    nearest: tuple[Nearest, Nearest]
    stacks: dict[str, Array]


def checked(array: Array, name: str, size: Size | None = None) -> Array:
    """Return `array` as contiguous float32 (Z, Y, X) of the given size, or of any that the networks take."""
    if array.ndim != 3 or min(array.shape) < _MINIMUM_AXIS:
        raise InputError(f"{name}: (Z, Y, X) with axes of at least {_MINIMUM_AXIS} expected, found {array.shape}")
    if size is not None and array.shape != size:
        raise InputError(f"{name}: shape {array.shape} differs from the image's {size}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _highest(rows: list[tuple[int, int]]) -> int:
    """Return the rows of the highest strip."""
    return max(end - first for first, end in rows)


def encode_image(network: Network, image: Array, team: Team) -> Encoded:
    """Run down0 and pool its result."""
    size = image.shape
    x0 = kept_stack(size[0], 4, size[1], size[2])
    pooled = new_stack(size[0] // 4, 4, size[1] // 4, size[2] // 4)
    a, b = network.layers["down0.0"], network.layers["down0.1"]
    weights, biases = (a.taps, b.taps), (a.bias, b.bias)
    to_4 = kernel_addresses()[0]

    rows = strips(size[1], size[2])
    most = min(_highest(rows) + 4, size[1])

    def part(z0: int, z1: int) -> None:
        rings = new_stack(3, 1, most, size[2]), new_stack(3, 4, most, size[2])
        for y0, y1 in rows:
            encode(to_4, image, z0, z1, y0, y1, weights, biases, rings, x0, pooled)

    team.run(part, split(size[0], team.threads, 4))
    return Encoded((size[0], size[1], size[2]), image, x0, pooled)


def pool_whole_mask(mask: Array, team: Team, line: Line = AS_IT_IS) -> Array:
    """Return the mask averaged over 4x4x4 voxels, as a stack."""
    depth, height, width = mask.shape
    pooled = new_stack(depth // 4, 1, height // 4, width // 4)
    team.run(
        lambda z0, z1: pool_mask(mask, z0, z1, new_stack(1, 1, height, width), pooled, line),
        split(depth // 4, team.threads),
    )
    return pooled


def run_coarse_levels(
    network: Network, full: Size, pooled: Array, pooled_mask: Array | None, team: Team, keep: bool = True
) -> Activations:
    """Run down1, bottom and up1 on pooled x0 (and mask).

    Without `keep`, only the last result is there in the end.
    """
    quarter = coarser(full)
    sixteenth = coarser(quarter)
    nearest = nearest_indices(full, quarter), nearest_indices(quarter, sixteenth)
    levels = Levels(network.layers, quarter, team, keep)
    levels.up(levels.bottom(levels.down(pooled, pooled_mask), sixteenth), nearest[1])
    return Activations((full, quarter, sixteenth), nearest, levels.stacks)


def decode_probability(
    network: Network,
    encoded: Encoded,
    x3: Array,
    nearest: Nearest,
    mask: Array | None,
    team: Team,
    keep: bool = False,
    planes: tuple[int, int] | None = None,
    line: Line = AS_IT_IS,
) -> tuple[Array, list[Part]]:
    """Run up0; return the probability and the parts, whose results hold every plane if they are to be kept.

    The mask is read as `line` says. With `planes`, (first, end), only these planes of the probability are computed.
    """
    depth, height, width = size = encoded.size
    first, end = planes or (0, depth)
    probability = kept_array(size)
    layers = [network.layers[name] for name in _UP0]
    weights, biases = tuple(layer.taps for layer in layers), tuple(layer.bias for layer in layers)
    given = np.empty((0, height, width), np.float32) if mask is None else mask

    rows = [(0, height)] if keep else strips(height, width)
    most = min(_highest(rows) + 2 * AROUND, height)

    def part(z0: int, z1: int) -> Part:
        results = tuple(kept_stack(z1 - z0 + 6 if keep else 3, 4, most, width) for _ in range(3))
        rings = (new_stack(3, 1, most, width), new_stack(3, 4, most, width), *results, new_stack(1, 1, most, width))
        kernels = kernel_addresses()[:2]
        for y0, y1 in rows:
            decode(kernels, encoded.x0, x3, given, line, z0, z1, y0, y1, nearest, weights, biases, rings, probability)
        return z0, z1, (results[0], results[1], results[2])

    return probability, team.run(part, [(first + a, first + b) for a, b in split(end - first, team.threads)])


def check_mask(network: Network, mask: Array | None, size: Size) -> Array | None:
    """Return the checked mask; InputError unless it is given exactly where the network takes one."""
    if (mask is None) == bool(network.mask_channels):
        kind = ("u-net", "ur-net")[network.mask_channels]
        raise InputError(f"a {kind} takes {network.mask_channels} mask(s), {int(mask is not None)} given")
    return None if mask is None else checked(mask, "mask", size)


class Refiner:
    """Repeated passes over one image: what depends on the image alone is computed once.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        State dict of a µ-Net or µr-Net, float32 arrays.
    image : ndarray of shape (Z, Y, X)
        Normalised image; axes of at least 32.
    threads : int, optional
        Default: the physical cores.
    """

    def __init__(self, parameters: Mapping[str, Array], image: Array, threads: int | None = None) -> None:
        self._network = Network(parameters)
        self._threads = threads or physical_cores()
        with Team(self._threads) as team:
            self._encoded = encode_image(self._network, checked(image, "image"), team)

    def __call__(self, mask: Array | None = None, line: Line = AS_IT_IS) -> Array:
        """Return the probability (Z, Y, X) for a mask (µr-Net) or for none (µ-Net).

        The network sees ``line[0] * mask - line[1]``; by default, the mask is expected to be normalised.
        """
        given = check_mask(self._network, mask, self._encoded.size)
        with Team(self._threads) as team:
            encoded, pooled_mask = self._encoded, None if given is None else pool_whole_mask(given, team, line)
            coarse = run_coarse_levels(self._network, encoded.size, encoded.pooled, pooled_mask, team, keep=False)
            x3, nearest = coarse.stacks["up1.4"], coarse.nearest[0]
            return decode_probability(self._network, encoded, x3, nearest, given, team, line=line)[0]


def forward(
    parameters: Mapping[str, Array], image: Array, mask: Array | None = None, threads: int | None = None
) -> Array:
    """Return the foreground probability of one volume.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        State dict of a µ-Net or µr-Net, float32 arrays.
    image : ndarray of shape (Z, Y, X)
        Normalised image; axes of at least 32.
    mask : ndarray of shape (Z, Y, X), optional
        Normalised mask; exactly for a µr-Net.
    threads : int, optional
        Default: the physical cores.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32, in [0, 1]

    Raises
    ------
    InputError
        If an array has the wrong shape or the mask does not belong to the network.
    """
    return Refiner(parameters, image, threads)(mask)
