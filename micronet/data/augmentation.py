"""Light augmentation: the same volume seen at another place, mirrored, with other contrast and other speckle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.networks.models import MINIMUM_AXIS

__all__ = ["AUGMENTATIONS", "FLIPS", "Augmentation", "View"]

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
    """

    flips: str = "zx"
    smallest_crop: float = 0.75
    shortest_axis: int = MINIMUM_AXIS
    contrast: float = 0.15
    brightness: float = 0.15
    speckle: float = 0.15

    def __post_init__(self) -> None:
        """Raise InputError for values that mean nothing."""
        if len(set(self.flips)) != len(self.flips) or set(self.flips) - set("zyx"):
            raise InputError(f"flips = '{self.flips}' must name axes among z, y, x, each once")
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop = {self.smallest_crop} must lie in (0, 1]")
        if self.shortest_axis < MINIMUM_AXIS:
            raise InputError(f"shortest_axis = {self.shortest_axis} must be at least {MINIMUM_AXIS}")
        for name, limit in (("contrast", 1.0), ("brightness", 10.0), ("speckle", 10.0)):
            value = getattr(self, name)
            if not 0 <= value < limit:
                raise InputError(f"{name} = {value} must lie in [0, {limit:g})")

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> View:
        """Draw one view of a (Z, Y, X) volume."""
        box = []
        for length in shape:
            shortest = min(length, max(self.shortest_axis, round(self.smallest_crop * length)))
            size = int(rng.integers(shortest, length + 1))
            first = int(rng.integers(0, length - size + 1))
            box.append((first, first + size))
        mirrored = tuple(bool(rng.random() < 0.5) and axis in self.flips for axis in "zyx")
        gain = 1 + float(rng.uniform(-self.contrast, self.contrast))
        offset = float(rng.uniform(-self.brightness, self.brightness))
        speckle = float(rng.uniform(0, self.speckle))
        return View(tuple(box), mirrored, gain, offset, speckle, int(rng.integers(2**63)))


#: What helps on phantoms, and what a data set's [augmentation] starts from; docs/training.md says what the rest does.
FLIPS = Augmentation(smallest_crop=1.0, contrast=0.0, brightness=0.0, speckle=0.0)

#: Those that may be asked for by name.
AUGMENTATIONS: Mapping[str, Augmentation | None] = {"none": None, "flips": FLIPS, "full": Augmentation()}


@dataclass(frozen=True)
class View:
    """One drawn view; applied to the image, the mask and the weight of a volume alike."""

    box: tuple[tuple[int, int], ...]
    mirrored: tuple[bool, ...]
    gain: float
    offset: float
    speckle: float
    noise_seed: int

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> View:
        """Return the view that changes nothing."""
        return cls(tuple((0, length) for length in shape), (False, False, False), 1.0, 0.0, 0.0, 0)

    def place(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return the part of a (Z, Y, X) array that is seen, mirrored, contiguous."""
        part = array[tuple(slice(first, end) for first, end in self.box)]
        steps = tuple(slice(None, None, -1) if mirror else slice(None) for mirror in self.mirrored)
        return np.ascontiguousarray(part[steps])

    def tone(self, seen: NDArray[np.float32]) -> None:
        """Give a part already in place, standardised, the contrast, brightness and speckle of this view; in place."""
        if self.gain != 1:
            seen *= np.float32(self.gain)
        if self.offset != 0:
            seen += np.float32(self.offset)
        if self.speckle > 0:
            noise = np.random.default_rng(self.noise_seed).standard_normal(seen.shape, np.float32)
            noise *= np.float32(self.speckle)
            seen += noise
