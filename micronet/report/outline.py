"""A slice as a small picture with outlines, pixel by pixel: for logs that show how a training goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.report.panels import ANNOTATION_COLOUR, MASK_COLOUR, grey_range

__all__ = ["outlined"]


def outlined(
    image: NDArray[Any], mask: NDArray[np.bool_], annotation: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return a slice in grey with the outline of a mask, and that of an annotation below it.

    Parameters
    ----------
    image : ndarray of shape (Y, X)
    mask, annotation : ndarray of the same shape, bool

    Returns
    -------
    ndarray of shape (Y, X, 3), uint8
        RGB; the outline is the outermost pixels of each mask.
    """
    low, high = grey_range(image)
    grey = np.clip((image.astype(np.float64) - low) * (255 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
    picture: NDArray[np.uint8] = np.repeat(grey[..., None], 3, axis=2)
    for inside, colour in ((annotation, ANNOTATION_COLOUR), (mask, MASK_COLOUR)):
        if inside is not None:
            picture[inside & ~ndimage.binary_erosion(inside)] = list(bytes.fromhex(colour[1:]))
    return picture
