"""Scale-space features of every voxel, and perceptrons or trees on them, row by row: never all in memory.

The features of a voxel are its value and, at each scale sigma (µm), five more, of the image smoothed with a Gaussian:

====================  =====================================================================================
Gaussian              ``G``: scipy's ``gaussian_filter(image, sigma / spacing, mode="nearest", truncate=4)``
gradient magnitude    ``|(g_z, g_y, g_x)|``, ``g_a = s_a (G[a + 1] - G[a - 1]) / 2``
Hessian eigenvalues   of ``h_aa = s_a² (G[a + 1] - 2 G + G[a - 1])`` and, for a ≠ b, ``h_ab = s_a s_b (G[a + 1, b + 1] -
                      G[a + 1, b - 1] - G[a - 1, b + 1] + G[a - 1, b - 1]) / 4``, in ascending order
====================  =====================================================================================

``s_a = sigma / spacing_a`` makes derivatives those along lengths in units of sigma (Lindeberg 1998: normalised
derivatives), so that features of a structure and of its magnified image agree. Beyond the volume image and G go on
as their last voxel: reflected, a vessel that ends at the volume's face looks like a blob, and learners were worse by
0.02 Dice (docs/teach.md).

Arithmetic is float64 up to the features: at a large sigma second differences are small ones of large numbers. A
voxel's sums have one order, whatever the threads and the slabs are: same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.threads import Team, physical_cores, split
from micronet.networks.kernels.boosting import Trees
from micronet.networks.kernels.feature_rows import fill_features, fill_probability, fill_tree_sum
from micronet.networks.kernels.tubes import TUBES

__all__ = [
    "Layer",
    "Part",
    "default_scales",
    "feature_count",
    "features",
    "features_at",
    "perceptron",
    "reach",
    "tree_sum",
    "work_bytes",
]

Array = NDArray[np.float32]

#: Weights (members, outputs, inputs) and bias (members, outputs) of one layer of some perceptrons, float32.
Layer = tuple[Array, Array]

#: Planes and rows of a volume of which something is asked, of step 1.
Part = tuple[slice, slice]
_ALL: Part = (slice(None), slice(None))

#: Default scales, in units of the finest spacing.
_SCALES = (0.7, 1.0, 1.6, 2.5, 4.0, 6.0)
#: Features of a scale.
_EACH = 5
#: A Gaussian ends at so many sigma.
_TRUNCATE = 4.0
#: Rows that are worked on at a time: with what they need around them they stay in the second cache.
_ROWS = 64
#: A larger sigma, in voxels, than any structure asks for: its tables alone would fill the memory.
_LARGEST_SIGMA = 200.0


class _Axis(NamedTuple):
    """Smoothing along Z or Y: voxel i is the sum of weights[scale, i, k] times voxel first[scale, i] + k."""

    first: NDArray[np.int64]  # (scales, length)
    taps: NDArray[np.int64]  # (scales, length)
    weights: NDArray[np.float64]  # (scales, length, most)


class _Tables(NamedTuple):
    """All that is fixed by shape, scales and spacing."""

    z: _Axis
    y: _Axis
    half: NDArray[np.float64]  # (scales, radius + 1): weights along X, from the centre outwards
    radius: NDArray[np.int64]  # (scales,): along X
    column: NDArray[np.int64]  # of the image, that stands at i - largest radius
    steps: NDArray[np.float64]  # (scales, 3): sigma in voxels


def default_scales(spacing_um: Sequence[float]) -> tuple[float, ...]:
    """Return the six default scales in µm: 0.7 to 6 times the finest spacing.

    >>> default_scales((5.0, 2.0, 2.0))
    (1.4, 2.0, 3.2, 5.0, 8.0, 12.0)
    """
    return tuple(scale * min(spacing_um) for scale in _SCALES)


def feature_count(scales: int) -> int:
    """Return how many features a voxel has.

    >>> feature_count(6)
    31
    """
    return 1 + _EACH * scales


def reach(scales_um: Sequence[float], spacing_um: Sequence[float]) -> tuple[int, int, int]:
    """Return how many voxels around a voxel its features look at, along (Z, Y, X).

    >>> reach((1.0, 2.0), (2.0, 1.0, 1.0))
    (5, 9, 9)
    """
    z, y, x = (int(_TRUNCATE * max(scales_um) / um + 0.5) + 1 for um in spacing_um)
    return z, y, x


def work_bytes(scales_um: Sequence[float], spacing_um: Sequence[float], width: int) -> int:
    """Return about how many bytes a thread takes beside image and result, for rows of so many voxels."""
    count = len(scales_um)
    planes = 3 * count * (_ROWS + 2) + _ROWS + 2 + 4 * reach(scales_um, spacing_um)[1]
    return (8 * planes + 4 * (feature_count(count) + 96)) * max(width, 512)


def features(
    volume: Array,
    scales_um: Sequence[float],
    spacing_um: Sequence[float],
    planes: slice = slice(None),
    threads: int | None = None,
) -> Array:
    """Return the features of a slab.

    Parameters
    ----------
    volume : ndarray of shape (Z, Y, X), float32
        The whole image: what lies around the slab is looked at too.
    scales_um : sequence of float
        Standard deviations of the Gaussians in µm.
    spacing_um : (z, y, x)
        Lengths of a voxel in µm.
    planes : slice
        Along Z, of step 1.
    threads : int, optional
        Default: the physical cores. It does not change the result.

    Returns
    -------
    ndarray of shape (1 + 5 scales, planes, Y, X), float32
        The value, then per scale Gaussian, gradient magnitude and Hessian eigenvalues; see the module.

    Raises
    ------
    InputError
        If the volume is not a float32 (Z, Y, X) array, or a scale or spacing is not positive or out of proportion.
    """
    first, stop, step = planes.indices(len(volume))
    if step != 1 or stop <= first:
        raise InputError(f"planes are a range of 0 to {len(volume)} in steps of 1, found {planes}")
    tables = _tables(volume, scales_um, spacing_um)
    found = np.empty((feature_count(len(scales_um)), stop - first, *volume.shape[1:]), np.float32)

    def fill(z0: int, z1: int, y0: int, y1: int) -> None:
        fill_features(volume, tables, z0, z1, y0, y1, first, found)

    _in_blocks(fill, (first, stop), (0, volume.shape[1]), threads)
    return found


def features_at(
    volume: Array,
    where: NDArray[np.bool_],
    scales_um: Sequence[float],
    spacing_um: Sequence[float],
    threads: int | None = None,
) -> Array:
    """Return the features of some voxels, in the order of the array: ``features(...)[:, where].T``.

    Parameters
    ----------
    volume, scales_um, spacing_um, threads
        As `features`.
    where : ndarray of bool, shape (Z, Y, X)
        Planes without any are not computed.

    Returns
    -------
    ndarray of shape (voxels, 1 + 5 scales), float32
    """
    if where.dtype != np.bool_ or where.shape != volume.shape:
        raise InputError(f"voxels of a volume {volume.shape} are marked in bool, found {where.dtype} {where.shape}")
    _tables(volume, scales_um, spacing_um)  # refuses what `features` would, even where nothing is marked
    parts = [np.empty((0, feature_count(len(scales_um))), np.float32)]
    for first, stop in _runs(np.asarray(where.any(axis=(1, 2)))):
        slab = features(volume, scales_um, spacing_um, slice(first, stop), threads)
        parts.append(slab[:, where[first:stop]].T)
    return np.concatenate(parts)


def perceptron(
    volume: Array,
    scales_um: Sequence[float],
    spacing_um: Sequence[float],
    layers: Sequence[Layer],
    out: Array | None = None,
    threads: int | None = None,
    within: Part = _ALL,
) -> Array:
    """Return the mean probability that perceptrons give every voxel for its features, which are forgotten row by row.

    Parameters
    ----------
    volume, scales_um, spacing_um, threads
        As `features`.
    layers : three of (weights, bias)
        Of shapes (members, outputs, inputs) and (members, outputs). ReLU follows the first two; the last has one
        output, a logit.
    out : ndarray of the shape of `volume`, float32, optional
        Written to and returned.
    within : (slice, slice)
        Planes and rows of which it is asked; nothing is written elsewhere.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
    """
    tables = _tables(volume, scales_um, spacing_um)
    inputs = feature_count(len(scales_um))
    shapes = [weights.shape for weights, _ in layers]
    if not _chain(shapes, [bias.shape for _, bias in layers], inputs):
        found = ", ".join(map(str, shapes))
        raise InputError(f"perceptrons on {inputs} features have three layers in a chain, found {found}")
    result = np.empty(volume.shape, np.float32) if out is None else out
    arrays = tuple(np.ascontiguousarray(array, dtype=np.float32) for layer in layers for array in layer)

    def fill(z0: int, z1: int, y0: int, y1: int) -> None:
        fill_probability(volume, tables, z0, z1, y0, y1, arrays, result)

    _in_blocks(fill, *_bounds(volume, within), threads)
    return result


def tree_sum(
    volume: Array,
    scales_um: Sequence[float],
    spacing_um: Sequence[float],
    trees: Trees,
    out: Array | None = None,
    threads: int | None = None,
    within: Part = _ALL,
) -> Array:
    """Return the probability that boosted trees give every voxel for its features.

    Parameters
    ----------
    volume, scales_um, spacing_um, threads
        As `features`.
    trees : Trees
        On features of these scales, and tube responses after them (tubes.py), which have no slope.
    out : ndarray of the shape of `volume`, float32, optional
        Written to and returned.
    within : (slice, slice)
        Planes and rows of which it is asked; nothing is written elsewhere.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
    """
    tables = _tables(volume, scales_um, spacing_um)
    inputs = feature_count(len(scales_um))
    asked = trees.feature
    if asked.size and not 0 <= asked.min() <= asked.max() < inputs + TUBES:
        raise InputError(f"trees ask for features {asked.min()} to {asked.max()}, there are {inputs + TUBES}")
    if len(trees.slope) not in (0, inputs):
        raise InputError(f"{len(trees.slope)} slopes, there are {inputs} features")
    if asked.size and asked.max() >= inputs:
        inputs += TUBES
    result = np.empty(volume.shape, np.float32) if out is None else out

    def fill(z0: int, z1: int, y0: int, y1: int) -> None:
        fill_tree_sum(volume, tables, z0, z1, y0, y1, trees, inputs, result)

    _in_blocks(fill, *_bounds(volume, within), threads)
    return result


def _chain(weights: Sequence[tuple[int, ...]], biases: Sequence[tuple[int, ...]], inputs: int) -> bool:
    """Return whether these are the shapes of three layers, from `inputs` to one output."""
    if len(weights) != 3 or any(len(shape) != 3 for shape in weights):
        return False
    members, widths = weights[0][0], [inputs, *(shape[1] for shape in weights)]
    chained = [(members, after, before) for before, after in pairwise(widths)]
    return members > 0 and widths[-1] == 1 and chained == list(weights) and [s[:2] for s in chained] == list(biases)


def _runs(marked: NDArray[np.bool_], most: int = 16) -> list[tuple[int, int]]:
    """Return the ranges of marked planes, cut so that a slab of features stays small."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return [(at, min(at + most, int(stop))) for first, stop in edges for at in range(int(first), int(stop), most)]


