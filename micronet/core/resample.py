"""Antialiased decimation of a stack, plane by plane, and sampling of a mask on another grid.

Axis by axis an output voxel is the Gaussian-filtered input at its centre, interpolated linearly between the two
nearest voxels: the scheme of scikit-image's ``resize(order=1, mode="symmetric", anti_aliasing=True)``, with another
default width. Scikit-image's (r - 1) / 2 leaves up to 74 % of the amplitude of a tone just above the new Nyquist
frequency at r = 2; ours is the narrowest that leaves less than 10 % (-20 dB) of every tone above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from micronet.core.errors import InputError
from micronet.core.planes import Planes

__all__ = ["antialias_sigma", "decimate", "decimate_planes", "interpolate_planes", "output_size", "sample_planes"]

#: What may be left of the amplitude of a tone at the new Nyquist frequency: -20 dB, and a little to spare for rounding
#: and for the tails that are cut off.
_LEAK = 0.099
#: The Gaussian is cut off at so many σ, as scipy and scikit-image do.
_TRUNCATE = 4.0
# A ratio of lengths this close to a whole number of voxels is meant to be one.
_TOLERANCE = 1e-6
# A weight of a half that rounding took below it still counts as a half.
_HALF = 0.5 - 1e-4


def output_size(size: int, ratio: float) -> int:
    """Return how many voxels `ratio` times as long cover `size` voxels; the last may reach beyond them.

    >>> output_size(9, 2.25), output_size(10, 2.25), output_size(3, 0.5)
    (4, 5, 6)
    """
    return max(1, math.ceil(size / ratio - _TOLERANCE))


def antialias_sigma(ratio: float) -> float:
    """Return the standard deviation of the Gaussian to filter with before decimation.

    Parameters
    ----------
    ratio : float
        Output voxels are this many times as long as input voxels.

    Returns
    -------
    float
        In input voxels; 0 where `ratio` is at most 1. The response of the sampled Gaussian,
        ``sum_k exp(-2 π² σ² (f - k)²)`` over the same sum at f = 0, is -20 dB at the new Nyquist frequency
        ``f = 1 / (2 ratio)`` and falls from there on. For ratios above 1.5 that is 0.685 `ratio`.

    >>> round(antialias_sigma(2.25), 3), antialias_sigma(1.0)
    (1.54, 0.0)
    """
    if ratio <= 1 + _TOLERANCE:
        return 0.0
    nyquist = 0.5 / ratio

    def excess(a: float) -> float:
        alias = math.exp(-a * nyquist**2) + math.exp(-a * (1 - nyquist) ** 2)
        return alias - _LEAK * (1 + 2 * math.exp(-a))

    # One term of the response is at least half of it and at most all of it.
    low, high = (math.log(share / _LEAK) / nyquist**2 for share in (0.99, 2.01))
    for _ in range(60):  # halved until nothing is left; scipy.optimize would take a third of a second to import
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.sqrt(low / 2) / math.pi


def decimate(
    array: NDArray[np.generic], ratios: Sequence[float], sigmas: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Return a whole array decimated; see `decimate_planes`."""
    return np.stack(list(decimate_planes(array, array.shape, ratios, sigmas)))


