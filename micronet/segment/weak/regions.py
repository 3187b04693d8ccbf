"""Regions of an image that are of one grey each: what a network saw coarsely is taken with the borders of the image.

A watershed of the gradient (Beucher & Lantuéjoul 1979) parts the image where its grey changes; neighbours of nearly the
same mean are joined, the most alike first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import segmentation

_watershed: Callable[..., Any] = segmentation.watershed  # the library states no types

__all__ = ["REGION_BYTES", "mean_in", "regions_of"]

#: Bytes a voxel that finding them takes beside the image.
REGION_BYTES = 100
# Standard deviation of the Gaussian whose gradient is taken, in voxels; basins are what lies below the median of it.
_SCALE = 1.0
# Regions are joined whose means differ by less, in standard deviations of the image.
_ALIKE = 0.3


def regions_of(image: NDArray[np.float32], *, flat: bool) -> NDArray[np.int32]:
    """Return the regions of an image, numbered from 0.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        Normalised.
    flat : bool
        Whether each plane is an image of its own.

    Returns
    -------
    ndarray of shape (Z, Y, X), int32
    """
    if not flat:
        return _parted(image)
    found, before = np.empty(image.shape, np.int32), 0
    for number, plane in enumerate(image):
        found[number] = _parted(plane) + before
        before = int(found[number].max()) + 1
    return found


def _parted(image: NDArray[np.float32]) -> NDArray[np.int32]:
    gradient = ndimage.gaussian_gradient_magnitude(image, _SCALE)
    basins, count = ndimage.label(gradient <= np.median(gradient))
    regions: NDArray[np.int32] = _watershed(gradient, basins) - 1
    grey = ndimage.gaussian_filter(image, _SCALE)
    sizes = np.bincount(regions.ravel(), minlength=count).astype(np.float64)
    means = np.bincount(regions.ravel(), grey.ravel(), count) / np.maximum(sizes, 1)
    joined: NDArray[np.int32] = _joined(_neighbours(regions), means, sizes)[regions]
    return joined


def _neighbours(regions: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the pairs of regions that touch, (N, 2)."""
    pairs = []
    for axis in range(regions.ndim):
        along = np.moveaxis(regions, axis, 0)
        differ = along[1:] != along[:-1]
        pairs.append(np.sort(np.stack([along[1:][differ], along[:-1][differ]], 1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0).astype(np.int64)


def _joined(pairs: NDArray[np.int64], means: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return the number of each region's region, once neighbours that are alike are one."""
    mean, size, parent = means.tolist(), sizes.tolist(), list(range(len(means)))

    def root(of: int) -> int:
        while parent[of] != of:
            parent[of] = parent[parent[of]]
            of = parent[of]
        return of

    apart = np.abs(means[pairs[:, 0]] - means[pairs[:, 1]])
    for first, second in pairs[np.argsort(apart, kind="stable")].tolist():
        one, other = root(first), root(second)
        if one != other and abs(mean[one] - mean[other]) < _ALIKE:
            together = size[one] + size[other]
            mean[one] = (mean[one] * size[one] + mean[other] * size[other]) / together
            size[one], parent[other] = together, one
    return np.array([root(of) for of in range(len(parent))], np.int32)


def mean_in(regions: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each voxel the mean of the values in its region, float32."""
    sizes = np.bincount(regions.ravel())
    sums = np.bincount(regions.ravel(), values.ravel())
    return (sums / np.maximum(sizes, 1)).astype(np.float32)[regions]
