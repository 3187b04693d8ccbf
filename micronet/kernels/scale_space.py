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
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.errors import InputError
from micronet.kernels.boosting import Trees, add_trees
from micronet.kernels.jit import jit
from micronet.kernels.threads import Team, physical_cores, split

__all__ = ["Layer", "default_scales", "feature_count", "features", "features_at", "perceptron", "tree_sum"]

Array = NDArray[np.float32]

#: Weights (members, outputs, inputs) and bias (members, outputs) of one layer of some perceptrons, float32.
Layer = tuple[Array, Array]

#: Default scales, in units of the finest spacing.
_SCALES = (0.7, 1.0, 1.6, 2.5, 4.0, 6.0)
#: Features of a scale.
_EACH = 5
#: A Gaussian ends at so many sigma.
_TRUNCATE = 4.0
#: Rows that are worked on at a time: with what they need around them they stay in the second cache.
_ROWS = 64
#: Columns that the perceptron works on at a time, at least one row.
_COLUMNS = 512
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
        _fill_features(volume, tables, z0, z1, y0, y1, first, found)

    _in_blocks(fill, volume.shape, (first, stop), threads)
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
        _fill_probability(volume, tables, z0, z1, y0, y1, arrays, result)

    _in_blocks(fill, volume.shape, (0, len(volume)), threads)
    return result


def tree_sum(
    volume: Array,
    scales_um: Sequence[float],
    spacing_um: Sequence[float],
    trees: Trees,
    out: Array | None = None,
    threads: int | None = None,
) -> Array:
    """Return the probability that boosted trees give every voxel for its features.

    Parameters
    ----------
    volume, scales_um, spacing_um, threads
        As `features`.
    trees : Trees
        On features of these scales.
    out : ndarray of the shape of `volume`, float32, optional
        Written to and returned.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
    """
    tables = _tables(volume, scales_um, spacing_um)
    inputs = feature_count(len(scales_um))
    if trees.feature.size and not 0 <= trees.feature.min() <= trees.feature.max() < inputs:
        raise InputError(f"trees ask for features {trees.feature.min()} to {trees.feature.max()}, there are {inputs}")
    result = np.empty(volume.shape, np.float32) if out is None else out

    def fill(z0: int, z1: int, y0: int, y1: int) -> None:
        _fill_tree_sum(volume, tables, z0, z1, y0, y1, trees, inputs, result)

    _in_blocks(fill, volume.shape, (0, len(volume)), threads)
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


