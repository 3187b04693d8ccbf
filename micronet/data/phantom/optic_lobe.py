r"""An optic lobe as a two-photon microscope might show it: labelled neurites in hexagonal columns.

::

            hexagonal lattice on a piece of an ellipsoid
             \    |    |    |    /       outer ends
              \   |    |    |   /        columns: cones along the axes, the mask
               \  |    |    |  /         neurites with clusters of fluorescence
                '-.\   |   /.-'          inner ends
                    '-.|.-'              neurites alone, cubic Bézier curves
                       C                 centre of the ellipsoid

Lengths are in µm, directions unit vectors (z, y, x); the outer ends point to plane Z = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from micronet.core.errors import InputError

__all__ = ["BRIGHTEST", "SMALLEST_LOBE", "OpticLobe", "optic_lobe"]

#: Largest grey value: float16 holds every whole number up to here.
BRIGHTEST = 2047
#: Voxels that each axis has at least.
SMALLEST_LOBE = 32

_Numbers = NDArray[np.float64]
_SLAB = 32  # planes whose mask is made together, which bounds the memory
_WIDEST = math.radians(75)  # from the axis of the piece: beyond, flat hexagons would be squeezed on the ellipsoid


@dataclass(frozen=True)
class OpticLobe:
    """Sizes, labelling and microscope; a pair is the range from which a value is drawn, both ends included.

    Parameters
    ----------
    spacing_um : float
        Length of an edge of the cubic voxels.
    semi_axis : pair of float
        Of the ellipsoid along each axis, as a share of the extent of the volume along Z.
    tilt_deg : pair of float
        From the Z axis to the axis of the piece.
    pitch_um : float
        From one column to the next, at their outer ends.
    jitter : float
        Standard deviation of where columns stand, as a share of the pitch.
    left_out : float
        Share of the columns that are not there.
    column_um : pair of float
        Length of the columns of a volume.
    cone : float
        Radius of a column as a share of the pitch, at its outer end; it shrinks towards the centre. Up to 0.36 columns
        do not touch, but for what the jitter brings together.
    neurites : pair of int
        In each column.
    clusters : pair of int
        Of fluorescence on each neurite in the column.
    cluster_um : float
        Standard deviation of the fluorophores of a cluster around its middle.
    densities : tuple of int
        Groups of fluorophores in a cluster; each cluster has one of these three.
    neurite_per_um : float
        Groups of fluorophores per µm of a neurite, clusters apart.
    blur_um : tuple of float
        Standard deviations of the point spread along (Z, Y, X).
    photons : float
        That a group of fluorophores sends to the detector.
    background : float
        Photons in a voxel without any.
    gain, offset : float
        Grey values per photon, and of none.
    read_noise : float
        Standard deviation of the Gaussian noise of the detector, in grey values.
    """

    spacing_um: float = 1.0
    semi_axis: tuple[float, float] = (0.95, 1.15)
    tilt_deg: tuple[float, float] = (0.0, 12.0)
    pitch_um: float = 11.0
    jitter: float = 0.04
    left_out: float = 0.12
    column_um: tuple[float, float] = (45.0, 60.0)
    cone: float = 0.36
    neurites: tuple[int, int] = (3, 6)
    clusters: tuple[int, int] = (6, 12)
    cluster_um: float = 0.9
    densities: tuple[int, int, int] = (8, 25, 75)
    neurite_per_um: float = 1.0
    blur_um: tuple[float, float, float] = (1.6, 0.7, 0.7)
    photons: float = 6.0
    background: float = 2.0
    gain: float = 20.0
    offset: float = 100.0
    read_noise: float = 12.0


def optic_lobe(
    shape: tuple[int, int, int], rng: np.random.Generator, lobe: OpticLobe | None = None
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return an image and the mask of its columns.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (Z, Y, X), at least 32 each.
    rng : numpy.random.Generator
        Source of everything.
    lobe : OpticLobe, optional
        The defaults when not given.

    Returns
    -------
    image : ndarray of shape (Z, Y, X), uint16
        Grey values up to `BRIGHTEST`.
    mask : ndarray of shape (Z, Y, X), bool

    Raises
    ------
    InputError
        If an axis is too short.

    Examples
    --------
    >>> image, mask = optic_lobe((40, 48, 48), np.random.default_rng(1))
    >>> image.dtype, bool(image[mask].mean() > image[~mask].mean())
    (dtype('uint16'), True)
    """
    if min(shape) < SMALLEST_LOBE:
        raise InputError(
            f"a volume of {' x '.join(map(str, shape))} voxels; an optic lobe needs at least {SMALLEST_LOBE} each"
        )
    what = lobe or OpticLobe()
    columns = _columns(np.array(shape) * what.spacing_um, rng, what)
    return _image(shape, _fluorophores(columns, rng, what), rng, what), columns.mask(shape, what.spacing_um)


