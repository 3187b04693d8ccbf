"""From a lumen mask to the log-intensity OCT image that it would give.

Every voxel sends back light by the tissue that lies there (tissues.py), less what is lost on the way down and back.
The point spread blurs it, a noise floor adds, speckle multiplies, and the logarithm becomes 8 bits. The picture to
match is what the published networks, trained on real OCT alone, take for real: docs/phantoms.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.core.threads import Team, physical_cores
from micronet.data.phantom.optics import PRESETS, Optics
from micronet.data.phantom.tissues import Sources, Tissues

__all__ = ["render_oct"]

_Field = NDArray[np.float32]
#: Planes that are worked on together: what they need stays in the processor's cache.
_SLAB = 8


def render_oct(
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
    optics: Optics | None = None,
    *,
    embryo: np.random.Generator | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Return the image that OCT would give of these lumens.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
        Lumens; light comes from Y = 0. May be empty.
    rng : numpy.random.Generator
        Source of speckle and texture.
    optics : Optics, optional
        Physical parameters; the preset ``oct`` when not given.
    embryo : numpy.random.Generator, optional
        Source of the decoys' places, `rng` when not given: all time points of an embryo have one, in the same state.
    threads : int, optional
        Default: the physical cores. Does not change the image.

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
    physics = PRESETS["oct"] if optics is None else optics
    threads = threads or physical_cores()
    scene = _Scene(mask, physics, (rng, embryo), threads)
    image = np.empty(mask.shape, np.uint8)

    def work(begin: int, end: int) -> None:
        image[begin:end] = scene.grey(begin, end)

    slabs = [(z, min(z + _SLAB, len(mask))) for z in range(0, len(mask), _SLAB)]
    with Team(threads) as team:
        for group in range(0, len(slabs), threads):
            team.run(work, slabs[group : group + threads])
    return image


class _Scene:
    """What there is to be seen: tissues, and the speckle of the light that they send back."""

    def __init__(self, mask: NDArray[np.bool_], physics: Optics, random: Sources, threads: int) -> None:
        self._mask, self._physics = mask, physics
        self._tissues = Tissues(mask, physics, random, threads)
        self._speckle = _speckle(mask.shape, physics.speckle_grain_vox, random[0])
        self._spread, self._average = _gaussian(physics.blur_vox), _gaussian(physics.speckle_average_vox)

    def grey(self, begin: int, end: int) -> NDArray[np.float64]:
        """Return the planes from `begin` to before `end` in grey values from 0 to 255, whole numbers."""
        physics = self._physics
        first, last, inner = self._with_reach(begin, end, self._spread)
        scenery = self._tissues.scenery
        intensity = scenery.moved(self._tissues.intensity(first, last), first)
        intensity = _averaged(intensity, self._spread)[inner]
        intensity += np.float32(math.exp(physics.noise_floor))
        first, last, inner = self._with_reach(begin, end, self._average)
        contrast = _averaged(self._speckle[first:last], self._average)[inner]
        contrast -= 1
        still = scenery.still(begin, end)
        flowing = np.float32(physics.blood_speckle) if still is None else still + (1 - still) * physics.blood_speckle
        np.multiply(contrast, flowing, out=contrast, where=self._mask[begin:end], dtype=np.float32)
        contrast += 1
        intensity *= contrast
        # In float64, whose logarithm every processor rounds alike but for one voxel in millions.
        grey = np.log(intensity, dtype=np.float64)
        grey -= physics.black
        grey *= 255 / (physics.white - physics.black)
        np.rint(grey, out=grey)
        return np.clip(grey, 0, 255, out=grey)

    def _with_reach(self, begin: int, end: int, kernel: _Field) -> tuple[int, int, slice]:
        """Return the planes that a kernel looks at for some planes, and where these lie among them."""
        first, last = max(begin - len(kernel) // 2, 0), min(end + len(kernel) // 2, len(self._mask))
        return first, last, slice(begin - first, end - first)


def _speckle(shape: tuple[int, ...], grain_vox: float, rng: np.random.Generator) -> _Field:
    """Return fully developed speckle of mean 1: the intensity of a circular-Gaussian field with grains along depth."""
    kernel = _gaussian(grain_vox)
    if len(kernel) == 1:
        return rng.standard_exponential(shape, dtype=np.float32)
    kernel /= np.sqrt(2 * (kernel**2).sum(dtype=np.float32))
    speckle = np.zeros(shape, np.float32)
    for _ in range(2):  # real and imaginary part
        part = rng.standard_normal(shape, dtype=np.float32)
        speckle += ndimage.correlate1d(part, kernel, 1, mode="wrap") ** 2
    return speckle


def _gaussian(sigma_vox: float) -> _Field:
    """Return the weights of a Gaussian to three standard deviations, an odd number of them, of sum 1."""
    reach = math.floor(3 * sigma_vox + 0.5)
    if reach == 0:
        return np.ones(1, np.float32)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_vox) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def _averaged(planes: _Field, kernel: _Field) -> _Field:
    """Return the planes convolved along all axes; faces reflect."""
    if len(kernel) > 1:
        for axis in (1, 2, 0):
            planes = ndimage.correlate1d(planes, kernel, axis)
    return planes