def _in_blocks(
    fill: Callable[[int, int, int, int], None], shape: Sequence[int], planes: tuple[int, int], threads: int | None
) -> None:
    """Call ``fill(z0, z1, y0, y1)`` for blocks that cover these planes; a thread that is done takes the next one."""
    team_size = threads or physical_cores()
    first, stop = planes
    # A block smooths a plane more on each side of it: few planes are better shared out by rows.
    along_z = split(stop - first, max(1, min(4 * team_size, (stop - first) // 8)))
    rows = split(shape[1], -(-shape[1] // _ROWS))
    if len(along_z) * len(rows) < team_size:
        rows = split(shape[1], min(team_size, shape[1]))
    blocks = iter([(first + z0, first + z1, y0, y1) for y0, y1 in rows for z0, z1 in along_z])

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
    z, y = (_axis(steps[:, axis], volume.shape[axis]) for axis in (0, 1))
    return _Tables(z, y, half, radius, column, steps)


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Return the weights that scipy's gaussian_filter1d gives to voxels -r .. r."""
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _inside(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return which voxels stand at `places`: a a a | a b c d | d d d, scipy's mode "nearest"."""
    return np.clip(places, 0, length - 1)


def _axis(sigmas: NDArray[np.float64], length: int) -> _Axis:
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


def _eigenvalue_polynomial() -> NDArray[np.float64]:
    """Return g, lowest power first, with 1 - cos(acos(r) / 3) = (1 - r) g(1 - 2 r) for 0 <= r <= 1, within 1e-13.

    With θ = acos(r) / 3: 1 - cos θ = 2 s, 1 - r = 1 - cos 3θ = 2 s (3 - 4 s)², s = sin²(θ / 2).
    """
    v = np.cos(np.pi * (np.arange(17) + 0.5) / 17)
    s = np.sin(np.arccos((1 - v) / 2) / 6) ** 2
    chebyshev = np.polynomial.chebyshev
    return np.asarray(chebyshev.cheb2poly(chebyshev.chebfit(v, 1 / (3 - 4 * s) ** 2, 16)), np.float64)


_G = tuple(float(c) for c in _eigenvalue_polynomial())


@jit
def _add(total, w, a):  # type: ignore[no-untyped-def]
    for x in range(len(total)):
        total[x] += w * a[x]


@jit
def _add_4(total, w, a, b, c, d):  # type: ignore[no-untyped-def]
    p, q, r, s = w[0], w[1], w[2], w[3]
    for x in range(len(total)):
        total[x] += (p * a[x] + q * b[x]) + (r * c[x] + s * d[x])


@jit
def _add_around(total, w, line, centre, k):  # type: ignore[no-untyped-def]
    """Add what lies k and k + 1 to the left and right of a voxel."""
    p, q, length = w[k], w[k + 1], len(total)
    left, right = line[centre - k : centre - k + length], line[centre + k : centre + k + length]
    far_left = line[centre - k - 1 : centre - k - 1 + length]
    far_right = line[centre + k + 1 : centre + k + 1 + length]
    for x in range(length):
        total[x] += p * (left[x] + right[x]) + q * (far_left[x] + far_right[x])


@jit
def _smooth_rows(volume, tables, scale, z, y0, y1, room, line, out):  # type: ignore[no-untyped-def]
    """Write G of plane z, rows y0 - 1 .. y1, columns -1 .. X, into `out`."""
    first_z, count_z, weights_z = tables.z
    first_y, count_y, weights_y = tables.y
    height, width = volume.shape[1:]
    above, below = max(y0 - 1, 0), min(y1 + 1, height)
    low = first_y[scale, above]
    high = first_y[scale, below - 1] + count_y[scale, below - 1]
    begin, count, w = first_z[scale, z], count_z[scale, z], weights_z[scale, z]
    for y in range(low, high):
        total = room[y - low]
        total[:] = 0
        k = 0
        while k + 4 <= count:
            at = begin + k
            _add_4(total, w[k : k + 4], volume[at, y], volume[at + 1, y], volume[at + 2, y], volume[at + 3, y])
            k += 4
        for k in range(count - count % 4, count):
            _add(total, w[k], volume[begin + k, y])
    edge, radius, half = (len(tables.column) - width) // 2, tables.radius[scale], tables.half[scale]
    middle = line[edge : edge + width]
    for y in range(above, below):
        begin, count, w = first_y[scale, y] - low, count_y[scale, y], weights_y[scale, y]
        middle[:] = 0
        k = 0
        while k + 4 <= count:
            at = begin + k
            _add_4(middle, w[k : k + 4], room[at], room[at + 1], room[at + 2], room[at + 3])
            k += 4
        for k in range(count - count % 4, count):
            _add(middle, w[k], room[begin + k])
        for x in range(edge - radius, edge):
            line[x] = line[edge + tables.column[x]]
        for x in range(edge + width, edge + width + radius):
            line[x] = line[edge + tables.column[x]]
        row = out[y - y0 + 1]
        inner = row[1 : width + 1]
        inner[:] = 0
        _add(inner, half[0], middle)
        k = 1
        while k + 1 <= radius:
            _add_around(inner, half, line, edge, k)
            k += 2
        if k == radius:
            _add(inner, half[k], line[edge - k : edge - k + width])
            _add(inner, half[k], line[edge + k : edge + k + width])
        row[0], row[width + 1] = row[1], row[width]
    if y0 == 0:
        out[0] = out[1]
    if y1 == height:
        out[y1 - y0 + 1] = out[y1 - y0]


@jit
def _straight(before, here, after, scale, slope, curvature):  # type: ignore[no-untyped-def]
    """Write the first and second derivative along an axis."""
    half, square = 0.5 * scale, scale * scale
    for x in range(len(here)):
        slope[x] = half * (after[x] - before[x])
        curvature[x] = square * ((after[x] - here[x]) - (here[x] - before[x]))


@jit
def _slanted(low_low, low_high, high_low, high_high, scale, mixed):  # type: ignore[no-untyped-def]
    """Write the mixed derivative along two axes."""
    quarter = 0.25 * scale
    for x in range(len(mixed)):
        mixed[x] = quarter * ((high_high[x] - high_low[x]) - (low_high[x] - low_low[x]))


@jit
def _derivatives(before, here, after, y, step, d):  # type: ignore[no-untyped-def]
    """Write the nine derivatives of row y into d: z, y, x, zz, yy, xx, zy, zx, yx."""
    width = here.shape[1] - 2
    up, row, down = here[y - 1], here[y], here[y + 1]
    first, last = before[y], after[y]
    middle = row[1 : width + 1]
    _straight(first[1 : width + 1], middle, last[1 : width + 1], step[0], d[0], d[3])
    _straight(up[1 : width + 1], middle, down[1 : width + 1], step[1], d[1], d[4])
    _straight(row[:width], middle, row[2:], step[2], d[2], d[5])
    above, below = before[y - 1], before[y + 1]
    late_above, late_below = after[y - 1], after[y + 1]
    zy = step[0] * step[1]
    _slanted(above[1 : width + 1], below[1 : width + 1], late_above[1 : width + 1], late_below[1 : width + 1], zy, d[6])
    _slanted(first[:width], first[2:], last[:width], last[2:], step[0] * step[2], d[7])
    _slanted(up[:width], up[2:], down[:width], down[2:], step[1] * step[2], d[8])


@jit
def _magnitude(a, b, c, out):  # type: ignore[no-untyped-def]
    for x in range(len(out)):
        out[x] = np.sqrt(a[x] * a[x] + b[x] * b[x] + c[x] * c[x])


@jit
def _eigenvalues(d, least, middle, most):  # type: ignore[no-untyped-def]
    """Write the eigenvalues of symmetric matrices, ascending.

    With q the mean of the diagonal, p = sqrt(tr((A - q)²) / 6) and r = det((A - q) / p) / 2 they are q + p t, where
    t³ - 3 t - 2 r = 0. The root of largest size is t = ±2 cos(acos(|r|) / 3), by a polynomial; the other two follow
    from their sum and product, without cancellation where they are nearly equal.
    """
    zz, yy, xx, zy, zx, yx = d[3], d[4], d[5], d[6], d[7], d[8]
    for x in range(len(least)):
        q = (zz[x] + yy[x] + xx[x]) / 3.0
        a, b, c = zz[x] - q, yy[x] - q, xx[x] - q
        e, f, g = zy[x], zx[x], yx[x]
        p = np.sqrt((a * a + b * b + c * c + 2.0 * (e * e + f * f + g * g)) / 6.0)
        inverse = 1.0 / p if p > 0.0 else 0.0
        a, b, c, e, f, g = a * inverse, b * inverse, c * inverse, e * inverse, f * inverse, g * inverse
        r = 0.5 * (a * (b * c - g * g) - e * (e * c - g * f) + f * (e * g - b * f))
        size = min(abs(r), 1.0)
        u = 1.0 - size
        v = 2.0 * u - 1.0
        poly = _G[16]
        poly = poly * v + _G[15]
        poly = poly * v + _G[14]
        poly = poly * v + _G[13]
        poly = poly * v + _G[12]
        poly = poly * v + _G[11]
        poly = poly * v + _G[10]
        poly = poly * v + _G[9]
        poly = poly * v + _G[8]
        poly = poly * v + _G[7]
        poly = poly * v + _G[6]
        poly = poly * v + _G[5]
        poly = poly * v + _G[4]
        poly = poly * v + _G[3]
        poly = poly * v + _G[2]
        poly = poly * v + _G[1]
        poly = poly * v + _G[0]
        short = u * poly  # 1 - cos
        far = 2.0 - 2.0 * short
        apart = np.sqrt(3.0 * short * (2.0 - short))  # t = -cos ± sqrt(3 (1 - cos²))
        near_low, near_high = -0.5 * far - apart, -0.5 * far + apart
        up = r >= 0.0
        least[x] = q + p * (near_low if up else -far)
        middle[x] = q + p * (near_high if up else -near_high)
        most[x] = q + p * (far if up else -near_low)


@jit
def _new_rings(tables, height, width):  # type: ignore[no-untyped-def]
    """Return three planes of G for every scale, and room for smoothing and for derivatives, for `height` rows."""
    scales = len(tables.radius)
    reach = tables.y[2].shape[2]
    rings = np.empty((scales, 3, height + 2, width + 2), np.float64)
    return rings, np.empty((height + 2 + 2 * reach, width)), np.empty(len(tables.column)), np.empty((9, width))


@jit
def _next_planes(volume, tables, z, z0, y0, y1, rings, room, line):  # type: ignore[no-untyped-def]
    """Have G of the planes z - 1, z and z + 1 in the rings, at plane number modulo 3."""
    depth = len(volume)
    for scale in range(len(rings)):
        for plane in range(z - 1 if z == z0 else z + 1, z + 2):
            if 0 <= plane < depth:
                _smooth_rows(volume, tables, scale, plane, y0, y1, room, line, rings[scale, plane % 3])


@jit
def _row_features(volume, tables, z, y, y0, rings, d, found):  # type: ignore[no-untyped-def]
    """Write the features of row y of plane z into found (features, X)."""
    depth = len(volume)
    before, after = max(z - 1, 0), min(z + 1, depth - 1)
    found[0] = volume[z, y]
    for scale in range(len(rings)):
        at = 1 + 5 * scale
        here = rings[scale, z % 3]
        _derivatives(rings[scale, before % 3], here, rings[scale, after % 3], y - y0 + 1, tables.steps[scale], d)
        row = here[y - y0 + 1]
        for x in range(volume.shape[2]):
            found[at, x] = row[x + 1]
        _magnitude(d[0], d[1], d[2], found[at + 1])
        _eigenvalues(d, found[at + 2], found[at + 3], found[at + 4])


@jit
def _fill_features(volume, tables, z0, z1, y0, y1, first, out):  # type: ignore[no-untyped-def]
    width = volume.shape[2]
    rings, room, line, d = _new_rings(tables, y1 - y0, width)
    found = np.empty((out.shape[0], width), np.float32)
    for z in range(z0, z1):
        _next_planes(volume, tables, z, z0, y0, y1, rings, room, line)
        for y in range(y0, y1):
            _row_features(volume, tables, z, y, y0, rings, d, found)
            for f in range(len(found)):
                out[f, z - first, y] = found[f]


@jit
def _add_8(total, w, rows, i):  # type: ignore[no-untyped-def]
    a, b, c, d = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
    e, f, g, h = rows[i + 4], rows[i + 5], rows[i + 6], rows[i + 7]
    p, q, r, s, t, u, v, o = w[i], w[i + 1], w[i + 2], w[i + 3], w[i + 4], w[i + 5], w[i + 6], w[i + 7]
    for x in range(len(total)):
        left = (p * a[x] + q * b[x]) + (r * c[x] + s * d[x])
        total[x] += left + ((t * e[x] + u * f[x]) + (v * g[x] + o * h[x]))


@jit
def _layer(rows, weights, bias, out):  # type: ignore[no-untyped-def]
    """Write weights @ rows + bias."""
    inputs = len(rows)
    for j in range(len(out)):
        total, w = out[j], weights[j]
        total[:] = bias[j]
        i = 0
        while i + 8 <= inputs:
            _add_8(total, w, rows, i)
            i += 8
        for i in range(inputs - inputs % 8, inputs):
            _add(total, w[i], rows[i])


@jit
def _rectify(rows):  # type: ignore[no-untyped-def]
    """Replace what is negative by 0; NaN stays."""
    for j in range(len(rows)):
        row = rows[j]
        for x in range(len(row)):
            row[x] = np.float32(0) if row[x] < 0 else row[x]


@jit
def _add_probability(logit, total):  # type: ignore[no-untyped-def]
    for x in range(len(total)):
        total[x] += np.float32(1) / (np.float32(1) + np.exp(-logit[x]))


@jit
def _fill_probability(volume, tables, z0, z1, y0, y1, layers, out):  # type: ignore[no-untyped-def]
    first, first_bias, second, second_bias, last, last_bias = layers
    members, width = len(first), volume.shape[2]
    rings, room, line, d = _new_rings(tables, y1 - y0, width)
    block = min(max(_COLUMNS // width, 1), y1 - y0)  # rows at a time
    found = np.empty((first.shape[2], block, width), np.float32)
    rows = found.reshape(first.shape[2], block * width)
    one = np.empty((first.shape[1], block * width), np.float32)
    two = np.empty((second.shape[1], block * width), np.float32)
    logit = np.empty((1, block * width), np.float32)
    total = np.empty(block * width, np.float32)
    for z in range(z0, z1):
        _next_planes(volume, tables, z, z0, y0, y1, rings, room, line)
        for y in range(y0, y1, block):
            count = min(block, y1 - y)
            for row in range(count):
                _row_features(volume, tables, z, y + row, y0, rings, d, found[:, row])
            total[:] = 0
            for member in range(members):
                _layer(rows, first[member], first_bias[member], one)
                _rectify(one)
                _layer(one, second[member], second_bias[member], two)
                _rectify(two)
                _layer(two, last[member], last_bias[member], logit)
                _add_probability(logit[0], total)
            for row in range(count):
                for x in range(width):
                    out[z, y + row, x] = total[row * width + x] / members


@jit
def _fill_tree_sum(volume, tables, z0, z1, y0, y1, trees, inputs, out):  # type: ignore[no-untyped-def]
    width = volume.shape[2]
    rings, room, line, d = _new_rings(tables, y1 - y0, width)
    found = np.empty((inputs, width), np.float32)
    leaf, logit = np.empty(width, np.uint8), np.empty(width, np.float32)
    for z in range(z0, z1):
        _next_planes(volume, tables, z, z0, y0, y1, rings, room, line)
        for y in range(y0, y1):
            _row_features(volume, tables, z, y, y0, rings, d, found)
            add_trees(found, trees, leaf, logit)
            row = out[z, y]
            row[:] = 0
            _add_probability(logit, row)
