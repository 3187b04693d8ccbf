"""Light augmentation: the same volume at another place, mirrored, turned, bent, with other contrast and speckle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.networks.models import MINIMUM_AXIS

__all__ = ["AUGMENTATIONS", "CROPS", "CROPS_2D", "FLIPS", "IMAGES", "Augmentation", "Box", "View"]

#: (first, end) of the voxels along each axis.
Box = tuple[tuple[int, int], ...]

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Augmentation:
    """How far augmented volumes may differ from the original.

    Parameters
    ----------
    flips : str
        Axes that may be mirrored, from ``"zyx"``. In OCT depth (y) never is: light comes from above.
    smallest_crop : float
        Each axis keeps a random part, from this fraction of it to all, at a random place. So the pooling grid
        falls differently each time, and the network cannot learn places by heart.
    shortest_axis : int
        No crop is shorter than this many voxels; at least 32.
    contrast, brightness, speckle : float
        Largest change, in standard deviations of the image, for intensities that are standardised logarithms:
        a factor ``1 + U(-contrast, contrast)``, an offset ``U(-brightness, brightness)`` and additive Gaussian
        noise (speckle is multiplicative, so additive after the logarithm) of SD ``U(0, speckle)``.
    turns : str
        Axes whose planes may be turned by quarters: ``"zx"`` turns about the depth. A plane is turned only where
        the part that is seen is as long along both.
    elastic : float
        Typical displacement in voxels, smooth over `_BEND` voxels; 0 bends nothing.
    gamma : float
        Largest change of the logarithm of an exponent, to which greys are taken between the least and the greatest
        that are seen; 0 changes none.
    chance : float
        How often contrast and brightness change, and how often greys are taken to an exponent: each by itself.
    """

    flips: str = "zx"
    smallest_crop: float = 0.75
    shortest_axis: int = MINIMUM_AXIS
    contrast: float = 0.15
    brightness: float = 0.15
    speckle: float = 0.15
    turns: str = ""
    elastic: float = 0.0
    gamma: float = 0.0
    chance: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError for values that mean nothing."""
        for name in ("flips", "turns"):
            axes = getattr(self, name)
            if len(set(axes)) != len(axes) or set(axes) - set("zyx"):
                raise InputError(f"{name} = '{axes}' must name axes among z, y, x, each once")
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop = {self.smallest_crop} must lie in (0, 1]")
        if self.shortest_axis < MINIMUM_AXIS:
            raise InputError(f"shortest_axis = {self.shortest_axis} must be at least {MINIMUM_AXIS}")
        limits = {"contrast": 1.0, "brightness": 10.0, "speckle": 10.0, "elastic": 20.0, "gamma": 3.0}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value < limit:
                raise InputError(f"{name} = {value} must lie in [0, {limit:g})")
        if not 0 <= self.chance <= 1:
            raise InputError(f"chance = {self.chance} must lie in [0, 1]")

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> View:
        """Draw one view of a (Z, Y, X) volume: a part of it, and how that is seen."""
        box = []
        for length in shape:
            shortest = min(length, max(self.shortest_axis, round(self.smallest_crop * length)))
            size = int(rng.integers(shortest, length + 1))
            first = int(rng.integers(0, length - size + 1))
            box.append((first, first + size))
        return self.draw_of(tuple(box), rng)

    def draw_of(self, box: Box, rng: np.random.Generator) -> View:
        """Draw how a given part of a volume is seen."""
        mirrored = tuple(bool(rng.random() < 0.5) and axis in self.flips for axis in "zyx")
        gain = 1 + float(rng.uniform(-self.contrast, self.contrast))
        offset = float(rng.uniform(-self.brightness, self.brightness))
        speckle = float(rng.uniform(0, self.speckle))
        noise_seed = int(rng.integers(2**63))
        lengths = [end - first for first, end in box]
        planes = [
            (one, other)
            for one, other in combinations((number for number in range(3) if "zyx"[number] in self.turns), 2)
            if lengths[one] == lengths[other] > 1
        ]
        turned = tuple((*plane, int(rng.integers(4))) for plane in planes)
        bent = self.elastic if self.elastic > 0 and max(lengths) > 1 else 0.0
        exponent = 1.0
        if self.gamma > 0:
            exponent = float(np.exp(rng.uniform(-self.gamma, self.gamma)))
        if self.chance < 1:
            toned, curved = rng.random(2) < self.chance
            gain, offset = (gain, offset) if toned else (1.0, 0.0)
            exponent = exponent if curved else 1.0
        return View(box, mirrored, gain, offset, speckle, noise_seed, turned, bent, exponent)


