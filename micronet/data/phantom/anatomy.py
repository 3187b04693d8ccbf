"""Procedural lumens of a mouse yolk sac with heart, about embryonic day 9.

Axes are (Z, Y, X), Y is depth with the medium above, and the voxel is 4.5 µm along every axis. A dome (the
yolk sac) fills the whole field of view; over the far part of Z it carries a plexus, and under its near part
lies the looped heart tube, as in the published volumes::

        x ->                            x ->
    y   .  medium    ____           z   heart tube: inflow at x = 0,
    |     ___--------    ---___     |   a loop, outflow out of z = 0
    v  --- o  OO  o   dome     --   v   - - - - - - - - - - - - - -
      (====== heart ====)               plexus: islands of tissue
            cavity                      between joined vessels
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.data.phantom.plexus import add_plexus
from micronet.data.phantom.sizes import Anatomy, Field, contraction, vox

__all__ = ["SMALLEST_AXIS", "beating", "lumen_mask"]

#: Fewest voxels along an axis in which dome, plexus and heart have room.
SMALLEST_AXIS = 64
#: The axis lengths of a published volume after its crop, to which relative sizes refer.
_REFERENCE_AXIS = 218.0
_SMALLEST_HEART_UM = 34.0


def lumen_mask(
    shape: tuple[int, int, int], rng: np.random.Generator, anatomy: Anatomy | None = None, *, phase: float = 0.0
) -> NDArray[np.bool_]:
    """Return the lumens (vessels and heart) of one random phantom.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (Z, Y, X), each at least `SMALLEST_AXIS`.
    rng : numpy.random.Generator
        Source of all variation: the same state gives the same volume.
    anatomy : Anatomy, optional
        Sizes; the defaults when not given.
    phase : float
        Where the heart is in its cycle: at rest at 0 and 1. It takes no random number, so that one state of
        `rng` gives one embryo at every phase.

    Returns
    -------
    ndarray of shape (Z, Y, X), bool
        True inside a lumen.

    Raises
    ------
    InputError
        If an axis is too short.

    Examples
    --------
    >>> mask = lumen_mask((64, 64, 64), np.random.default_rng(1))
    >>> mask.shape, bool(0.02 < mask.mean() < 0.2)
    ((64, 64, 64), True)
    """
    if len(shape) != 3 or min(shape) < SMALLEST_AXIS:
        raise InputError(f"a phantom needs (Z, Y, X) of at least {SMALLEST_AXIS} voxels each, not {shape}")
    sizes = Anatomy() if anatomy is None else anatomy
    dome = _dome(shape, rng, sizes)
    inside = np.full(shape, -math.inf)  # radius minus distance to the centre line: positive in a lumen
    root = add_plexus(inside, dome, rng, sizes, phase)
    inflow = _add_heart(inside, dome, rng, sizes, phase)
    _add_vein(inside, root, inflow, rng, sizes)
    for number in range(sizes.large_veins):
        _add_large_vein(inside, dome, inflow, number, rng, sizes)
    for _ in range(sizes.deep_vessels):
        _add_deep_vessel(inside, dome, rng, sizes)
    inside += vox(sizes.roughness_um) * _smooth_noise(shape, rng, 1.5)
    return np.asarray(inside > 0)


def beating(
    shape: tuple[int, int, int],
    seed: int,
    time_points: int,
    anatomy: Anatomy | None = None,
    *,
    beats: float = 1.0,
) -> Iterator[NDArray[np.bool_]]:
    """Yield the lumens of one embryo while its heart beats: a wave of contraction runs from inflow to outflow.

    Parameters
    ----------
    shape, anatomy
        As in `lumen_mask`.
    seed : int
        Names the embryo: the first time point is ``lumen_mask(shape, np.random.default_rng(seed), anatomy)``.
    time_points : int
        How many masks; time point t shows the phase ``beats * t / time_points``, so that the sequence repeats
        after the last where `beats` is whole.
    beats : float
        Heart cycles in the sequence.

    Yields
    ------
    ndarray of shape (Z, Y, X), bool
        True inside a lumen. Each is made when it is asked for: one at a time is in memory.

    Raises
    ------
    InputError
        If an axis is too short, or there is no time point.

    Notes
    -----
    An image of every time point has a speckle of its own: render each with another generator, such as
    ``np.random.default_rng([seed, t])``.

    Examples
    --------
    >>> rest, contracted = beating((64, 64, 64), 1, 2)
    >>> bool(rest.sum() > contracted.sum())
    True
    """
    if time_points < 1:
        raise InputError(f"a sequence needs at least 1 time point, not {time_points}")
    for number in range(time_points):
        yield lumen_mask(shape, np.random.default_rng(seed), anatomy, phase=beats * number / time_points)


def _scale(shape: tuple[int, ...]) -> float:
    """Return how large heart and veins are, against those of a published field of view."""
    return min(1.0, 1.25 * min(shape) / _REFERENCE_AXIS)


def _smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, sigma_vox: float) -> Field:
    """Return low-pass noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma_vox, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def _dome(shape: tuple[int, int, int], rng: np.random.Generator, sizes: Anatomy) -> Field:
    """Return the depth (voxels) of the yolk sac over (Z, X)."""
    z, y, x = shape
    summit_z = z * (0.6 + 0.15 * rng.random())
    summit_x = x * (0.45 + 0.2 * rng.random())
    dz = (np.arange(z)[:, None] - summit_z) / z
    dx = (np.arange(x)[None, :] - summit_x) / x
    farthest = max(summit_z / z, 1 - summit_z / z) ** 2 + max(summit_x / x, 1 - summit_x / x) ** 2
    drop = y * sizes.dome_drop * (0.85 + 0.3 * rng.random())
    top = y * sizes.dome_top * (0.9 + 0.2 * rng.random())
    ripple = vox(sizes.dome_ripple_um) * _smooth_noise((z, x), rng, 12.0)
    return np.asarray(top + drop * (dz**2 + dx**2) / farthest + ripple)


