"""Where the decoys of one phantom lie (decoys.py says how much of each there is)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.data.phantom.decoys import Decoys
from micronet.data.phantom.fields import Field, coarse_noise, doubled, step

__all__ = ["Scenery"]

#: How soft the edge of a share is, in standard deviations of the noise that it is cut from.
_SOFT = 0.12


class Scenery:
    """The decoys around given lumens; every field is drawn, whatever is absent, and absent ones are None.

    Parameters
    ----------
    decoys : Decoys
    mask : ndarray of shape (Z, Y, X), bool
        The lumens.
    sheet : ndarray of shape (Z, X), float32
        Depth of the yolk sac, voxels.
    spacing_um : float
    random : pair of numpy.random.Generator
        Of the scan, and of what lies in the embryo: None for the former.
    """

    def __init__(
        self,
        decoys: Decoys,
        mask: NDArray[np.bool_],
        sheet: Field,
        spacing_um: float,
        random: tuple[np.random.Generator, np.random.Generator | None],
    ) -> None:
        self.decoys, self._shape, self._sheet, self._spacing = decoys, mask.shape, sheet, spacing_um
        lumens = mask[::2, ::2, ::2]
        of_scan = random[0].spawn(9)  # each decoy keeps its places when another is added
        streams = iter(of_scan if random[1] is None else [*random[1].spawn(9)[:-1], of_scan[-1]])
        d = decoys
        self._grey = self._sheets(d.head_fold_share, d.head_fold_um, next(streams))
        somites = self._balls(d.somites_per_mm2, d.somite_um, next(streams), above=False)
        if somites is not None:
            self._grey = somites[0] if self._grey is None else np.maximum(self._grey, somites[0])
        self._cracks = self._sheets(d.crack_share, d.crack_um, next(streams))
        self._empty = self._share(d.empty_share, d.blood_um, next(streams), lumens)
        self._still = self._share(d.still_share, d.blood_um, next(streams), lumens)
        self._faded = self._share(d.faded_share, d.faded_um, next(streams))
        self._bubbles = self._balls(d.bubbles_per_mm2, d.bubble_um, next(streams), above=True)
        self._shade = self._shadows(next(streams))
        self._gain, self._shift = self._scan(next(streams))

    def into_body(self, level: Field, depth: Field, coelom: float, coelom_vox: float, blood: float, begin: int) -> None:
        """Put somites, folds, cracks and amnion where `depth`, in voxels below the yolk sac, is in the body."""
        d = self.decoys
        inside = step((depth - np.float32(coelom_vox)) * np.float32(0.5))
        for field, value in ((self._grey, blood + d.grey), (self._cracks, coelom)):
            if field is not None:
                weight = inside * self._at(field, begin, len(level))
                level += weight * (np.float32(value) - level)
        if d.amnion > 0:
            off = np.abs(depth - np.float32(d.amnion_below_um / self._spacing))
            weight = step((np.float32(0.5 * d.amnion_um / self._spacing) - off) / np.float32(0.5))
            level += weight * np.maximum(np.float32(blood + d.amnion) - level, 0)

    def into_medium(self, level: Field, depth: Field, rim: float, begin: int) -> None:
        """Put bubbles into the medium."""
        if self._bubbles is not None:
            ball, inner = (self._at(field, begin, len(level)) * (depth < 0) for field in self._bubbles)
            level += (ball - inner) * (np.float32(rim) - level)
            level += inner * (np.float32(-6.0) - level)

    def fade(self, in_wall: Field, begin: int) -> None:
        """Take away walls where they are faded."""
        if self._faded is not None:
            in_wall *= 1 - self._at(self._faded, begin, len(in_wall))

    def dim(self, blood: Field, begin: int) -> None:
        """Dim blood where plasma flows without cells."""
        if self._empty is not None:
            blood -= np.float32(self.decoys.empty_loss) * self._at(self._empty, begin, len(blood))

    def still(self, begin: int, end: int) -> Field | None:
        """Return how far blood stands still, 0 to 1."""
        return None if self._still is None else self._at(self._still, begin, end - begin)

    def on_the_way(self, level: Field, depth: Field, begin: int) -> None:
        """Take away what shadows cost and add what saturates lines."""
        planes = slice(begin, begin + len(level))
        if self._shade is not None:
            level -= self._shade[planes, None] * step(depth * np.float32(0.5))
        if self._gain is not None:
            level += self._gain[planes, None]

    def moved(self, intensity: Field, begin: int) -> Field:
        """Return the planes shifted along depth, linear between voxels."""
        if self._shift is None:
            return intensity
        moved = np.empty_like(intensity)
        for plane, target, shift in zip(intensity, moved, self._shift[begin:], strict=False):
            whole = math.floor(shift)
            part = np.float32(shift - whole)
            places = np.arange(len(plane)) - whole
            near, far = (np.clip(p, 0, len(plane) - 1) for p in (places, places - 1))
            np.add((1 - part) * plane[near], part * plane[far], out=target)
        return moved

    def _at(self, field: Field, begin: int, planes: int) -> Field:
        return doubled(field, self._shape, begin, begin + planes)

    def _share(
        self, share: float, length_um: float, rng: np.random.Generator, within: NDArray[np.bool_] | None = None
    ) -> Field | None:
        """Return, at half the resolution, a field that is 1 in patches which make up this share, else 0."""
        if share <= 0:
            return None
        noise = coarse_noise(self._shape, rng, length_um / self._spacing)
        counted = noise if within is None or not within.any() else noise[within]
        return step((noise - np.float32(np.quantile(counted, 1 - share))) / np.float32(_SOFT))

    def _sheets(self, share: float, length_um: float, rng: np.random.Generator) -> Field | None:
        """Return, at half the resolution, a field that is 1 in folded sheets which make up this share, else 0."""
        if share <= 0:
            return None
        noise = np.abs(coarse_noise(self._shape, rng, length_um / self._spacing))
        return step((np.float32(np.quantile(noise, share)) - noise) / np.float32(_SOFT))

    def _places(self, per_mm2: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return random places (N, 2) over (Z, X), in voxels."""
        z, _, x = self._shape
        count = int(rng.poisson(per_mm2 * z * x * (self._spacing / 1000) ** 2))
        return np.asarray(rng.random((count, 2)) * np.array([z, x]))

    def _balls(
        self, per_mm2: float, diameter_um: float, rng: np.random.Generator, *, above: bool
    ) -> tuple[Field, Field] | None:
        """Return, at half the resolution, balls above or below the yolk sac, and the same without their rim."""
        if per_mm2 <= 0:
            return None
        shape = tuple((n + 1) // 2 for n in self._shape)
        inside: Field = np.full(shape, -9.0, np.float32)  # radius minus distance, half voxels
        places = self._places(per_mm2, rng)
        for (z, x), size, where in zip(
            places, rng.uniform(0.7, 1.3, len(places)), rng.random(len(places)), strict=True
        ):
            radius = 0.25 * diameter_um * size / self._spacing
            sheet = 0.5 * float(self._sheet[int(z), int(x)])
            y = sheet * where - radius if above else sheet + 2 * radius + where * (shape[1] - sheet)
            _stamp(inside, np.array([0.5 * z, y, 0.5 * x]), radius)
        return step(inside / np.float32(0.5)), step((inside - np.float32(1)) / np.float32(0.5))

    def _shadows(self, rng: np.random.Generator) -> Field | None:
        """Return over (Z, X) what shadows take away below the yolk sac."""
        shade: Field = np.zeros((self._shape[0], self._shape[2]), np.float32)
        if self.decoys.shadows_per_mm2 > 0:
            for z, x in self._places(self.decoys.shadows_per_mm2, rng):
                shade[int(z), int(x)] = 1
            sigma = self.decoys.shadow_um / 2.5 / self._spacing
            shade = ndimage.gaussian_filter(shade, sigma, mode="constant") * np.float32(2 * math.pi * sigma**2)
            shade = np.minimum(shade, 1.5) * np.float32(self.decoys.shadow_loss)
        if self._bubbles is not None:
            under = self._bubbles[0].max(axis=1)
            under = np.repeat(np.repeat(under, 2, 0), 2, 1)[: shade.shape[0], : shade.shape[1]]
            shade += under * np.float32(self.decoys.shadow_loss)
        return shade if shade.any() else None

    def _scan(self, rng: np.random.Generator) -> tuple[Field | None, NDArray[np.float64] | None]:
        """Return over (Z, X) how much brighter saturated lines are, and how far each B-scan is shifted, in voxels."""
        gain: Field = np.zeros((self._shape[0], self._shape[2]), np.float32)
        for z, x in self._places(self.decoys.lines_per_mm2, rng):
            gain[int(z), int(x)] = self.decoys.line_gain
        shift: NDArray[np.float64] = rng.standard_normal((self._shape[0],)) * (self.decoys.motion_um / self._spacing)
        return gain if gain.any() else None, shift if self.decoys.motion_um > 0 else None


def _stamp(inside: Field, centre: NDArray[np.float64], radius: float) -> None:
    """Raise `inside` to radius minus distance, near a ball."""
    low = np.maximum(np.floor(centre - radius - 3), 0).astype(int)
    high = np.minimum(np.ceil(centre + radius + 4), inside.shape).astype(int)
    if (low >= high).any():
        return
    window = inside[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    axes = [(np.arange(a, b) - c) ** 2 for a, b, c in zip(low, high, centre, strict=True)]
    distance = np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])
    np.maximum(window, (radius - distance).astype(np.float32), out=window)