#: What helps on phantoms, and what a data set's [augmentation] starts from; docs/training.md says what the rest does.
FLIPS = Augmentation(smallest_crop=1.0, contrast=0.0, brightness=0.0, speckle=0.0)
#: Of the crops of larger networks: volumes, and images, which have no depth that light comes from.
CROPS = Augmentation(smallest_crop=1.0, turns="zx", elastic=1.0)
CROPS_2D = replace(CROPS, flips="yx", turns="yx")
#: Of images of which only is known what they hold.
IMAGES = Augmentation(
    flips="zyx", smallest_crop=1.0, contrast=0.25, brightness=0.25, speckle=0.0, gamma=0.4, chance=0.5
)

# Displacements are drawn on a grid of this distance in voxels.
_BEND = 16

#: Those that may be asked for by name.
AUGMENTATIONS: Mapping[str, Augmentation | None] = {"none": None, "flips": FLIPS, "full": Augmentation()}


@dataclass(frozen=True)
class View:
    """One drawn view; applied to the image, the mask and the weight of a volume alike."""

    box: Box
    mirrored: tuple[bool, ...]
    gain: float
    offset: float
    speckle: float
    noise_seed: int
    turned: tuple[tuple[int, int, int], ...] = ()
    bent: float = 0.0
    exponent: float = 1.0

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> View:
        """Return the view that changes nothing."""
        return cls(tuple((0, length) for length in shape), (False, False, False), 1.0, 0.0, 0.0, 0)

    def place(self, array: NDArray[_Scalar], *, labels: bool = False) -> NDArray[_Scalar]:
        """Return the part of a (Z, Y, X) array that is seen, bent, turned and mirrored, contiguous.

        Where it is bent an image, real or integer, is interpolated linearly and becomes float32; a bool mask, and uint8
        `labels`, take the nearest voxel.
        """
        part = self._bend(array, labels) if self.bent else array[tuple(slice(first, end) for first, end in self.box)]
        for one, other, quarters in self.turned:
            part = np.rot90(part, quarters, (one, other))
        steps = tuple(slice(None, None, -1) if mirror else slice(None) for mirror in self.mirrored)
        return np.ascontiguousarray(part[steps])

    def _bend(self, array: NDArray[Any], labels: bool) -> NDArray[Any]:
        """Return the part that is seen, each voxel from its displaced place in the volume, at its edge at most."""
        places = self._places
        ends = zip(places, array.shape, strict=True)
        spans = [(max(int(axis.min()), 0), min(int(axis.max()) + 2, length)) for axis, length in ends]
        part = array[tuple(slice(min(first, end - 1), end) for first, end in spans)]
        local = places - np.array([min(first, end - 1) for first, end in spans], np.float32)[:, None, None, None]
        if labels or array.dtype == np.bool_:
            nearest: NDArray[Any] = ndimage.map_coordinates(part.view(np.uint8), local, order=0, mode="nearest")
            return nearest.view(array.dtype)
        linear: NDArray[Any] = ndimage.map_coordinates(part.astype(np.float32), local, order=1, mode="nearest")
        return linear

    @cached_property
    def _places(self) -> NDArray[np.float32]:
        """Where each voxel is taken from, (3, Z, Y, X); an axis of one voxel stays where it is."""
        lengths = [end - first for first, end in self.box]
        rng = np.random.default_rng([self.noise_seed, 1])
        coarse = [-(-length // _BEND) + 1 if length > 1 else 1 for length in lengths]
        within = [np.arange(length, dtype=np.float32) / _BEND for length in lengths]
        finely = np.stack(np.meshgrid(*within, indexing="ij"))
        places = np.stack(np.meshgrid(*(np.arange(*pair, dtype=np.float32) for pair in self.box), indexing="ij"))
        for axis, length in enumerate(lengths):
            knots = rng.standard_normal(coarse, np.float32) * np.float32(self.bent)
            if length > 1:
                places[axis] += ndimage.map_coordinates(knots, finely, order=1, mode="nearest")
        return places

    def tone(self, seen: NDArray[np.float32]) -> None:
        """Give a part already in place, standardised, the greys, contrast, brightness and speckle of this view."""
        if self.exponent != 1 and (span := float(np.ptp(seen))) > 0:
            least = seen.min()
            seen -= least
            seen /= np.float32(span)
            np.power(seen, np.float32(self.exponent), out=seen)
            seen *= np.float32(span)
            seen += least
        if self.gain != 1:
            seen *= np.float32(self.gain)
        if self.offset != 0:
            seen += np.float32(self.offset)
        if self.speckle > 0:
            noise = np.random.default_rng(self.noise_seed).standard_normal(seen.shape, np.float32)
            noise *= np.float32(self.speckle)
            seen += noise