def _bounds(volume: Array, within: Part) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return first and end of planes and rows."""
    (z0, z1, _), (y0, y1, _) = (part.indices(n) for part, n in zip(within, volume.shape[:2], strict=True))
    return (z0, z1), (y0, y1)


def _in_blocks(
    fill: Callable[[int, int, int, int], None], planes: tuple[int, int], rows: tuple[int, int], threads: int | None
) -> None:
    """Call ``fill(z0, z1, y0, y1)`` for blocks that cover these planes; a thread that is done takes the next one."""
    team_size = threads or physical_cores()
    (first, stop), (top, below) = planes, rows
    # A block smooths a plane more on each side of it: few planes are better shared out by rows.
    along_z = split(stop - first, max(1, min(4 * team_size, (stop - first) // 8)))
    height = below - top
    along_y = split(height, -(-height // _ROWS))
    if len(along_z) * len(along_y) < team_size:
        along_y = split(height, min(team_size, height))
    blocks = iter([(first + z0, first + z1, top + y0, top + y1) for y0, y1 in along_y for z0, z1 in along_z])

    def work() -> None:
        for block in blocks:
            fill(*block)

    with Team(team_size) as team:
        team.run(work, [()] * team_size)


def _tables(volume: NDArray[Any], scales_um: Sequence[float], spacing_um: Sequence[float]) -> _Tables:
    if volume.ndim != 3 or volume.dtype != np.float32 or not volume.flags.c_contiguous or 0 in volume.shape:
        raise InputError(
            f"features are of a contiguous float32 (Z, Y, X) array, found {volume.dtype} of shape {volume.shape}"
        )
    scales, spacing = np.asarray(scales_um, np.float64), np.asarray(spacing_um, np.float64)
    if scales.ndim != 1 or not len(scales) or not (np.isfinite(scales) & (scales > 0)).all():
        raise InputError(f"scales are positive lengths in µm, found {list(scales_um)}")
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"a spacing is three positive lengths (z, y, x) in µm, found {list(spacing_um)}")
    steps = scales[:, None] / spacing
    if steps.max() > _LARGEST_SIGMA:
        raise InputError(
            f"scale {scales.max():g} µm is {steps.max():.0f} voxels of {spacing.min():g} µm; "
            f"at most {_LARGEST_SIGMA:.0f} expected"
        )
    kernels = [_gaussian(step) for step in steps[:, 2]]
    radius = np.array([len(kernel) // 2 for kernel in kernels])
    half = np.zeros((len(scales), radius.max() + 1))
    for row, kernel, r in zip(half, kernels, radius, strict=True):
        row[: r + 1] = kernel[r:]
    column = _inside(np.arange(-radius.max(), volume.shape[2] + radius.max()), volume.shape[2])
    z, y = (_axis(tuple(steps[:, axis].tolist()), volume.shape[axis]) for axis in (0, 1))
    return _Tables(z, y, half, radius, column, steps)


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Return the weights that scipy's gaussian_filter1d gives to voxels -r .. r."""
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _inside(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return which voxels stand at `places`: a a a | a b c d | d d d, scipy's mode "nearest"."""
    return np.clip(places, 0, length - 1)


@lru_cache(maxsize=4)  # of planes one by one, and of each learner, they are the same
def _axis(sigmas: tuple[float, ...], length: int) -> _Axis:
    kernels = [_gaussian(sigma) for sigma in sigmas]
    most = min(max(len(kernel) for kernel in kernels), length)
    first = np.zeros((len(sigmas), length), np.int64)
    count = np.zeros((len(sigmas), length), np.int64)
    weights = np.zeros((len(sigmas), length, most))
    for scale, kernel in enumerate(kernels):
        radius = len(kernel) // 2
        for at in range(length):
            begin, end = max(at - radius, 0), min(at + radius + 1, length)
            first[scale, at], count[scale, at] = begin, end - begin
            sources = _inside(np.arange(at - radius, at + radius + 1), length)
            np.add.at(weights[scale, at], sources - begin, kernel)
    return _Axis(first, count, weights)
