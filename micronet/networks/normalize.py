"""From raw intensities and masks to what the networks were trained on."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError

__all__ = [
    "MASK_OFFSET",
    "MASK_SCALE",
    "Planes",
    "image_statistics",
    "log_intensity",
    "normalize_image",
    "normalize_mask",
    "plane_squares",
    "plane_sum",
    "standardize",
    "statistics_of",
]

#: One over the standard deviation of a mask that is 5 % foreground.
MASK_SCALE = 1 / (0.05 * 0.95) ** 0.5
#: Subtracted after scaling. It looks as if it belonged before it; the published weights need it here.
MASK_OFFSET = 0.05


class Planes(Protocol):
    """A volume that gives its planes along Z one after the other, as often as it is asked: an array, or one on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along (Z, Y, X)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its voxels."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the planes, (Y, X)."""


def image_statistics(image: Planes) -> tuple[float, float]:
    """Return mean and unbiased standard deviation of a volume, computed in float64.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), bool, integer or real
        Or what gives its planes in turn; it may be larger than memory.

    Returns
    -------
    mean, standard deviation : float

    Raises
    ------
    InputError
        If the image is not three-dimensional and real, is constant or holds NaN or infinity.
    """
    if len(image.shape) != 3 or image.dtype.kind not in "buif":
        raise InputError(f"an image is a (Z, Y, X) array of real numbers, found shape {image.shape} of {image.dtype}")
    size = math.prod(image.shape)
    if size == 0:
        raise InputError(f"an image of shape {image.shape} holds no voxel")
    return statistics_of(
        size,
        (plane_sum(plane) for plane in image),
        lambda mean: (plane_squares(plane, mean) for plane in image),
        lambda: next(iter(image)).flat[0],
    )


def plane_sum(plane: NDArray[Any]) -> float:
    """Return the sum over a plane (Y, X), in float64: exact for every integer type."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(plane.sum(dtype=np.float64))


def plane_squares(plane: NDArray[Any], mean: float) -> tuple[float, int]:
    """Return the sum of squared distances from the mean over a plane, and how many voxels make it infinite or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.square(plane - np.float64(mean)).sum())
    return squares, 0 if np.isfinite(squares) else int(np.count_nonzero(~np.isfinite(plane)))


def statistics_of(
    size: int,
    sums: Iterable[float],
    squares: Callable[[float], Iterable[tuple[float, int]]],
    first: Callable[[], Any],
) -> tuple[float, float]:
    """Return what `image_statistics` does of what its planes amount to, in their order.

    Parameters
    ----------
    size : int
        Number of voxels, at least one.
    sums : iterable of float
        What `plane_sum` gives of each plane.
    squares : callable
        Returns what `plane_squares` gives of each plane for a mean.
    first : callable
        Returns the first voxel, where all are the same.
    """
    mean = sum(sums) / size
    found = list(squares(mean))
    total = sum(one for one, _ in found)
    if not np.isfinite(total):
        # A mean that is none makes every plane so.
        bad = sum(count for _, count in found)
        words = f"{bad:,} voxels that are not finite (NaN or infinity)" if bad else "values too large to normalise"
        raise InputError(f"the image holds {words}")
    sd = (total / max(size - 1, 1)) ** 0.5
    if not sd > 1e-12 * abs(mean):
        raise InputError(f"the image is constant: every voxel is {first()}")
    return mean, float(sd)


def log_intensity(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return the natural logarithm of linear intensities, float32; values below 1 count as 1.

    >>> log_intensity(np.array([[0.0, 1.0, np.e]])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    logarithms = np.empty(image.shape, np.float32)
    for plane, out in zip(image, logarithms, strict=True):  # no temporary of the volume's size
        np.log(np.maximum(plane, 1).astype(np.float32), out=out)
    return logarithms


def standardize(
    image: NDArray[Any], mean: float, sd: float, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return ``(image - mean) / sd`` as float32, in `out` if given, without a copy of the volume in float64."""
    result = np.empty(image.shape, np.float32) if out is None else out
    table = ((np.arange(256) - mean) / sd).astype(np.float32)
    for plane, found in zip(image, result, strict=True):
        if image.dtype == np.uint8:  # the usual case: 256 values to look up
            np.take(table, plane, out=found, mode="clip")
        else:
            found[...] = (plane - np.float64(mean)) / sd
    return result


def normalize_image(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return the image minus its mean, over its unbiased standard deviation.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), bool, integer or real
        The WHOLE volume: crop afterwards, as the published networks were trained.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32

    Raises
    ------
    InputError
        As `image_statistics`.
    """
    return standardize(image, *image_statistics(image))


def normalize_mask(mask: NDArray[Any]) -> NDArray[np.float32]:
    """Return a mask as µr-Net takes it: times 4.588314677411236, then minus 0.05.

    Parameters
    ----------
    mask : ndarray, bool or in [0, 1]
        Mask or probability.

    Returns
    -------
    ndarray of the same shape, float32

    >>> [round(value, 4) for value in normalize_mask(np.array([0.0, 1.0])).tolist()]
    [-0.05, 4.5383]
    """
    scaled = mask.astype(np.float32) * np.float32(MASK_SCALE)
    scaled -= np.float32(MASK_OFFSET)
    return scaled