def decimate_planes(
    planes: Iterable[NDArray[np.generic]],
    shape: Sequence[int],
    ratios: Sequence[float],
    sigmas: Sequence[float] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the planes of a decimated stack while those of the stack come in.

    Parameters
    ----------
    planes : iterable of `shape[0]` ndarrays of shape `shape[1:]`, real numbers
        The stack, in order.
    shape : (3,) sequence of int
        Of the whole stack.
    ratios : (3,) sequence of float
        Length of an output voxel over that of an input voxel, for each axis; below 1 is plain linear interpolation.
    sigmas : (3,) sequence of float, optional
        Standard deviations of the Gaussian in input voxels; `antialias_sigma` of the ratios by default.

    Yields
    ------
    ndarray of float32
        `output_size` planes along the first axis, each of that size along the others. The near edges of the first
        voxels of both grids coincide: output voxel j lies at ``ratio * (j + 0.5) - 0.5``. Beyond its edges the stack
        goes on mirrored.

    Raises
    ------
    InputError
        If a ratio is not positive or there are fewer or more planes than `shape` says.

    Notes
    -----
    Each plane is reduced for itself and the reduced planes are summed in one order, so the result is the same to the
    bit however the stack was read. Memory: one plane in float32, and as many reduced planes as the Gaussian is wide.
    """
    if len(shape) != 3 or len(ratios) != 3 or not all(0 < ratio < math.inf for ratio in ratios):
        raise InputError(f"decimation takes three axes and positive ratios, found shape {shape}, ratios {ratios}")
    if sigmas is None:
        sigmas = [antialias_sigma(ratio) for ratio in ratios]
    slow, middle, fast = (
        _weights(size, ratio, sigma) for size, ratio, sigma in zip(shape, ratios, sigmas, strict=True)
    )
    reduced = (
        np.ascontiguousarray((fast @ (middle @ plane.astype(np.float32, copy=False)).T).T)
        for plane in _fitting(planes, shape)
    )
    yield from _summed(slow, reduced)


def _fitting(planes: Iterable[NDArray[np.generic]], shape: Sequence[int]) -> Iterator[NDArray[np.generic]]:
    """Yield planes as they come; InputError where they are not those of a stack of this shape."""
    count = 0
    for plane in planes:
        if plane.shape != tuple(shape[1:]) or count >= shape[0]:
            raise InputError(f"plane {count} of shape {plane.shape} does not fit a stack of {tuple(shape)}")
        count += 1
        yield plane
    if count != shape[0]:
        raise InputError(f"a stack of {tuple(shape)} ended after {count} planes")


def _summed(matrix: csr_array, planes: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Yield the products of a matrix (output, input) and the stack of planes as soon as the planes they need are in."""
    rows = [_row(matrix, number) for number in range(matrix.shape[0])]
    last = [int(indices[-1]) for indices, _ in rows]
    # No later output plane looks at planes before this one.
    first = np.minimum.accumulate([int(indices[0]) for indices, _ in rows][::-1])[::-1]
    held: dict[int, NDArray[np.float32]] = {}
    row = 0
    for number, plane in enumerate(planes):
        held[number] = plane
        while row < len(rows) and last[row] <= number:
            yield _sum(held, *rows[row])
            row += 1
            if row < len(rows):
                for done in [key for key in held if key < first[row]]:
                    del held[done]


def sample_planes(
    mask: NDArray[np.bool_],
    steps: Sequence[float],
    starts: Sequence[float],
    shape: Sequence[int],
    *,
    linear: bool = True,
) -> Iterator[NDArray[np.bool_]]:
    """Yield the planes of a mask on another grid with parallel axes.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
    steps, starts, shape
        As `interpolate_planes`.
    linear : bool
        Interpolate linearly and take what reaches one half; else take the nearest voxel.

    Yields
    ------
    ndarray of shape `shape[1:]`, bool
        `shape[0]` of them. What lies outside the voxels of the mask is False.
    """
    for plane in interpolate_planes(mask, steps, starts, shape, linear=linear):
        yield plane > _HALF


def interpolate_planes(
    array: Planes,
    steps: Sequence[float],
    starts: Sequence[float],
    shape: Sequence[int],
    *,
    linear: bool = True,
) -> Iterator[NDArray[np.float32]]:
    """Yield the planes of an array on another grid with parallel axes.

    Parameters
    ----------
    array : Planes of shape (Z, Y, X)
        Real numbers or bool.
    steps, starts : (3,) sequences of float
        Voxel o of the other grid lies at ``starts + steps * o`` in voxels of the array; steps may be negative.
    shape : (3,) sequence of int
        Of the other grid.
    linear : bool
        Interpolate linearly; else take the nearest voxel.

    Yields
    ------
    ndarray of shape `shape[1:]`, float32
        `shape[0]` of them. What lies outside the voxels of the array is 0.
    """
    slow, middle, fast = (
        _sampling(size, start + step * np.arange(length, dtype=np.float64), linear)
        for size, step, start, length in zip(array.shape, steps, starts, shape, strict=True)
    )
    held: dict[int, NDArray[np.float32]] = {}
    for number in range(shape[0]):
        indices, weights = _row(slow, number)
        held = {index: plane for index, plane in held.items() if index in indices}
        for index in indices.tolist():
            if index not in held:
                plane = array[index : index + 1][0].astype(np.float32, copy=False)
                held[index] = np.ascontiguousarray((fast @ (middle @ plane).T).T)
        yield _sum(held, indices, weights) if held else np.zeros(tuple(shape[1:]), np.float32)


def _weights(size: int, ratio: float, sigma: float) -> csr_array:
    """Return the matrix (output, input) that filters and interpolates along one axis, float32."""
    centres = ratio * (np.arange(output_size(size, ratio)) + 0.5) - 0.5
    whole = np.floor(centres + _TOLERANCE)
    part = np.maximum(centres - whole, 0.0)[:, None]
    radius = int(_TRUNCATE * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    gaussian = np.exp(-0.5 * (steps / sigma) ** 2) if radius else np.ones(1)
    gaussian /= gaussian.sum()
    values = (1 - part) * np.append(gaussian, 0.0) + part * np.insert(gaussian, 0, 0.0)
    indices = whole[:, None].astype(np.int64) + np.arange(-radius, radius + 2)
    indices %= 2 * size
    indices = np.where(indices >= size, 2 * size - 1 - indices, indices)
    rows = np.broadcast_to(np.arange(len(centres))[:, None], indices.shape)
    kept = values > 0
    matrix = csr_array((values[kept], (rows[kept], indices[kept])), shape=(len(centres), size))
    matrix.sum_duplicates()
    return matrix.astype(np.float32)


def _sampling(size: int, centres: NDArray[np.float64], linear: bool) -> csr_array:
    """Return the matrix (centres, size) that takes values at `centres`; rows outside the voxels are empty."""
    inside = (centres > -0.5 - _TOLERANCE) & (centres < size - 0.5 + _TOLERANCE)
    at = np.clip(centres, 0, size - 1)
    below = np.floor(at if linear else at + 0.5).astype(np.int64).clip(max=size - 1)
    part = at - below if linear else np.zeros_like(at)
    rows = np.tile(np.arange(len(centres)), 2)
    columns = np.concatenate([below, np.minimum(below + 1, size - 1)])
    values = np.concatenate([1 - part, part])
    kept = np.tile(inside, 2) & (values > 0)
    matrix = csr_array((values[kept], (rows[kept], columns[kept])), shape=(len(centres), size))
    matrix.sum_duplicates()
    return matrix.astype(np.float32)


def _row(matrix: csr_array, number: int) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    """Return the columns of one row, in order, and their weights."""
    span = slice(matrix.indptr[number], matrix.indptr[number + 1])
    weights: NDArray[np.float32] = matrix.data[span]
    return matrix.indices[span], weights


def _sum(
    held: dict[int, NDArray[np.float32]], indices: NDArray[np.integer], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    total: NDArray[np.float32] = held[int(indices[0])] * weights[0]
    for index, weight in zip(indices[1:].tolist(), weights[1:], strict=True):
        total += held[index] * weight
    return total
