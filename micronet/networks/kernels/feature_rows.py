"""Features of a row of voxels, and what perceptrons and trees make of them: the kernels behind scale_space.py.

Compiled functions without checks; `tables` are those of scale_space.py, right by construction. For every scale three
planes of the smoothed image are held, of the rows at work and one beyond them on each side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.networks.kernels.boosting import add_trees
from micronet.networks.kernels.jit import jit
from micronet.networks.kernels.tubes import fill_tubes

__all__ = ["fill_features", "fill_probability", "fill_tree_sum"]

#: Columns that the perceptron works on at a time, at least one row.
_COLUMNS = 512


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
def fill_features(volume, tables, z0, z1, y0, y1, first, out):  # type: ignore[no-untyped-def]
    """Write the features of planes z0 .. z1 - 1, rows y0 .. y1 - 1; plane `first` is the first of `out`."""
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
def fill_probability(volume, tables, z0, z1, y0, y1, layers, out):  # type: ignore[no-untyped-def]
    """Write the mean probability of perceptrons for a block of planes and rows."""
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
def fill_tree_sum(volume, tables, z0, z1, y0, y1, trees, inputs, out):  # type: ignore[no-untyped-def]
    """Write the probability of trees for a block of planes and rows; `inputs` says whether they ask for tubes."""
    width = volume.shape[2]
    rings, room, line, d = _new_rings(tables, y1 - y0, width)
    found = np.empty((inputs, width), np.float32)
    leaf, logit = np.empty(width, np.uint8), np.empty(width, np.float32)
    for z in range(z0, z1):
        _next_planes(volume, tables, z, z0, y0, y1, rings, room, line)
        for y in range(y0, y1):
            _row_features(volume, tables, z, y, y0, rings, d, found)
            if inputs > 1 + 5 * len(rings):
                fill_tubes(found)
            add_trees(found, trees, leaf, logit)
            row = out[z, y]
            row[:] = 0
            _add_probability(logit, row)
