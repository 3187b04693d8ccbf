"""One number names a phantom: its anatomy, its optics and its speckle each come from a stream of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.data.phantom.anatomy import lumen_mask
from micronet.data.phantom.oct import render_oct
from micronet.data.phantom.optics import PRESETS, VARIATION, Optics, varied
from micronet.data.phantom.sizes import Anatomy

__all__ = ["mask_of_seed", "optics_of_seed", "phantom_of_seed", "speckle_of_seed"]

# What a stream is for; with the seed it names one stream, so that the same lumens may get other optics or speckle.
_SPECKLE, _OPTICS = 1, 2


def mask_of_seed(
    shape: tuple[int, int, int],
    seed: int,
    *,
    y_crop: int | None = None,
    anatomy: Anatomy | None = None,
    phase: float = 0.0,
) -> NDArray[np.bool_]:
    """Return the lumens of the phantom that a seed names.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (Z, Y, X).
    seed : int
        Not negative.
    y_crop : int, optional
        The lumens lie in the first so many voxels of depth, as in the published volumes; below is tissue alone.
    anatomy : Anatomy, optional
        Sizes; the defaults when not given.
    phase : float
        Of the heart's cycle, as `micronet.data.phantom.lumen_mask` has it.

    Returns
    -------
    ndarray of shape (Z, Y, X), bool

    Raises
    ------
    InputError
        If `y_crop` exceeds the depth, or `micronet.data.phantom.lumen_mask` finds an axis too short.
    """
    z, y, x = shape
    depth = y if y_crop is None else y_crop
    if depth > y:
        raise InputError(f"a phantom of {y} voxels in depth cannot be cropped to {depth}")
    mask = np.zeros(shape, np.bool_)
    mask[:, :depth] = lumen_mask((z, depth, x), np.random.default_rng(seed), anatomy, phase=phase)
    return mask


def speckle_of_seed(seed: int, time_point: int = 0) -> np.random.Generator:
    """Return where the speckle and texture of a seed come from; other in each time point."""
    return np.random.default_rng([seed, _SPECKLE, time_point])


def optics_of_seed(seed: int, *, vary: bool, preset: str = "oct") -> Optics:
    """Return a preset of `micronet.data.phantom.PRESETS`, or with `vary` what the seed draws around it."""
    optics = PRESETS[preset]
    if not vary:
        return optics
    return varied(optics, np.random.default_rng([seed, _OPTICS]), VARIATION[preset])


def phantom_of_seed(
    shape: tuple[int, int, int], seed: int, *, y_crop: int | None = None, vary: bool = False, preset: str = "oct"
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Return lumens and image of the phantom that a seed names.

    Parameters and errors are those of `mask_of_seed` and `optics_of_seed`.

    Examples
    --------
    >>> mask, image = phantom_of_seed((64, 80, 64), 1, y_crop=64)
    >>> image.shape, image.dtype, bool(mask[:, 64:].any())
    ((64, 80, 64), dtype('uint8'), False)
    """
    mask = mask_of_seed(shape, seed, y_crop=y_crop)
    return mask, render_oct(mask, speckle_of_seed(seed), optics_of_seed(seed, vary=vary, preset=preset))
