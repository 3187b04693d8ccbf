"""Where the tissues around given lumens lie, and how much light comes back from each voxel.

Everything follows from the mask: distances to the nearest lumen, whether that is a vessel or as wide as
the heart, whether the voxel lies above or below it, and the yolk sac, a smooth sheet through the topmost vessels::

        medium
    ---------------- yolk sac   ( roof )
        coelom                 (  blood  )    vessels: one wall
        body: the embryo        ( floor )     heart: endocardium, cardiac jelly, myocardium, pericardial cavity
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.data.phantom.distance import squared_distance
from micronet.data.phantom.fields import coarse_noise, doubled, step
from micronet.data.phantom.optics import Optics
from micronet.data.phantom.scenery import Scenery

__all__ = ["Sources", "Tissues"]

_Field = NDArray[np.float32]
#: Random numbers of the image, and those of the embryo where they are others.
Sources = tuple[np.random.Generator, np.random.Generator | None]
#: How far, in voxels, each surface is from full to nothing: cells and annotations end less sharply than voxels.
_VESSEL_EDGE, _HEART_EDGE, _INNER_EDGE, _SHEET_EDGE = 0.5, 0.92, 1.0, 0.5


class Tissues:
    """The tissues of one mask; tells the intensity that comes back, a slab of planes at a time.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
    optics : Optics
    random : Sources
        The first of texture and of what the scan does, the second of the decoys' places.
    threads : int
        Does not change the result.
    """

    def __init__(self, mask: NDArray[np.bool_], optics: Optics, random: Sources, threads: int) -> None:
        rng, embryo = random
        self.mask, self.optics = mask, optics
        o = optics
        spacing = optics.spacing_um
        # Beyond the thickest wall nothing depends on the distance any more.
        thickest = max(optics.heart_roof_um, optics.heart_floor_um, optics.vessel_roof_um, optics.vessel_floor_um)
        self.reach = math.ceil(thickest / spacing) + 4
        self.outside = squared_distance(mask, self.reach, threads)
        self.inside = squared_distance(~mask, self.reach, threads)
        self.texture = None
        if optics.body_texture > 0 or optics.wall_texture > 0:
            self.texture = coarse_noise(mask.shape, rng, optics.texture_um / spacing)
        coarse = np.ascontiguousarray(mask[::2, ::2, ::2])
        self.heart = self._roomy(coarse, optics.heart_radius_um / spacing, threads)
        self.to_heart = None
        core = coarse & (self.heart > 0.5)
        if core.any():
            limit = math.ceil(o.pericardium_um / spacing / 2) + 4
            self.to_heart = 2 * np.sqrt(squared_distance(core, limit, threads).astype(np.float32))
        away = np.sqrt(self.outside[::2, ::2, ::2].astype(np.float32))
        away = ndimage.gaussian_filter(away, 1.0, truncate=3.0)
        # How fast one gets away from the lumen by going down: 1 under it, -1 above it.
        self.facing = (np.gradient(away, axis=1) / 2).astype(np.float32) if away.shape[1] > 1 else np.zeros_like(away)
        self.sheet = _sheet_depth(mask & (doubled(self.heart, mask.shape, 0, len(mask)) < 0.5))
        # Of a stream of its own: without decoys an image is what it was before there were any.
        places = None if embryo is None else embryo.spawn(1)[0]
        self.scenery = Scenery(optics.decoys, mask, self.sheet, spacing, (rng.spawn(1)[0], places))
        self._make_tables()

    def _roomy(self, coarse: NDArray[np.bool_], radius_vox: float, threads: int) -> _Field:
        """Return how far each voxel belongs to a lumen in which a ball of this radius fits, or to its wall: 0 to 1.

        At half the resolution, which suffices, at an eighth of the work.
        """
        radius = radius_vox / 2
        reach = math.ceil(radius) + 1
        core = squared_distance(~coarse, reach, threads) >= radius**2
        if not core.any():
            return np.zeros(coarse.shape, np.float32)
        limit = reach + self.reach // 2 + 2
        to_core, to_lumen = (np.sqrt(squared_distance(m, limit, threads).astype(np.float32)) for m in (core, coarse))
        ramp: _Field = (to_lumen + np.float32(radius + 2) - to_core) * np.float32(0.5)
        return _cut(ramp)

    def _make_tables(self) -> None:
        """Tabulate what depends on the distance to the lumen, by its square."""
        o, spacing = self.optics, self.optics.spacing_um
        distance = np.sqrt(np.arange(self.reach**2 + 1))

        def until(length_um: float, edge_vox: float) -> NDArray[np.float64]:
            """Return 1 nearer than this to the lumen, 0 beyond."""
            ramp = 1 / (1 + np.exp(-2.5 * (length_um / spacing - distance) / edge_vox))
            ramp[-1] = 0
            return ramp

        half = spacing / 2  # the surface lies between voxels
        self.vessel_roof, self.vessel_floor, self.heart_roof, self.heart_floor = (
            until(length_um, edge_vox).astype(np.float32)
            for length_um, edge_vox in (
                (o.vessel_roof_um, _VESSEL_EDGE),
                (o.vessel_floor_um, _VESSEL_EDGE),
                (o.heart_roof_um, _HEART_EDGE),
                (o.heart_floor_um, _HEART_EDGE),
            )
        )
        layers = o.myocardium + until(o.endocardium_um + o.jelly_um + half, _INNER_EDGE) * (o.jelly - o.myocardium)
        layers += until(o.endocardium_um + half, _INNER_EDGE) * (o.endocardium - layers)
        self.heart_wall = layers.astype(np.float32)
        self.core = (1 - np.exp(-distance * spacing / o.core_um)).astype(np.float32)

    def _surroundings(self, begin: int, end: int) -> tuple[_Field, _Field, _Field, _Field]:
        """Return reflectivity and loss without walls and lumens, the depth below the yolk sac, and how far in it."""
        o = self.optics
        voxels = np.float32(1 / o.spacing_um)
        depth = np.arange(self.mask.shape[1], dtype=np.float32)[None, :, None] - self.sheet[begin:end, None]
        below = depth > 0
        level: _Field = (depth - np.float32(o.coelom_um) * voxels) * np.float32(0.5) + np.float32(0.5)
        _cut(level)
        level *= o.body - o.coelom
        level += o.coelom
        if self.to_heart is not None:
            far = doubled(self.to_heart, self.mask.shape, begin, end)
            near: _Field = (np.float32(o.pericardium_um) * voxels - far) * np.float32(0.2) + np.float32(0.5)
            _cut(near)
            near *= depth > np.float32(o.coelom_um) * voxels
            _mix(level, near, o.pericardium)
        self.scenery.into_body(level, depth, o.coelom, o.coelom_um / o.spacing_um, o.vessel_blood, begin)
        level[~below] = o.medium
        self.scenery.into_medium(level, depth, o.vessel_wall, begin)
        loss = below * np.float32(o.body_loss_per_mm)
        in_sheet = step((np.float32(o.sheet_um / 2) * voxels - np.abs(depth)) / np.float32(_SHEET_EDGE))
        _mix(level, in_sheet, o.sheet)
        np.maximum(loss, in_sheet * np.float32(o.sheet_loss_per_mm), out=loss)
        return level, loss, depth, in_sheet

    def intensity(self, begin: int, end: int) -> _Field:
        """Return the mean intensity of planes begin .. end - 1, before noise and speckle."""
        o = self.optics
        mask, planes = self.mask[begin:end], slice(begin, end)
        heart, facing = (doubled(field, self.mask.shape, begin, end) for field in (self.heart, self.facing))
        level, loss, depth, in_sheet = self._surroundings(begin, end)

        outside: NDArray[np.intp] = self.outside[planes].astype(np.intp)
        down = step(np.float32(1.2) * facing)
        in_wall = _between(self.vessel_roof, self.vessel_floor, outside, down)
        _mix(in_wall, heart, _between(self.heart_roof, self.heart_floor, outside, down))
        self.scenery.fade(in_wall, begin)
        wall = self.heart_wall[outside]
        wall -= o.vessel_wall
        wall *= heart
        wall += o.vessel_wall
        wall += o.deep_wall_gain * facing
        np.maximum(wall, level, out=wall)  # a wall that is dimmer than the yolk sac does not dim it
        _mix(level, in_wall, wall)
        _mix(loss, in_wall, o.wall_loss_per_mm)
        if self.texture is not None:
            strength = np.where(depth > 0, np.float32(o.body_texture), np.float32(0))
            _mix(strength, np.maximum(in_wall, in_sheet), o.wall_texture)
            level += strength * doubled(self.texture, self.mask.shape, begin, end)

        inside: NDArray[np.intp] = self.inside[planes].astype(np.intp)
        blood = self.core[inside]
        blood *= o.heart_core_gain
        blood += o.heart_blood - o.vessel_blood
        blood *= heart
        blood += o.vessel_blood
        self.scenery.dim(blood, begin)
        np.copyto(level, blood, where=mask)
        np.copyto(loss, np.float32(o.blood_loss_per_mm), where=mask)

        path = np.cumsum(loss, axis=1, out=loss)
        path *= np.float32(2 * o.spacing_um / 1000)  # down and back
        level -= path
        self.scenery.on_the_way(level, depth, begin)
        # In float64, whose exponential every processor rounds alike but for one voxel in millions.
        return np.exp(level, dtype=np.float64).astype(np.float32)


def _cut(ramp: _Field) -> _Field:
    """Cut to 0 .. 1, in place."""
    return np.clip(ramp, 0, 1, out=ramp)


def _mix(field: _Field, weight: _Field, value: _Field | float) -> None:
    """Move `field` towards `value` by `weight` in [0, 1], in place."""
    field += weight * (value - field)


def _between(first: _Field, second: _Field, index: NDArray[np.intp], weight: _Field) -> _Field:
    """Return ``first[index]``, moved towards ``second[index]`` by `weight`."""
    low = first[index]
    _mix(low, weight, second[index])
    return low


def _sheet_depth(vessels: NDArray[np.bool_]) -> _Field:
    """Return the depth (voxels) over (Z, X) of a smooth sheet through the topmost vessels.

    A paraboloid fitted to the upper envelope, drawn to the vessels where there are any. A field of view with
    hardly any vessel gets a flat sheet at a fifth of the depth.
    """
    z, y, x = vessels.shape
    found = vessels.any(axis=1)
    first = vessels.argmax(axis=1)
    run = np.arange(y)[None, :, None] >= first[:, None, :]
    run &= ~vessels
    last = np.where(run.any(axis=1), run.argmax(axis=1), y)
    middle = 0.5 * (first + last - 1)
    found &= last - first <= 24
    if found.sum() < 50:
        return np.full((z, x), 0.2 * y, np.float32)
    v, u = np.meshgrid(np.linspace(-1, 1, z), np.linspace(-1, 1, x), indexing="ij")
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)
    keep = found.copy()
    for _ in range(6):  # leave out what lies deeper than the sheet, with a closing tolerance
        coefficients = np.linalg.lstsq(terms[keep], middle[keep], rcond=None)[0]
        fitted = terms @ coefficients
        residual = middle - fitted
        spread = max(4.0, float(residual[keep].std()))
        closer = found & (residual < spread)
        if closer.sum() < 50:
            break
        keep = closer
    near = found & (np.abs(residual) < 12.0)
    weight = ndimage.gaussian_filter(near.astype(np.float64), 6.0)
    drawn = ndimage.gaussian_filter(np.where(near, residual, 0.0), 6.0)
    sheet = fitted + drawn / (weight + 0.02)
    return np.asarray(np.clip(sheet, 0.0, y - 1.0), np.float32)
