"""Two-dimensional phantoms: lines and ellipses of any grey on a noisy background, three classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micronet.core.errors import InputError

__all__ = ["BACKGROUND", "ELLIPSE", "LINE", "SMALLEST_IMAGE", "Shapes", "draw_shapes"]

#: What the labels mean.
BACKGROUND, LINE, ELLIPSE = 0, 1, 2

_Numbers = NDArray[np.float64]
#: Pixels that each axis has at least: a shape is some of them wide.
SMALLEST_IMAGE = 32
_WHITE = 255


@dataclass(frozen=True)
class Shapes:
    """What is drawn; a pair is the range from which a value is drawn, both ends included.

    Parameters
    ----------
    lines, ellipses : pair of int
        How many of each.
    line_width_px : pair of float
        Pixels across a line.
    line_length : pair of float
        Of a line, as a share of the shorter side of the image.
    semi_axis : pair of float
        Of an ellipse, as a share of the shorter side.
    background : pair of float
        Mean grey (0 to 255) behind the shapes.
    least_contrast : float
        A shape has any grey from 0 to 255 that differs by at least so much from the mean behind it.
    drift_sd, drift_px : float
        Standard deviation (grey) and extent (pixels) of how the background drifts.
    noise_sd : pair of float
        Standard deviation (grey) of the Gaussian noise in every pixel.
    """

    lines: tuple[int, int] = (4, 10)
    ellipses: tuple[int, int] = (4, 10)
    line_width_px: tuple[float, float] = (3.0, 7.0)
    line_length: tuple[float, float] = (0.2, 0.8)
    semi_axis: tuple[float, float] = (0.04, 0.18)
    background: tuple[float, float] = (60.0, 195.0)
    least_contrast: float = 30.0
    drift_sd: float = 6.0
    drift_px: float = 30.0
    noise_sd: tuple[float, float] = (4.0, 12.0)


def draw_shapes(
    shape: tuple[int, int], rng: np.random.Generator, shapes: Shapes | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image and its labels.

    Parameters
    ----------
    shape : tuple of int
        Pixels along (Y, X), at least 32 each.
    rng : numpy.random.Generator
        Source of everything.
    shapes : Shapes, optional
        The defaults when not given.

    Returns
    -------
    image, labels : ndarray of shape (Y, X), uint8
        Grey values, and `BACKGROUND`, `LINE` or `ELLIPSE`. Of shapes that overlap the last drawn is seen.

    Raises
    ------
    InputError
        If an axis is too short.

    Examples
    --------
    >>> image, labels = draw_shapes((64, 80), np.random.default_rng(1))
    >>> image.shape, sorted(set(labels.ravel().tolist()))
    ((64, 80), [0, 1, 2])
    """
    if min(shape) < SMALLEST_IMAGE:
        raise InputError(
            f"an image of {' x '.join(map(str, shape))} pixels; shapes need at least {SMALLEST_IMAGE} each"
        )
    what = shapes or Shapes()
    lines, ellipses = (int(rng.integers(low, high + 1)) for low, high in (what.lines, what.ellipses))
    inside = np.concatenate([_lines(shape, lines, rng, what), _ellipses(shape, ellipses, rng, what)])
    kinds = np.repeat(np.array([LINE, ELLIPSE], np.uint8), (lines, ellipses))
    behind = rng.uniform(*what.background)
    greys = _greys(len(kinds), behind, rng, what.least_contrast)
    order = rng.permutation(len(kinds))

    # The place in the order of what is seen: 0 where there is nothing, so that one look into each table draws all.
    places = np.arange(1, len(order) + 1, dtype=np.uint16)[:, None, None]
    seen = np.max(inside[order] * places, axis=0, initial=0)
    labels = np.concatenate([[BACKGROUND], kinds[order]]).astype(np.uint8)[seen]
    image = np.concatenate([[behind], greys[order]])[seen]
    image += (seen == 0) * what.drift_sd * _drift(shape, rng, what.drift_px)
    image += rng.normal(0, rng.uniform(*what.noise_sd), shape)
    return np.clip(np.rint(image), 0, _WHITE).astype(np.uint8), labels


def _lines(shape: tuple[int, int], count: int, rng: np.random.Generator, what: Shapes) -> NDArray[np.bool_]:
    """Return which pixels each line covers, (count, Y, X)."""
    y, x = _from_centres(shape, count, rng)
    along, across = _turned(y, x, rng)
    half = _column(rng.uniform(*what.line_length, count)) * min(shape) / 2
    beyond = np.maximum(np.abs(along) - half, 0)
    return np.hypot(beyond, across) <= _column(rng.uniform(*what.line_width_px, count)) / 2


def _ellipses(shape: tuple[int, int], count: int, rng: np.random.Generator, what: Shapes) -> NDArray[np.bool_]:
    """Return which pixels each ellipse covers, (count, Y, X)."""
    y, x = _from_centres(shape, count, rng)
    along, across = _turned(y, x, rng)
    one, two = (_column(rng.uniform(*what.semi_axis, count)) * min(shape) for _ in range(2))
    return (along / one) ** 2 + (across / two) ** 2 <= 1


def _from_centres(shape: tuple[int, int], count: int, rng: np.random.Generator) -> tuple[_Numbers, _Numbers]:
    """Return how far each pixel lies from each of so many random centres, along Y and X."""
    y, x = (_column(rng.uniform(0, length, count)) for length in shape)
    return np.arange(shape[0])[:, None] - y, np.arange(shape[1]) - x


def _turned(y: _Numbers, x: _Numbers, rng: np.random.Generator) -> tuple[_Numbers, _Numbers]:
    angle = _column(rng.uniform(0, np.pi, len(y)))
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _column(values: _Numbers) -> _Numbers:
    return values[:, None, None]


def _greys(count: int, behind: float, rng: np.random.Generator, least: float) -> _Numbers:
    """Return greys from 0 to 255, each at least so far from what is behind, all that are possible equally likely."""
    dark, bright = max(behind - least, 0), max(_WHITE - behind - least, 0)
    drawn = rng.uniform(0, dark + bright, count)
    return np.where(drawn < dark, drawn, drawn - dark + behind + least)


def _drift(shape: tuple[int, int], rng: np.random.Generator, length_px: float) -> _Numbers:
    """Return smooth noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), length_px, mode="wrap", truncate=2.0)
    return np.asarray((noise - noise.mean()) / noise.std())
