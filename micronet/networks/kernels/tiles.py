"""The forward pass of a volume of any size: tile by tile, with the very same numbers.

A tile is a box whose sides start at multiples of 4, so that it pools the voxels that the whole volume pools; what is
read for it is `HALO` voxels more to each side, beyond which none of the convolutions of its level looks. The quarter
scale is such a volume in its turn; only the lowest level, 1/4096 of the voxels, is computed whole. Upsampling looks up
tables that are made for the whole axis::

    each tile:          image -> encode -> pooled x0                          (once for all passes)
    each tile:          mask -> pooled mask
    each quarter tile:  pooled x0, pooled mask -> down1 -> pooled x1
    whole:              pooled x1 -> bottom -> x2
    each quarter tile:  pooled x0, pooled mask -> down1 -> x1; x1, x2 -> up1 -> x3
    each tile:          image -> encode -> x0; x0, x3, mask -> decode -> probability

Between two lines everybody waits for the last tile of the line before; the tiles of a line may be done in any order, by
any number of processes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from micronet.core.errors import InputError
from micronet.core.threads import Team, physical_cores
from micronet.networks.kernels.layout import LEFT, TOP, Array, new_stack
from micronet.networks.kernels.levels import Levels
from micronet.networks.kernels.network import (
    AS_IT_IS,
    Network,
    decode_probability,
    encode_image,
    pool_whole_mask,
)
from micronet.networks.kernels.planes import Line, reflect_border
from micronet.networks.kernels.sizes import Nearest, Size, coarser, nearest_indices
from micronet.networks.kernels.slabs import whole_bytes

__all__ = [
    "HALO",
    "Box",
    "Store",
    "Stores",
    "Tile",
    "TileSteps",
    "coarse_tile_bytes",
    "lowest_bytes",
    "store_bytes",
    "tile_bytes",
    "tiles",
]

#: Voxels around a tile: 6 are looked at, and windows start at multiples of 4 to pool the same voxels together.
HALO = 8

Box = tuple[slice, slice, slice]


class Store(Protocol):
    """Where a level lies between two steps, (Z, channels, Y, X) float32: an array in memory, on disk, in pieces."""

    def __getitem__(self, part: Any, /) -> Any:
        """Return a part of it."""

    def __setitem__(self, part: Any, values: Any, /) -> None:
        """Write a part of it."""


class Reader(Protocol):
    """What gives the voxels of a box."""

    def __call__(self, box: Box, /) -> Array:
        """Return them, float32."""


@dataclass(frozen=True)
class Tile:
    """A box, `core`, and what is read for it, `window`."""

    core: Box
    window: Box

    @property
    def inside(self) -> Box:
        """Where the core lies in the window."""
        z, y, x = (
            slice(own.start - read.start, own.stop - read.start)
            for own, read in zip(self.core, self.window, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class Stores:
    """Where the coarse levels lie: pooled x0, the pooled mask (1 channel), x3; of the lowest level pooled x1 and x2."""

    pooled: Store
    mask: Store | None
    x3: Store
    lowest: Store
    bottom: Store

    @staticmethod
    def shapes(size: Size) -> dict[str, tuple[int, int, int, int]]:
        """Return the shape (Z, channels, Y, X) of each, by name."""
        (z, y, x), (below, rows, columns) = coarser(size), coarser(coarser(size))
        quarter, lowest = (z, 4, y, x), (below, 4, rows, columns)
        return {"pooled": quarter, "mask": (z, 1, y, x), "x3": quarter, "lowest": lowest, "bottom": lowest}


def tiles(size: Size, sides: Size) -> Iterator[Tile]:
    """Yield the tiles of a volume, of the given sides but for the last along an axis; each a positive multiple of 4."""
    if any(side < 4 or side % 4 for side in sides):
        raise InputError(f"tiles of {sides} voxels; positive multiples of 4 expected")
    starts = (range(0, length, side) for length, side in zip(size, sides, strict=True))
    for corner in itertools.product(*starts):
        core, window = [], []
        for first, side, length in zip(corner, sides, size, strict=True):
            end = min(first + side, length)
            core.append(slice(first, end))
            window.append(slice(max(first - HALO, 0), min(end + HALO, length)))
        yield Tile((core[0], core[1], core[2]), (window[0], window[1], window[2]))


def tile_bytes(size: Size, sides: Size, threads: int) -> int:
    """Return about how many bytes a step takes with a tile: its window in float32, image and mask, and a pass over it.

    The last term is what the caller holds of the tile: voxels as they are stored, and the probability before.
    """
    window = _largest_window(size, sides)
    return whole_bytes(window, threads) + (4 + 4 + 8) * math.prod(window)


def coarse_tile_bytes(size: Size, sides: Size) -> int:
    """Return about how many bytes a step takes with a tile of the quarter scale of a volume of `size`."""
    z, y, x = _largest_window(coarser(size), sides)
    return 8 * _stack_bytes((z, y, x))


def lowest_bytes(size: Size) -> int:
    """Return about how many bytes the lowest level takes, which is always whole in memory: two stores, three stacks."""
    return 5 * _stack_bytes(coarser(coarser(size)))


def store_bytes(size: Size, masks: int) -> int:
    """Return how many bytes the stores of the quarter scale take, in memory or on a disk."""
    return 4 * (4 + 4 + masks) * math.prod(coarser(size))


def _largest_window(size: Size, sides: Size) -> Size:
    z, y, x = (min(side + 2 * HALO, length) for side, length in zip(sides, size, strict=True))
    return z, y, x


def _stack_bytes(size: Size) -> int:
    return 4 * 4 * size[0] * (size[1] + 16) * (size[2] + 48)  # with its margins


class TileSteps:
    """The steps of passes over a volume of which nobody holds more than a tile.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        State dict of a µ-Net or µr-Net, float32 arrays.
    size : (Z, Y, X)
        Axes of at least 32.
    image : Reader
        Reads the normalised image.
    stores : Stores
        Written by one step and read by the next.
    threads : int, optional
        Default: the physical cores.
    """

    def __init__(
        self, parameters: Mapping[str, Array], size: Size, image: Reader, stores: Stores, threads: int | None = None
    ) -> None:
        self._network = Network(parameters)
        self._image, self._stores = image, stores
        self._threads = threads or physical_cores()
        self._quarter, self._lowest = coarser(size), coarser(coarser(size))
        self._nearest = nearest_indices(size, self._quarter), nearest_indices(self._quarter, self._lowest)
        if (stores.mask is not None) != bool(self._network.mask_channels):
            kind = ("u-net", "ur-net")[self._network.mask_channels]
            raise InputError(f"a {kind} takes {self._network.mask_channels} mask(s)")

    def encode(self, tile: Tile) -> None:
        """Compute pooled x0 of a tile."""
        with Team(self._threads) as team:
            pooled = encode_image(self._network, _floats(self._image(tile.window)), team).pooled
        shape = coarser(_lengths(tile.window))
        core, inside = _pooled_parts(tile)
        _put(self._stores.pooled, core, _voxels(pooled, shape), inside)

    def pool(self, tile: Tile, mask: Reader, line: Line = AS_IT_IS) -> None:
        """Compute the pooled mask of a tile."""
        if self._stores.mask is None:
            raise InputError("a u-net takes no mask")
        core, _ = _pooled_parts(tile)
        if 0 in _lengths(core):  # what is left over at the end of an axis fills no cube
            return
        with Team(self._threads) as team:
            pooled = pool_whole_mask(_floats(mask(tile.core)), team, line)
        self._stores.mask[core[0], :, core[1], core[2]] = _voxels(pooled, coarser(_lengths(tile.core)))

    def down(self, tile: Tile) -> None:
        """Compute pooled x1 of a tile of the quarter scale."""
        shape = _lengths(tile.window)
        with Team(self._threads) as team:
            levels = Levels(self._network.layers, shape, team, keep=False)
            pooled = levels.down(*self._quarter_window(tile.window))
        core, inside = _pooled_parts(tile)
        _put(self._stores.lowest, core, _voxels(pooled, coarser(shape)), inside)

    def bottom(self) -> None:
        """Compute x2, whole."""
        everything = slice(None), slice(None), slice(None)
        with Team(self._threads) as team:
            levels = Levels(self._network.layers, self._lowest, team, keep=False)
            found = levels.bottom(_stack(self._stores.lowest, everything), self._lowest)
        self._stores.bottom[:, :, :, :] = _voxels(found, self._lowest)

    def up(self, tile: Tile) -> None:
        """Compute x3 of a tile of the quarter scale."""
        shape = _lengths(tile.window)
        below, nearest = _shown(self._nearest[1], tile.window)
        with Team(self._threads) as team:
            levels = Levels(self._network.layers, shape, team, keep=False)
            levels.down_unpooled(*self._quarter_window(tile.window))
            found = levels.up(_stack(self._stores.bottom, below), nearest)
        _put(self._stores.x3, tile.core, _voxels(found, shape), tile.inside)

    def decode(self, tile: Tile, mask: Reader | None, line: Line = AS_IT_IS) -> Array:
        """Return the probability of a tile's core for a mask (µr-Net), read as `line` says, or for none (µ-Net)."""
        below, nearest = _shown(self._nearest[0], tile.window)
        inside = tile.inside
        with Team(self._threads) as team:
            encoded = encode_image(self._network, _floats(self._image(tile.window)), team)
            given = None if mask is None else _floats(mask(tile.window))
            x3 = _stack(self._stores.x3, below)
            planes = inside[0].start, inside[0].stop
            found, _ = decode_probability(self._network, encoded, x3, nearest, given, team, planes=planes, line=line)
        return found[inside]

    def _quarter_window(self, window: Box) -> tuple[Array, Array | None]:
        stores = self._stores
        return _stack(stores.pooled, window), None if stores.mask is None else _stack(stores.mask, window)


