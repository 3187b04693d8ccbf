"""What the numbers of a raw scan mean: their domain, their noise floor, and the logarithm above it.

An OCT scan is stored as intensity (power), as amplitude (its square root), in dB (``10 log10`` of the intensity) or
as a logarithm of unknown scale, such as the grey values of a display. The networks were trained on logarithms. Here
everything is told above the noise floor: ``ln(intensity / noise)``, which is 0 at the floor whatever the scan's gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from micronet.core.errors import InputError, setting

__all__ = ["AVERAGES", "DOMAINS", "Average", "Domain", "above_floor", "finish", "noise_floor", "range_of", "to_bytes"]

Domain = Literal["intensity", "amplitude", "db", "log"]
#: What the numbers of a scan may be.
DOMAINS: tuple[Domain, ...] = get_args(Domain)

Average = Literal["log", "linear"]
#: What may be averaged when voxels are merged: logarithms, or intensities whose logarithm is taken after.
AVERAGES: tuple[Average, ...] = get_args(Average)

#: One dB in nepers of intensity.
_NEPERS_PER_DB = math.log(10) / 10
#: Share of the voxels that may lie beyond either end of the grey values, so that specular reflections do not take the
#: range from tissue.
_BEYOND = 1e-4
_BINS = 1 << 16
# A row of which less is above zero is padding, or noise below one grey level.
_LEAST_FILLED = 0.5
# The darkest depth is looked for in bands of so many rows, so that one odd row does not decide: at least 5, or 2 %.
_BAND, _BAND_SHARE = 5, 50


def noise_floor(sample: NDArray[Any], depth_axis: int, domain: Domain) -> tuple[float, int | None]:
    """Measure the noise floor: the median voxel of the darkest depth.

    Parameters
    ----------
    sample : 3-D ndarray of real numbers
        Some planes of the scan, each depth complete.
    depth_axis : int
        Axis of `sample` that light travels along.
    domain : {"intensity", "amplitude", "db", "log"}
        In intensity and amplitude, voxels that are not above zero are padding and not looked at.

    Returns
    -------
    floor : float
        In the sample's own numbers.
    row : int or None
        The darkest depth; None where no depth is half filled, and the floor is the smallest number above zero.

    Raises
    ------
    InputError
        If the sample holds NaN, or no voxel to measure on.

    Notes
    -----
    The medians of all depths are smoothed by a running median over 5 of them (2 % where that is more) before the
    least is taken. A median is the same whether it is taken before the logarithm or after; that of fully developed
    speckle is 0.69 of its mean intensity.
    """
    rows = np.moveaxis(sample, depth_axis, 0).reshape(sample.shape[depth_axis], -1).astype(np.float64)
    if np.isnan(rows).any():
        raise InputError("the scan holds NaN")
    valid = rows > 0 if domain in ("intensity", "amplitude") else np.isfinite(rows)
    if not valid.any():
        what = "above zero" if domain in ("intensity", "amplitude") else "finite"
        raise InputError(
            f"no voxel of the sampled planes is {what}: the noise floor must be given {setting('noise_floor')}"
        )
    filled = np.flatnonzero(valid.mean(axis=1) >= _LEAST_FILLED)
    if not filled.size:
        return float(rows[valid].min()), None
    medians = np.array([np.median(rows[row][valid[row]]) for row in filled])
    smooth = median_filter(medians, size=max(_BAND, sample.shape[depth_axis] // _BAND_SHARE), mode="nearest")
    darkest = int(np.argmin(smooth))
    return float(smooth[darkest]), int(filled[darkest])


def above_floor(plane: NDArray[Any], domain: Domain, floor: float, average: Average) -> NDArray[np.float32]:
    """Return a plane of the scan in the form in which it is averaged, relative to the noise floor.

    Parameters
    ----------
    plane : ndarray of real numbers
    domain : {"intensity", "amplitude", "db", "log"}
        What they are.
    floor : float
        The noise floor in the same numbers; above zero in intensity and amplitude.
    average : {"log", "linear"}
        ``"linear"`` is not possible in domain ``"log"``, whose scale is not known.

    Returns
    -------
    ndarray of the same shape, float32
        For ``"log"``: ``ln(intensity / floor)``, clamped at 0 (in domain ``"log"`` the difference to the floor, in
        the scan's own numbers). For ``"linear"``: intensity over floor, not clamped.

    Raises
    ------
    InputError
        If the plane holds NaN, or infinity other than the logarithm of 0.
    """
    result: NDArray[np.float32]
    if domain in ("intensity", "amplitude"):
        ratio = np.multiply(plane, 1 / floor, dtype=np.float64 if plane.dtype.itemsize > 4 else np.float32)
        power = 2 if domain == "amplitude" else 1
        if average == "linear":
            result = (ratio**power).astype(np.float32, copy=False)
        else:
            np.maximum(ratio, 1, out=ratio)
            np.log(ratio, out=ratio)
            ratio *= power
            result = ratio.astype(np.float32, copy=False)
    else:
        result = np.subtract(plane, floor, dtype=np.float64 if plane.dtype.itemsize > 4 else np.float32)
        result = result.astype(np.float32, copy=False)
        if domain == "db":
            result *= np.float32(_NEPERS_PER_DB)
        if average == "linear":
            with np.errstate(over="ignore"):  # found below
                np.exp(result, out=result)
        else:
            np.maximum(result, 0, out=result)
    if not np.isfinite(result.sum(dtype=np.float64)):
        raise InputError("NaN or infinity")
    return result


def finish(plane: NDArray[np.float32], average: Average) -> NDArray[np.float32]:
    """Return an averaged plane of `above_floor` as a logarithm above the noise floor, at least 0."""
    return np.log(np.maximum(plane, np.float32(1)), dtype=np.float32) if average == "linear" else plane


def range_of(blocks: Iterable[NDArray[np.float32]], least: float, most: float) -> tuple[float, float]:
    """Return the values between which all but one voxel in ten thousand at either end lie.

    Parameters
    ----------
    blocks : iterable of ndarray
        The volume in pieces of any shape.
    least, most : float
        Its extremes; the result is found on a histogram of 65,536 bins between them.

    Raises
    ------
    InputError
        If the volume is constant.
    """
    if not least < most:
        raise InputError(f"the volume is constant: every voxel is {least:g} above the noise floor")
    counts = np.zeros(_BINS, np.int64)
    for block in blocks:
        bins = ((block.ravel() - np.float32(least)) * np.float32((_BINS - 1) / (most - least))).astype(np.int64)
        counts += np.bincount(bins.clip(0, _BINS - 1), minlength=_BINS)
    below = np.cumsum(counts) / counts.sum()
    low = int(np.searchsorted(below, _BEYOND, side="right"))
    high = int(np.searchsorted(below, 1 - _BEYOND, side="left"))
    step = (most - least) / (_BINS - 1)
    if low >= high:  # nearly constant: nothing is cut off
        return least, most
    return least + low * step, least + high * step


def to_bytes(plane: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Return ``255 (value - low) / (high - low)``, rounded and clamped to 0..255."""
    scaled = (plane - np.float32(low)) * np.float32(255 / (high - low))
    levels: NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return levels
