"""Smooth random fields, written as sums of a few separable waves.

A field is ``f(z, y, x) = sum_abc C[a, b, c] * A[z, a] * B[y, b] * X[x, c]``: each axis has its table of waves
(`waves`: 1, cos 1..K, sin 1..K), the field is the small array C of coefficients. The fields here are low-pass (K is
about 20 for 217 voxels), so a few percent of all frequencies carry them; warp.py sums the waves row by row and never
holds a whole field. All in NumPy; oracle: the full inverse FFT in the tests.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["RandomNumbers", "Shape", "published_fields", "stationary_fields", "waves"]

RandomNumbers: TypeAlias = np.random.Generator | np.random.RandomState
Shape: TypeAlias = tuple[int, int, int]
Tables: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

# The published filter is exp(-t²/2) in the amplitude: beyond these t nothing is left of a float32 (1.5e-8), and of
# what a random displacement needs (0.2 % of the amplitude, 5e-6 of the variance).
_EXACT_CUT = 6.0
_CUT = 3.5
# Correlation of the low-pass field at distance d is exp(-d²/2L²); at 4 L, 0.03 %, the period may close.
_APART = 4.0


def waves(n: int, highest: int, period: float) -> NDArray[np.float64]:
    """Return (n, 2 * highest + 1): columns 1, cos(2πkr/period) for k = 1..highest, then the sines."""
    angle = 2 * np.pi / period * np.outer(np.arange(n), np.arange(1, highest + 1))
    return np.concatenate([np.ones((n, 1)), np.cos(angle), np.sin(angle)], axis=1)


def correlation_length(bandwidth: float) -> float:
    """Return L in voxels: fields of this bandwidth correlate as exp(-d²/2L²) at distance d.

    The amplitude exp(-t²/2), t = 2·(cycles per voxel)/bandwidth, is the power exp(-t²); its Fourier transform is
    that correlation with L = sqrt(2)/(pi * bandwidth): 15 voxels at 0.03.
    """
    return math.sqrt(2) / (math.pi * bandwidth)


def published_fields(shape: Shape, bandwidth: float, rng: RandomNumbers) -> tuple[NDArray[np.float64], Tables]:
    """Return the three displacement fields of the published distortion, scaled to SD 1 over the volume.

    Per axis, white noise of the volume's shape is taken as a spectrum, multiplied by exp(-t²/2), t = linspace(-1/
    bandwidth, 1/bandwidth, n), moved by fftshift and inverted; the real part counts. Being real, the noise gives
    ``f(-r) = f(r)``, period n. With a RandomState every number of the noise is drawn, in the published order; a
    Generator draws only those that the filter lets through, which is the same in distribution.

    Returns
    -------
    coefficients : ndarray of shape (3, A, B, C)
        One field for each axis (Z, Y, X) of displacement.
    tables : the waves of the three axes, shapes (Z, A), (Y, B), (X, C)
    """
    kept, filters, frequencies = [], [], []
    for n in shape:
        t = np.linspace(-1 / bandwidth, 1 / bandwidth, n)
        exponent = (t**2 - (t**2).min()) / 2  # a factor for the whole field does not matter
        inside = np.flatnonzero(exponent <= _EXACT_CUT**2 / 2)
        k = (inside + n // 2) % n  # where fftshift puts it
        kept.append(slice(int(inside[0]), int(inside[-1]) + 1))
        filters.append(np.exp(-exponent[inside]))
        frequencies.append(np.where(k > n // 2, k - n, k))
    highest = [int(np.abs(k).max()) for k in frequencies]
    tables = (
        waves(shape[0], highest[0], shape[0]),
        waves(shape[1], highest[1], shape[1]),
        waves(shape[2], highest[2], shape[2]),
    )
    mean_square = [(table**2).mean(axis=0) for table in tables]  # 1 for the constant, 1/2 for other waves
    coefficients = np.empty((3, *[2 * h + 1 for h in highest]))
    for field in coefficients:
        spectrum = np.zeros(field.shape, dtype=np.complex128)
        at = np.ix_(*[k + h for k, h in zip(frequencies, highest, strict=True)])
        spectrum[at] = np.einsum("zyx,z,y,x->zyx", _white_noise(shape, kept, rng), *filters)
        for axis in range(3):
            spectrum = _frequencies_to_waves(spectrum, axis)
        field[:] = spectrum.real
        # the waves are orthogonal on the grid, so the variance over all voxels needs no synthesis
        variance = np.einsum("abc,a,b,c->", field**2, *mean_square) - field[0, 0, 0] ** 2
        field /= math.sqrt(variance) if variance > 0 else 1.0
    return coefficients, tables


def _white_noise(shape: Shape, kept: list[slice], rng: RandomNumbers) -> NDArray[np.float64]:
    z, y, x = kept
    if isinstance(rng, np.random.Generator):
        return rng.standard_normal((z.stop - z.start, y.stop - y.start, x.stop - x.start))
    noise = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start))
    for plane in range(shape[0]):  # plane by plane, since the whole would take 8 bytes a voxel
        drawn = rng.standard_normal(shape[1:])
        if z.start <= plane < z.stop:
            noise[plane - z.start] = drawn[y, x]
    return noise


def _frequencies_to_waves(spectrum: NDArray[np.complex128], axis: int) -> NDArray[np.complex128]:
    """Turn coefficients of exp(2πikr/n), k = -K..K along `axis`, into those of 1, cos 1..K, sin 1..K."""
    s = np.moveaxis(spectrum, axis, 0)
    k = len(s) // 2
    up, down = s[k + 1 :], s[:k][::-1]
    return np.moveaxis(np.concatenate([s[k : k + 1], up + down, 1j * (up - down)]), 0, axis)


def stationary_fields(
    shape: Shape, bandwidth: float, fields: int, rng: RandomNumbers
) -> tuple[NDArray[np.float64], Tables]:
    """Return independent stationary Gaussian fields of variance 1 with the bandwidth of the published one.

    Every wave has its own normal coefficient, cosines and sines alike: no symmetry. The period is longer than the
    volume by the reach of the correlation, so opposite faces are independent.

    Returns
    -------
    coefficients : ndarray of shape (fields, A, B, C)
    tables : the waves of the three axes, shapes (Z, A), (Y, B), (X, C), to be summed as in the module's formula
    """
    reach = _APART * correlation_length(bandwidth)
    tables = []
    for n in shape:
        period = n + reach
        highest = max(1, math.ceil(_CUT * bandwidth / 2 * period))
        t = 2 / bandwidth / period * np.arange(1, highest + 1)
        weight = np.exp(-(t**2) / 2) * math.sqrt(2)  # the frequencies k and -k
        weight = np.concatenate([[1.0], weight, weight])
        # cos² + sin² = 1 at every voxel, so this makes the expected square 1 at every voxel
        weight /= math.sqrt(1 + (weight[1 : highest + 1] ** 2).sum())
        tables.append(waves(n, highest, period) * weight)
    size = (fields, *[table.shape[1] for table in tables])
    return rng.standard_normal(size), (tables[0], tables[1], tables[2])