def _floats(array: Any) -> Array:
    return np.ascontiguousarray(array, dtype=np.float32)


def _lengths(box: Box) -> Size:
    z, y, x = (part.stop - part.start for part in box)
    return z, y, x


def _pooled_parts(tile: Tile) -> tuple[Box, Box]:
    """Return the core of a tile after pooling, and where it lies in its window after pooling."""
    core, inside = [], []
    for own, read in zip(tile.core, tile.window, strict=True):
        part = slice(own.start // 4, own.stop // 4)
        core.append(part)
        inside.append(slice(part.start - read.start // 4, part.stop - read.start // 4))
    return (core[0], core[1], core[2]), (inside[0], inside[1], inside[2])


def _voxels(stack: Array, shape: Size) -> Array:
    """Return the voxels of a stack (Z, channels, Y, X) without what lies around them."""
    return stack[: shape[0], :, TOP : TOP + shape[1], LEFT : LEFT + shape[2]]


def _put(store: Store, box: Box, values: Array, inside: Box) -> None:
    store[box[0], :, box[1], box[2]] = values[inside[0], :, inside[1], inside[2]]


def _stack(store: Store, box: Box) -> Array:
    """Return a part of a level as a stack, with borders."""
    read = store[box[0], :, box[1], box[2]]
    depth, channels, height, width = read.shape
    stack = new_stack(depth, channels, height, width)
    _voxels(stack, (depth, height, width))[...] = read
    for z in range(depth):
        reflect_border(stack, z, height, width)
    return stack


def _shown(nearest: Nearest, window: Box) -> tuple[Box, Nearest]:
    """Return what of the level below a window shows, and which of its voxels is shown at each."""
    tables = [table[part] for table, part in zip(nearest, window, strict=True)]
    box = [slice(int(table[0]), int(table[-1]) + 1) for table in tables]
    (zs, ys, xs), (z, y, x) = [table - part.start for table, part in zip(tables, box, strict=True)], box
    return (z, y, x), (zs, ys, xs)
