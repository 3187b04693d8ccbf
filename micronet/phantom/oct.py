"""From a lumen mask to the log-intensity OCT image that it would give.

Every voxel gets a reflectivity by what lies there: medium, yolk sac, lumen, wall or cavity. Light is lost on
the way down and back, a noise floor adds, speckle multiplies, and the logarithm becomes 8 bits. The picture
to match is what the published µ-Net, trained on real OCT alone, takes for real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.errors import InputError

__all__ = ["Optics", "render_oct"]

_Field = NDArray[np.float64]


@dataclass(frozen=True)
class Optics:
    """Physical parameters of a simulated image.

    Reflectivities are natural logarithms of the mean intensity before any loss on the way, relative to the
    medium's.

    Parameters
    ----------
    spacing_um : float
        Voxel size along every axis, µm.
    medium, cavity : float
        Reflectivity of the medium above and of the space under the yolk sac.
    sheet, vessel_wall, heart_wall : float
        Reflectivity of the yolk sac, and of the walls of vessels and heart.
    vessel_lumen, heart_lumen : float
        Reflectivity of blood in small and in large lumens.
    centre_gain : float
        How much brighter a lumen is at its centre than at its wall, ln units.
    deep_wall_gain : float
        How much brighter a wall is on the lumen's deep side, ln units.
    sheet_um, vessel_wall_um, heart_wall_um : float
        Thickness of the yolk sac, and of the walls of vessels and heart, µm.
    large_radius_um : float
        A lumen of at least this radius counts as heart (or large vessel), µm.
    tissue_loss_per_mm, blood_loss_per_mm, cavity_loss_per_mm : float
        Attenuation coefficients, one way, ln units of intensity per mm.
    noise_floor : float
        Logarithm of the detector's mean noise, relative to the medium.
    speckle_average_vox : float
        Standard deviation of the Gaussian over which fully developed speckle (exponential intensity: Goodman
        1976) was averaged when the volume was resampled; 0.8 leaves a standard deviation of about 0.2.
    texture : float
        Standard deviation of the slow variation of reflectivity within a tissue, ln units.
    texture_um : float
        Length of that variation, µm.
    blur_vox : float
        Standard deviation of the point spread.
    black, white : float
        Logarithms of the intensities that become 0 and 255.
    """

    spacing_um: float = 4.5
    medium: float = 0.0
    cavity: float = 0.6
    sheet: float = 2.3
    vessel_wall: float = 2.2
    heart_wall: float = 2.3
    vessel_lumen: float = 1.2
    heart_lumen: float = 1.4
    centre_gain: float = 0.3
    deep_wall_gain: float = 0.1
    sheet_um: float = 25.0
    vessel_wall_um: float = 12.0
    heart_wall_um: float = 50.0
    large_radius_um: float = 29.0
    tissue_loss_per_mm: float = 1.5
    blood_loss_per_mm: float = 1.4
    cavity_loss_per_mm: float = 1.0
    noise_floor: float = -1.0
    speckle_average_vox: float = 0.8
    texture: float = 0.08
    texture_um: float = 14.0
    blur_vox: float = 0.5
    black: float = -1.2
    white: float = 3.2


def render_oct(mask: NDArray[np.bool_], rng: np.random.Generator, optics: Optics | None = None) -> NDArray[np.uint8]:
    """Return the image that OCT would give of these lumens.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
        Lumens; light comes from Y = 0. May be empty.
    rng : numpy.random.Generator
        Source of speckle and texture.
    optics : Optics, optional
        Physical parameters; the defaults when not given.

    Returns
    -------
    ndarray of shape (Z, Y, X), uint8
        Log intensity.

    Raises
    ------
    InputError
        If the mask is not a three-dimensional bool array.

    Examples
    --------
    >>> image = render_oct(np.zeros((16, 32, 16), bool), np.random.default_rng(1))
    >>> image.dtype, bool(image[:, :4].mean() < image[:, 5:8].mean())
    (dtype('uint8'), True)
    """
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise InputError(f"a phantom's mask is a (Z, Y, X) bool array, not {mask.shape} of {mask.dtype}")
    physics = Optics() if optics is None else optics
    reflectivity, loss_per_mm = _tissues(mask, physics)
    reflectivity += physics.texture * _texture(mask.shape, rng, physics.texture_um / physics.spacing_um)
    # Down and back: twice the loss above the voxel.
    path = np.cumsum(loss_per_mm, axis=1)
    path *= 2 * physics.spacing_um / 1000
    reflectivity -= path
    del path, loss_per_mm
    intensity = np.exp(reflectivity, out=reflectivity)
    intensity = ndimage.gaussian_filter(intensity, physics.blur_vox, truncate=3.0)
    intensity += np.exp(physics.noise_floor)
    intensity *= ndimage.gaussian_filter(
        rng.standard_exponential(mask.shape), physics.speckle_average_vox, truncate=3.0
    )
    grey = np.log(intensity, out=intensity)
    grey -= physics.black
    grey *= 255 / (physics.white - physics.black)
    np.rint(grey, out=grey)
    return np.clip(grey, 0, 255, out=grey).astype(np.uint8)


def _tissues(mask: NDArray[np.bool_], physics: Optics) -> tuple[_Field, _Field]:
    """Return reflectivity (ln) and loss (per mm) of every voxel, by what lies there."""
    spacing = physics.spacing_um
    large = _large_lumens(mask, physics.large_radius_um / spacing)
    sheet = _sheet_depth(mask & (large < 0.5))
    under = np.arange(mask.shape[1])[None, :, None] - sheet[:, None, :]  # voxels below the middle of the sheet
    half = physics.sheet_um / spacing / 2
    reflectivity = np.where(under > 0, physics.cavity, physics.medium)
    loss = np.where(under > 0, physics.cavity_loss_per_mm, 0.0)

    in_sheet = _ramp(half - np.abs(under))
    _mix(reflectivity, in_sheet, physics.sheet)
    _mix(loss, in_sheet, physics.tissue_loss_per_mm)
    del under, in_sheet
    if not mask.any():
        return reflectivity, loss

    soft = ndimage.gaussian_filter(mask.astype(np.float64), 2.0, truncate=3.0)
    # Deep of a lumen, brightness of the mask falls with depth: +1 on the floor of a lumen, -1 on its roof.
    facing = np.clip(-8.0 * np.gradient(soft, axis=1), -1, 1)
    distance = ndimage.distance_transform_edt(~mask)
    thickness = (physics.vessel_wall_um + large * (physics.heart_wall_um - physics.vessel_wall_um)) / spacing
    in_wall = _ramp(thickness + 0.5 - distance)
    wall = physics.vessel_wall + large * (physics.heart_wall - physics.vessel_wall)
    wall += physics.deep_wall_gain * facing
    del distance, thickness, facing
    # A wall that is dimmer than the yolk sac does not dim it.
    np.maximum(wall, reflectivity, out=wall)
    _mix(reflectivity, in_wall, wall)
    _mix(loss, in_wall, physics.tissue_loss_per_mm)
    del in_wall, wall

    lumen = physics.vessel_lumen + large * (physics.heart_lumen - physics.vessel_lumen)
    lumen += physics.centre_gain * np.clip(2 * soft - 1, -1, 1)
    np.copyto(reflectivity, lumen, where=mask)
    np.copyto(loss, physics.blood_loss_per_mm, where=mask)
    return reflectivity, loss


def _mix(field: _Field, weight: _Field, value: _Field | float) -> None:
    """Move `field` towards `value` by `weight` in [0, 1], in place."""
    field += weight * (value - field)


def _ramp(depth_vox: _Field) -> _Field:
    """Return 0 outside, 1 inside, linear over one voxel across the surface."""
    return np.clip(depth_vox + 0.5, 0.0, 1.0)


def _large_lumens(mask: NDArray[np.bool_], radius_vox: float) -> _Field:
    """Return how far each voxel belongs to a lumen of at least this radius, or to its wall: 0 to 1.

    Half the resolution suffices, at an eighth of the work.
    """
    coarse = mask[::2, ::2, ::2]
    core = ndimage.distance_transform_edt(np.pad(coarse, 1, mode="edge"))[1:-1, 1:-1, 1:-1] >= radius_vox / 2
    if not core.any():
        return np.zeros(mask.shape)
    to_core = 2 * ndimage.distance_transform_edt(~core)
    to_lumen = 2 * ndimage.distance_transform_edt(~coarse)
    belongs = np.clip((to_lumen + radius_vox + 4.0 - to_core) / 3.0, 0.0, 1.0)
    return _doubled(belongs, mask.shape)


def _doubled(field: _Field, shape: tuple[int, ...]) -> _Field:
    """Return the field at twice the sampling, linear between the given samples, cut to `shape`."""
    for axis, length in enumerate(shape):
        shifted = np.concatenate([np.delete(field, 0, axis), np.take(field, [-1], axis)], axis)
        both = np.stack([field, 0.5 * (field + shifted)], axis=axis + 1)
        merged = (*field.shape[:axis], 2 * field.shape[axis], *field.shape[axis + 1 :])
        field = np.take(both.reshape(merged), np.arange(length), axis)
    return field


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
        return np.full((z, x), 0.2 * y)
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
    return np.asarray(np.clip(sheet, 0.0, y - 1.0))


def _texture(shape: tuple[int, ...], rng: np.random.Generator, length_vox: float) -> _Field:
    """Return low-pass noise of mean 0 and standard deviation 1, made at half the resolution."""
    coarse = tuple((n + 1) // 2 for n in shape)
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse), length_vox / 2, mode="wrap", truncate=3.0)
    return _doubled((noise - noise.mean()) / noise.std(), shape)
