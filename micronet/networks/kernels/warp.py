"""Distort a mask: sum smooth fields row by row, sample the mask where they point, lose and gain regions.

For the voxel r with size S(r) and the displacement d(r) = (f0, f1, f2), in units of the size,

    warped(r) = trilinear sample of mask at r + S(r) * d(r), coordinates clamped to the volume,

and, when regions are edited, with the fields f3 (region), f4 and f5 (tube) of variance 1,

    lost(r) = lost_to * ramp((f3 - lose_above) / edge)
    gained(r) = gained_to * ramp((-f3 - gain_above) / edge) * ramp((tube - sqrt(f4² + f5²)) / edge)
    out(r) = max(warped * (1 - lost), gained),    ramp(u) = clamp(1/2 + u, 0, 1)

so the surface f3 = threshold cuts off blobs, and a tube follows the curve on which f4 and f5 are both zero.
Planes are independent: any split of z gives the same numbers. Oracle: training/distortion/reference.py,
which serves where numba is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from micronet.core.threads import Team, split
from micronet.networks.kernels.edits import Edits
from micronet.networks.kernels.jit import LANES, jit

__all__ = ["distort_mask"]


@jit
def _sum_rows(weights, terms, total, first):  # type: ignore[no-untyped-def]
    """Set total[i] = sum_k weights[k] * terms[k, first + i]; there are 4, 8, .. weights."""
    stop = first + len(total)
    for i in range(len(total)):
        total[i] = 0
    for k in range(0, len(weights), 4):  # four at a time: the total is loaded and stored once for all
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        t0, t1 = terms[k][first:stop], terms[k + 1][first:stop]
        t2, t3 = terms[k + 2][first:stop], terms[k + 3][first:stop]
        for i in range(len(total)):
            total[i] += (w0 * t0[i] + w1 * t1[i]) + (w2 * t2[i] + w3 * t3[i])


@jit
def _pack_corners(start, stop, mask, corners):  # type: ignore[no-untyped-def]
    """Fill planes of `corners`: bit 4 i + 2 j + k is the mask at (z + i, y + j, x + k), edges continued."""
    depth, height, width = mask.shape
    for z in range(start, stop):
        for y in range(height):
            a, b = mask[z, y], mask[z, min(y + 1, height - 1)]
            c, d = mask[min(z + 1, depth - 1), y], mask[min(z + 1, depth - 1), min(y + 1, height - 1)]
            row = corners[z, y]
            for x in range(width):
                row[x] = a[x] | b[x] << 2 | c[x] << 4 | d[x] << 6
            last = row[width - 1]
            for x in range(width - 1):
                row[x] |= row[x + 1] << 1  # the neighbour's own bits are the even ones, its others come later
            row[width - 1] = last | last << 1


@jit
def _mix(bits, tz, ty, tx):  # type: ignore[no-untyped-def]
    """Return the trilinear mixture of eight corners packed by `_pack_corners`."""
    one, total = np.float32(1), np.float32(0)
    for corner in range(8):
        if bits >> corner & 1:
            weight = (tz if corner & 4 else one - tz) * (ty if corner & 2 else one - ty)
            total += weight * (tx if corner & 1 else one - tx)
    return min(total, one)  # the weights add up to 1 but for rounding


@jit
def _floor(value):  # type: ignore[no-untyped-def]
    """Return the largest integer not above `value`; np.floor would keep the loop from being vectorised."""
    whole = np.int32(value)
    return whole - np.int32(whole > value)


@jit
def _point(z, y, first, sizes, rows, shape, places, parts):  # type: ignore[no-untyped-def]
    """Find where the voxels r = (z, y, first + i) point.

    places[i] is the flat index of the voxel before r + S(r) * d(r), parts[:, i] is how far beyond it that lies. The
    displacement is split, not the coordinate, which has fewer digits left behind the point.
    """
    depth, height, width = shape
    least_z, most_z = np.float32(-z), np.float32(depth - 1 - z)
    least_y, most_y = np.float32(-y), np.float32(height - 1 - y)
    rows_z, rows_y, rows_x = rows[0], rows[1], rows[2]
    parts_z, parts_y, parts_x = parts[0], parts[1], parts[2]
    for i in range(len(sizes)):
        size, x = np.float32(sizes[i]), first + i
        dz = min(max(size * rows_z[i], least_z), most_z)
        dy = min(max(size * rows_y[i], least_y), most_y)
        dx = min(max(size * rows_x[i], np.float32(-x)), np.float32(width - 1 - x))
        whole_z, whole_y, whole_x = _floor(dz), _floor(dy), _floor(dx)
        parts_z[i] = dz - np.float32(whole_z)
        parts_y[i] = dy - np.float32(whole_y)
        parts_x[i] = dx - np.float32(whole_x)
        places[i] = ((z + whole_z) * height + y + whole_y) * width + x + whole_x


@jit
def _ramp(u):  # type: ignore[no-untyped-def]
    return min(max(np.float32(0.5) + u, np.float32(0)), np.float32(1))


@jit
def _distort_planes(start, stop, mask, size, corners, coefficients, tables, edits, out):  # type: ignore[no-untyped-def]
    """Fill the planes start..stop of `out`; three fields only warp, six also edit."""
    table_z, table_y, table_x = tables
    lose_above, lost, gain_above, gained, tube, sharpness = edits
    fields, na, nb, nc = coefficients.shape
    height, width = mask.shape[1:]
    planes = np.empty((fields, nb * nc), np.float32)
    terms_z, terms_y = coefficients.reshape(fields, na, nb * nc), planes.reshape(fields, nb, nc)
    line = np.empty(nc, np.float32)
    rows = np.empty((fields, table_x.shape[1]), np.float32)
    places, parts = np.empty(width, np.int64), np.empty((3, width), np.float32)
    flat = corners.reshape(-1)
    for z in range(start, stop):
        for f in range(fields):
            _sum_rows(table_z[z], terms_z[f], planes[f], 0)
        for y in range(height):
            sizes, source, target = size[z, y], mask[z, y], out[z, y]
            first, last = width, 0  # where the mask moves
            for x in range(width):
                target[x] = source[x]
                if sizes[x] != 0:
                    first, last = min(first, x), x + 1
            moves, gains = first < last, False
            first = first // LANES * LANES  # whole vectors
            for f in range(fields):
                if (f < 3 and moves) or f == 3 or gains:
                    a, b = (first, -(-last // LANES) * LANES) if f < 3 else (0, rows.shape[1])
                    _sum_rows(table_y[y], terms_y[f], line, 0)
                    _sum_rows(line, table_x, rows[f][: b - a], a)
                if f == 3:
                    for x in range(width):
                        gains |= _ramp((-rows[3, x] - gain_above) * sharpness) > 0
            if moves:
                _point(z, y, first, sizes[first:last], rows, mask.shape, places, parts)
                for i in range(last - first):
                    bits = flat[places[i]]
                    if bits == 0 or bits == 255:
                        target[first + i] = bits & 1
                    else:
                        target[first + i] = _mix(bits, parts[0, i], parts[1, i], parts[2, i])
            if fields > 3:
                for x in range(width):
                    region = rows[3, x]
                    value = target[x] * (np.float32(1) - lost * _ramp((region - lose_above) * sharpness))
                    inside = _ramp((-region - gain_above) * sharpness)
                    if inside > 0:
                        radius = np.sqrt(rows[4, x] * rows[4, x] + rows[5, x] * rows[5, x])
                        value = max(value, gained * inside * _ramp((tube - radius) * sharpness))
                    target[x] = value


def distort_mask(
    mask: NDArray[np.uint8],
    size: NDArray[np.int32],
    coefficients: NDArray[np.float64],
    tables: Sequence[NDArray[np.float64]],
    edits: Edits | None,
    threads: int,
) -> NDArray[np.float32]:
    """Return the distorted mask, float32 (Z, Y, X) in [0, 1]; see the module for the formulas.

    Parameters
    ----------
    mask, size : contiguous, of one shape (Z, Y, X)
        The mask (0 or 1) and its size map.
    coefficients : ndarray of shape (3, A, B, C), with edits (6, A, B, C)
    tables : the waves of noise.py, of shapes (Z, A), (Y, B), (X, C)
    edits : what to lose and gain; None only warps
    threads : number of threads; it does not change the result
    """
    # four waves are added at once, and along x whole vectors: pad with zeros
    spare = [-table.shape[1] % 4 for table in tables]
    padded = [np.pad(table, [(0, 0), (0, n)]) for table, n in zip(tables, spare, strict=True)]
    columns = np.pad(padded[2], [(0, -len(padded[2]) % LANES), (0, 0)]).T
    float_tables = tuple(np.ascontiguousarray(t, dtype=np.float32) for t in (padded[0], padded[1], columns))
    packed = np.pad(coefficients, [(0, 0), *[(0, n) for n in spare]]).astype(np.float32)
    e = edits or Edits(0, 0, 0, 0, 0, 1)
    numbers = tuple(np.float32(v) for v in (e.lose_above, e.lost, e.gain_above, e.gained, e.tube, 1 / e.edge))
    corners = np.empty_like(mask)
    out = np.empty(mask.shape, np.float32)
    planes = iter(range(len(mask)))  # shared: a thread that is done takes the next plane

    def work() -> None:
        for z in planes:
            _distort_planes(z, z + 1, mask, size, corners, packed, float_tables, numbers, out)

    with Team(threads) as team:
        team.run(lambda start, stop: _pack_corners(start, stop, mask, corners), split(len(mask), threads))
        team.run(work, [()] * threads)
    return out