@dataclass(frozen=True)
class _Columns:
    """Columns that all run towards one centre.

    Parameters
    ----------
    centre : ndarray of shape (3,)
        Where, in µm from the corner of the volume.
    axes : ndarray of shape (N, 3)
        Direction of each from the centre outwards.
    outer : ndarray of shape (N,)
        Distance of the outer end of each from the centre, in µm.
    length : float
        In µm.
    half_angle : float
        Of the cones, in radians.
    """

    centre: _Numbers
    axes: _Numbers
    outer: _Numbers
    length: float
    half_angle: float

    def mask(self, shape: tuple[int, int, int], spacing_um: float) -> NDArray[np.bool_]:
        """Return the voxels whose middle lies in one of the cones."""
        middles = [(np.arange(n) + 0.5) * spacing_um - c for n, c in zip(shape, self.centre, strict=True)]
        tree, mask = KDTree(self.axes), np.zeros(shape, np.bool_)
        for first in range(0, shape[0], _SLAB):
            slab = slice(first, first + _SLAB)
            mask[slab] = self._inside(middles[0][slab], middles[1], middles[2], tree)
        return mask

    def _inside(self, z: _Numbers, y: _Numbers, x: _Numbers, tree: KDTree) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_]
        squared = (z * z)[:, None, None] + (y * y)[:, None] + x * x
        # Only between the innermost and the outermost end, the rim of a cone, is there anything to look for.
        inner, outer = self.outer.min() - self.length, self.outer.max() / math.cos(self.half_angle)
        inside = (squared >= max(inner, 0) ** 2) & (squared <= outer**2) & (squared > 0)
        where = np.nonzero(inside)
        distance = np.sqrt(squared[where])
        directions = np.stack([axis[index] for axis, index in zip((z, y, x), where, strict=True)], axis=1)
        directions /= distance[:, None]
        # The nearest axis by angle is the nearest point on the unit sphere; the bound spares most of the search.
        chord = 2 * math.sin(self.half_angle / 2)
        found, nearest = map(np.asarray, tree.query(directions, distance_upper_bound=chord))
        near = np.isfinite(found)
        along = distance[near] * (1 - found[near] ** 2 / 2)  # the cosine of the angle
        end = self.outer[nearest[near]]
        near[near] = (along <= end) & (along >= end - self.length)
        inside[where] = near
        return inside


def _columns(extent_um: _Numbers, rng: np.random.Generator, what: OpticLobe) -> _Columns:
    """Set up the lattice on the ellipsoid and leave columns out."""
    semi = rng.uniform(*what.semi_axis, 3) * extent_um[0]
    centre = extent_um * [1.0, 0.5, 0.5] + rng.normal(0, what.pitch_um / 2, 3)
    pitch = what.pitch_um / semi[0]  # as an angle, at the pole
    # Far enough to fill the volume to its corners.
    widest = min(math.atan2(0.75 * math.hypot(*extent_um[1:]), semi[0] / 2), _WIDEST)
    count = math.ceil(2 * widest / pitch)
    row, column = (index.ravel() for index in np.mgrid[-count : count + 1, -count : count + 1])
    points = pitch * np.stack([row * math.sqrt(3) / 2, column + row / 2], axis=1)
    points += pitch * (rng.uniform(-0.5, 0.5, 2) + what.jitter * rng.standard_normal(points.shape))
    points = points[rng.random(len(points)) >= what.left_out]
    axes = _on_sphere(points[np.hypot(*points.T) <= 2 * math.sin(widest / 2)])
    axes = axes @ _tilt(math.radians(rng.uniform(*what.tilt_deg)), rng.uniform(0, 2 * math.pi)).T
    outer = 1 / np.sqrt(((axes / semi) ** 2).sum(axis=1))
    length = min(rng.uniform(*what.column_um), 0.6 * outer.min())
    return _Columns(centre, axes, outer, length, what.cone * pitch)