def _stamp_tube(inside: Field, points: Field, radii: Field) -> None:
    """Raise `inside` to radius minus distance, near a chain of balls; points (N, 3), radii (N,)."""
    margin = 4.0  # beyond the surface, so that roughness can move it
    for centre, radius in zip(points, radii, strict=True):
        low = np.maximum(np.ceil(centre - radius - margin), 0).astype(int)
        high = np.minimum(np.floor(centre + radius + margin) + 1, inside.shape).astype(int)
        if (low >= high).any():
            continue
        window = inside[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        dz, dy, dx = (
            (np.arange(first, last) - position) ** 2 for first, last, position in zip(low, high, centre, strict=True)
        )
        distance = np.sqrt(dz[:, None, None] + dy[None, :, None] + dx[None, None, :])
        np.maximum(window, radius - distance, out=window)


def _curve(knots: Field, spacing_vox: float) -> Field:
    """Return points on the Catmull-Rom spline through the knots (N, 4): z, y, x and radius.

    Source: Catmull & Rom 1974; the end knots are repeated.
    """
    padded = np.concatenate([knots[:1], knots, knots[-1:]])
    pieces = []
    for first, second, third, fourth in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        steps = max(2, math.ceil(float(np.linalg.norm(third[:3] - second[:3])) / spacing_vox))
        t = np.linspace(0, 1, steps, endpoint=False)[:, None]
        pieces.append(
            second
            + 0.5 * t * (third - first)
            + t**2 * (first - 2.5 * second + 2 * third - 0.5 * fourth)
            + t**3 * (1.5 * (second - third) + 0.5 * (fourth - first))
        )
    return np.concatenate([*pieces, knots[-1:]])


def _add_heart(inside: Field, dome: Field, rng: np.random.Generator, sizes: Anatomy, phase: float) -> Field:
    """Add the looped heart tube; return its inflow end (z, y, x)."""
    shape = inside.shape
    radius = vox(max(_SMALLEST_HEART_UM, sizes.heart_radius_um * _scale(shape) * (0.85 + 0.3 * rng.random())))
    # Fractions of (Z, Y, X), and of the mean radius: inflow, atrium, canal, ventricle, bulb, outflow.
    plan = np.array(
        [
            [0.62, 0.62, -0.05, 0.60],
            [0.52, 0.60, 0.12, 1.10],
            [0.45, 0.57, 0.32, 0.55],
            [0.33, 0.60, 0.50, 1.30],
            [0.18, 0.56, 0.34, 0.90],
            [0.02, 0.50, 0.22, 0.60],
            [-0.15, 0.46, 0.20, 0.55],
        ]
    )
    knots = plan * np.array([*shape, radius], dtype=float)
    knots[:, :3] += 0.035 * np.array(shape) * rng.standard_normal((len(plan), 3))
    if rng.random() < 0.5:
        knots[1:4, 1] += 0.08 * shape[1]  # the ventricle hangs lower in some
    # Nowhere does the heart touch the yolk sac: keep a wall's room under the dome.
    where = np.clip(np.rint(knots[:, [0, 2]]).astype(int), 0, np.array(dome.shape) - 1)
    knots[:, 1] = np.maximum(knots[:, 1], dome[where[:, 0], where[:, 1]] + knots[:, 3] + 6.0)
    knots[:, 1] = np.minimum(knots[:, 1], shape[1] - 0.5 * knots[:, 3])
    line = _curve(knots, 1.5)
    swelling = 1 + 0.08 * _smooth_noise((len(line),), rng, 6.0)
    along = np.linspace(0, 1, len(line))
    # Down and aside by the contraction of the middle, the ends held.
    aside = sizes.beat_travel * radius * contraction(phase, np.full(1, 0.5)) * np.sin(math.pi * along)
    line[:, 1:3] += aside[:, None] * np.array([0.8, 0.6])
    swelling *= 1 - sizes.beat_depth * contraction(phase, along)
    _stamp_tube(inside, line[:, :3], line[:, 3] * swelling)
    return np.asarray(knots[0, :3])


def _add_vein(inside: Field, root: Field, inflow: Field, rng: np.random.Generator, sizes: Anatomy) -> None:
    """Join the trunk of the plexus to the inflow of the heart."""
    radius = vox(sizes.largest_radius_um) * (0.8 + 0.3 * rng.random())
    middle = 0.5 * (root + inflow) + 3.0 * rng.standard_normal(3)
    knots = np.column_stack([np.stack([root, middle, inflow]), [0.8 * radius, radius, 1.1 * radius]])
    line = _curve(knots, 1.0)
    _stamp_tube(inside, line[:, :3], line[:, 3])


def _add_large_vein(
    inside: Field, dome: Field, inflow: Field, number: int, rng: np.random.Generator, sizes: Anatomy
) -> None:
    """Add one large vein: from the inflow of the heart up to the dome, then along it into the plexus."""
    z, x = dome.shape
    radius = vox(sizes.vein_radius_um * _scale(inside.shape) * (0.85 + 0.3 * rng.random()))
    end = np.array([z * (0.8 + 0.25 * rng.random()), x * (number + 0.2 + 0.6 * rng.random()) / sizes.large_veins])
    rise = np.array([max(inflow[0], z * sizes.plexus_begin), x * (0.06 + 0.08 * rng.random())])
    along = np.array([0.0, 0.35, 0.7, 1.0])[:, None]
    places = rise + along * (end - rise) + 0.03 * np.array([z, x]) * rng.standard_normal((4, 2))
    where = np.clip(np.rint(places).astype(int), 0, np.array(dome.shape) - 1)
    knots = np.column_stack([places[:, 0], dome[where[:, 0], where[:, 1]], places[:, 1]])
    line = _curve(np.column_stack([np.vstack([inflow, knots]), radius * np.array([1.1, 1.0, 1.0, 0.85, 0.65])]), 1.0)
    _stamp_tube(inside, line[:, :3], line[:, 3])


def _add_deep_vessel(inside: Field, dome: Field, rng: np.random.Generator, sizes: Anatomy) -> None:
    """Add one winding vessel in the tissue under the far part of the dome, leaving at a side."""
    z, y, x = inside.shape
    start = np.array([z * (0.55 + 0.4 * rng.random()), 0.0, x * (0.35 + 0.6 * rng.random())])
    heading = np.array([0.5 * rng.standard_normal(), 0.25 * rng.standard_normal(), 1.0])
    radius = vox(sizes.capillary_radius_um) * (1.0 + rng.random())
    column = dome[int(start[0]), int(start[2])]
    start[1] = column + (y - column) * (0.3 + 0.4 * rng.random())
    steps = np.arange(4)[:, None] * (0.14 * min(z, x))
    knots = start + steps * heading + 3.0 * rng.standard_normal((4, 3))
    line = _curve(np.column_stack([knots, np.full(4, radius)]), 1.0)
    _stamp_tube(inside, line[:, :3], line[:, 3])
