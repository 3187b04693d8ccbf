"""The forward pass of a volume that does not fit into memory at full size: slab by slab, with the very same numbers.

Nothing is approximated by a halo. The coarse levels, 1/64 of the volume, are computed for the whole of it; the two
full-size sweeps look at a few planes around the one they compute, so that a slab with these around it gives what the
whole volume gives, bit for bit::

    for each slab: image -> encode -> pooled x0              (x0 itself is forgotten)
    whole volume:  pooled x0, pooled mask -> coarse levels -> x3
    for each slab: image -> encode -> x0; x0, x3, mask -> decode -> probability
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from micronet.core.errors import InputError
from micronet.core.threads import Team, physical_cores
from micronet.networks.kernels.encoder import pool_mask
from micronet.networks.kernels.kept import forget
from micronet.networks.kernels.layout import Array, new_stack, strips
from micronet.networks.kernels.network import (
    AS_IT_IS,
    Encoded,
    Network,
    Size,
    decode_probability,
    encode_image,
    run_coarse_levels,
)
from micronet.networks.kernels.planes import Line

__all__ = ["Planes", "SlabRefiner", "slab_bytes", "whole_bytes"]

#: ``read(z0, z1)`` returns planes z0 .. z1 - 1 as float32 (z1 - z0, Y, X).
Planes = Callable[[int, int], Array]

_BEFORE = 8  # planes around a slab: 4 for up0, 2 for down0, and a multiple of 4 to pool the same voxels together


def slab_bytes(size: Size, planes: int, threads: int) -> int:
    """Return about how many bytes a pass in slabs of `planes` takes, beside what the caller holds."""
    window = min(planes + 2 * _BEFORE, size[0]) * (4 + 1 + 1 + 1)  # x0, image, mask, probability
    stack = _coarse_stack_bytes(size)
    # Either the coarse levels are at work, in up to five stacks, or a slab is, beside pooled x0 and mask and x3.
    return max(5 * stack, 5 * stack // 2 + _plane_bytes(size) * window + threads * _rings_bytes(size))


def whole_bytes(size: Size, threads: int) -> int:
    """Return about how many bytes a pass of `networks.kernels.network.Refiner` takes, its result among them."""
    depth, height, width = size
    x0 = 4 * depth * _plane_bytes(size)
    return x0 + 5 * _coarse_stack_bytes(size) + threads * _rings_bytes(size) + 4 * depth * height * width


def _plane_bytes(size: Size) -> int:
    return 4 * (size[1] + 16) * (size[2] + 48)  # with its margins


def _rings_bytes(size: Size) -> int:
    """Return what `decode` works in, in one thread; the rings of `encode` are smaller, and gone by then."""
    _, height, width = size
    most = min(max(end - first for first, end in strips(height, width)) + 8, height)
    return (3 * 4 * 4 + 3 + 1) * _plane_bytes((1, most, width))


def _coarse_stack_bytes(size: Size) -> int:
    return 4 * 4 * (size[0] // 4) * (size[1] // 4 + 16) * (size[2] // 4 + 48)


class SlabRefiner:
    """Repeated passes over one image that is read slab by slab.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        State dict of a µ-Net or µr-Net, float32 arrays.
    size : (Z, Y, X)
        Axes of at least 32.
    image : Planes
        Reads the normalised image; once now and once in every pass.
    planes : int
        Thickness of a slab, a positive multiple of 4.
    threads : int, optional
        Default: the physical cores.
    """

    def __init__(
        self, parameters: Mapping[str, Array], size: Size, image: Planes, planes: int, threads: int | None = None
    ) -> None:
        if planes < 4 or planes % 4:
            raise InputError(f"slabs of {planes} planes; a positive multiple of 4 expected")
        self._network = Network(parameters)
        self._size, self._image, self._planes = size, image, planes
        self._threads = threads or physical_cores()
        depth, height, width = size
        self._pooled = new_stack(depth // 4, 4, height // 4, width // 4)
        with Team(self._threads) as team:
            for first, end, low, high in self._slabs():
                pooled = self._encode(low, high, team).pooled
                here = slice(first // 4, end // 4)
                self._pooled[here] = pooled[(first - low) // 4 : (first - low) // 4 + here.stop - here.start]
                forget()

    def _slabs(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield first and end plane of each slab, and of what has to be read for it."""
        depth = self._size[0]
        for first in range(0, depth, self._planes):
            end = min(first + self._planes, depth)
            yield first, end, max(first - _BEFORE, 0), min(end + _BEFORE, depth)

    def _encode(self, low: int, high: int, team: Team) -> Encoded:
        return encode_image(self._network, np.ascontiguousarray(self._image(low, high), dtype=np.float32), team)

    def __call__(self, mask: Planes | None, write: Callable[[int, Array], None], line: Line = AS_IT_IS) -> None:
        """Compute the probability for a mask (µr-Net), read as `line` says, or for none (µ-Net).

        ``write(z0, probability)`` is called for one slab after the other; `mask` is read as far as a slab's
        surroundings, so `write` must not change what `mask` still reads.
        """
        if (mask is None) == bool(self._network.mask_channels):
            kind = ("u-net", "ur-net")[self._network.mask_channels]
            raise InputError(f"a {kind} takes {self._network.mask_channels} mask(s), {int(mask is not None)} given")
        with Team(self._threads) as team:
            coarse = run_coarse_levels(
                self._network, self._size, self._pooled, self._pool(mask, line), team, keep=False
            )
            x3, (zs, ys, xs) = coarse.stacks["up1.4"], coarse.nearest[0]
            forget()
            for first, end, low, high in self._slabs():
                encoded = self._encode(low, high, team)
                given = None if mask is None else np.ascontiguousarray(mask(low, high), dtype=np.float32)
                nearest = zs[low:high], ys, xs
                inside = first - low, end - low
                found, _ = decode_probability(
                    self._network, encoded, x3, nearest, given, team, planes=inside, line=line
                )
                write(first, found[inside[0] : inside[1]])
                del encoded, given, found  # before the next ones come: two windows at once would be twice the memory
                forget()

    def _pool(self, mask: Planes | None, line: Line) -> Array | None:
        if mask is None:
            return None
        depth, height, width = self._size
        pooled = new_stack(depth // 4, 1, height // 4, width // 4)
        ring = new_stack(1, 1, height, width)
        for first, end, _, _ in self._slabs():
            part = np.ascontiguousarray(mask(first, end), dtype=np.float32)
            slab = new_stack((end - first) // 4, 1, height // 4, width // 4)
            pool_mask(part, 0, len(slab), ring, slab, line)
            pooled[first // 4 : first // 4 + len(slab)] = slab
        return pooled