def _on_sphere(points: _Numbers) -> _Numbers:
    """Return directions around -Z for points of a plane, areas kept (Lambert 1772)."""
    squared = (points**2).sum(axis=1)
    return np.column_stack([squared / 2 - 1, points * np.sqrt(1 - squared / 4)[:, None]])


def _tilt(angle: float, towards: float) -> _Numbers:
    """Return the rotation of (z, y, x) by an angle about an axis in the plane of Y and X (Rodrigues 1840)."""
    y, x = math.cos(towards), math.sin(towards)
    cross = np.array([[0.0, -x, y], [x, 0.0, 0.0], [-y, 0.0, 0.0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def _fluorophores(columns: _Columns, rng: np.random.Generator, what: OpticLobe) -> _Numbers:
    """Return where groups of fluorophores are, (N, 3), in µm."""
    of = np.repeat(np.arange(len(columns.axes)), rng.integers(*what.neurites, len(columns.axes), endpoint=True))
    curves = _curves(columns, of, rng)
    # Control points lie evenly, so the parameter is the share of the way to the centre.
    thin = round(what.neurite_per_um * float(columns.outer.mean()))
    neurite = np.repeat(np.arange(len(of)), thin)
    along = [_bezier(curves[neurite], rng.random(len(neurite)))]
    # Clusters lie in the columns only.
    neurite = np.repeat(np.arange(len(of)), rng.integers(*what.clusters, len(of), endpoint=True))
    part = columns.length / columns.outer[of[neurite]]
    middles = _bezier(curves[neurite], rng.random(len(neurite)) * part)
    groups = rng.choice(np.array(what.densities), len(neurite))
    middles = np.repeat(middles, groups, axis=0)
    along.append(middles + what.cluster_um * rng.standard_normal(middles.shape))
    return np.concatenate(along)


def _curves(columns: _Columns, of: NDArray[np.intp], rng: np.random.Generator) -> _Numbers:
    """Return the four control points of each neurite, (N, 4, 3): outer end, two between, near the centre."""
    axes, outer = columns.axes[of], columns.outer[of]
    # Distances of the control points from the centre, as shares of the outer end's.
    shares = np.array([1.0, 2 / 3, 1 / 3, 0.0])
    points = columns.centre + axes[:, None] * (outer[:, None] * shares)[:, :, None]
    # They start anywhere in the cone's end and keep to its middle, then bend.
    radius = outer * math.tan(columns.half_angle)
    spread = radius[:, None] * np.array([0.5, 0.4, 0.9, 0.7])
    return np.asarray(points + spread[:, :, None] * rng.standard_normal(points.shape))


def _bezier(curves: _Numbers, t: _Numbers) -> _Numbers:
    """Return the point of each cubic curve, (N, 4, 3), at its parameter from 0 to 1 (Bernstein's polynomials)."""
    s = 1 - t
    weights = np.stack([s**3, 3 * s * s * t, 3 * s * t * t, t**3], axis=1)
    return np.asarray(np.einsum("np,npc->nc", weights, curves))


def _image(
    shape: tuple[int, int, int], places_um: _Numbers, rng: np.random.Generator, what: OpticLobe
) -> NDArray[np.uint16]:
    """Return the grey values that the microscope gives of these groups of fluorophores."""
    index = np.floor(places_um / what.spacing_um).astype(np.intp)
    index = index[((index >= 0) & (index < shape)).all(axis=1)]
    flat = np.ravel_multi_index(tuple(index.T), shape)
    groups = np.bincount(flat, minlength=math.prod(shape)).reshape(shape).astype(np.float32)
    # Faces let light in from beyond, where there is none: what lies outside is not simulated.
    seen = ndimage.gaussian_filter(groups, [sigma / what.spacing_um for sigma in what.blur_um], truncate=3.0)
    grey = rng.poisson(seen * what.photons + what.background).astype(np.float32)
    grey *= np.float32(what.gain)
    grey += np.float32(what.offset)
    grey += np.float32(what.read_noise) * rng.standard_normal(shape, np.float32)
    return np.clip(np.rint(grey), 0, BRIGHTEST).astype(np.uint16)
