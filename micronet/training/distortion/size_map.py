"""How thick the mask is around every voxel: the size map that scales the distortion.

    S = min(15, max over the ball r² <= 15² of d)

with d the chessboard distance of a mask voxel to the nearest background voxel of the volume (0 in the background).
Everything is an integer from 0 to 15, so bytes do, and the maximum can be taken in any order:

- d along x, then ``min over j of max(|j|, d(y + j))`` along y and z, for |j| <= 15;
- a ball is a stack of discs, a disc a stack of rows: sliding maxima along x for every half-width 0..15, then maxima of
  whole planes shifted by dy, then by dz. A disc serves the planes above and below.

Beyond the faces the published filter reflects; a reflected voxel is never farther away than its image, so leaving the
outside out gives the same. Oracle: scipy.ndimage (distance_transform_cdt, maximum_filter) in the tests, and
distortion_numpy.py, which serves where numba is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.core.threads import Team, split
from micronet.networks.kernels.jit import jit
from micronet.training.distortion.reference import LARGEST

__all__ = ["size_map"]

_R = LARGEST + 1
#: Half-width along x of the ball at the offsets (|dz|, |dy|); -1 outside of the ball.
_HALF_WIDTH = np.array(
    [
        [int(np.sqrt(LARGEST**2 - z * z - y * y)) if z * z + y * y <= LARGEST**2 else -1 for y in range(_R)]
        for z in range(_R)
    ]
)
# Planes are flat, rows padded with zeros so that a shift along x never meets the next row.
_MARGIN = 64


def _pitch(width: int) -> int:
    return -(-(width + LARGEST) // 64) * 64


@jit
def _copy(target, at, source, start, length):  # type: ignore[no-untyped-def]
    """Set target[at + i] = source[start + i], i < length."""
    t, s = target[at : at + length], source[start : start + length]
    for i in range(length):
        t[i] = s[i]


@jit
def _maximum(target, at, source, start, length):  # type: ignore[no-untyped-def]
    """Set target[at + i] = max(target[at + i], source[start + i]), i < length."""
    t, s = target[at : at + length], source[start : start + length]
    for i in range(length):
        t[i] = max(t[i], s[i])


@jit
def _closer(target, at, source, start, length, j):  # type: ignore[no-untyped-def]
    """Set target[at + i] = min(target[at + i], max(source[start + i], j)), i < length."""
    t, s = target[at : at + length], source[start : start + length]
    limit = np.uint8(j)
    for i in range(length):
        t[i] = min(t[i], max(s[i], limit))


@jit
def _holds(source, start, length):  # type: ignore[no-untyped-def]
    """Return whether anything in source[start : start + length] is not 0."""
    found = np.uint8(0)
    s = source[start : start + length]
    for i in range(length):
        found |= s[i]
    return found != 0


@jit
def _distance_in_planes(start, stop, mask, pitch, distance):  # type: ignore[no-untyped-def]
    """Fill planes of `distance` with the chessboard distance within each plane."""
    height, width = mask.shape[1:]
    rows = np.zeros(height * pitch, np.uint8)
    for z in range(start, stop):
        full = distance[z]
        for y in range(height):
            source = mask[z, y]
            if _holds(source, 0, width):
                for backward in range(2):
                    d = LARGEST
                    for i in range(width):
                        x = width - 1 - i if backward else i
                        d = min(d + 1, LARGEST) if source[x] else 0
                        if not backward or d < rows[y * pitch + x]:
                            rows[y * pitch + x] = d
            else:
                for x in range(width):
                    rows[y * pitch + x] = 0
        _copy(full, _MARGIN, rows, 0, len(rows))
        if not _holds(full, 0, len(full)):
            continue
        for j in range(1, min(LARGEST, height)):
            length = (height - j) * pitch
            _closer(full, _MARGIN, rows, j * pitch, length, j)
            _closer(full, _MARGIN + j * pitch, rows, 0, length, j)


@jit
def _distance_across_planes(start, stop, in_planes, distance):  # type: ignore[no-untyped-def]
    """Fill planes of `distance` with the chessboard distance in the volume."""
    depth, length = in_planes.shape
    for z in range(start, stop):
        full = distance[z]
        _copy(full, 0, in_planes[z], 0, length)
        if not _holds(full, 0, length):
            continue
        for j in range(-LARGEST + 1, LARGEST):
            if 0 <= z + j < depth:
                _closer(full, 0, in_planes[z + j], 0, length, abs(j))


@jit
def _dilate(start, stop, distance, half_width, pitch, sizes):  # type: ignore[no-untyped-def]
    """Fill the planes start..stop of `sizes` with the maximum of `distance` over the ball."""
    depth, height, width = sizes.shape
    length = distance.shape[1]
    slid = np.zeros((LARGEST + 1, length), np.uint8)  # maxima over |dx| <= w
    disc = np.zeros(length, np.uint8)
    best = np.zeros((stop - start, length), np.uint8)
    for z in range(max(0, start - LARGEST), min(depth, stop + LARGEST)):
        first, last = height, -1  # rows with something in them
        for y in range(height):
            if _holds(distance[z], _MARGIN + y * pitch, width):
                first, last = min(first, y), y
        if last < 0:
            continue
        at, count = _MARGIN + first * pitch, (last - first + 1) * pitch
        _copy(slid[0], at, distance[z], at, count)
        for w in range(1, LARGEST + 1):
            _copy(slid[w], at, slid[w - 1], at, count)
            for dx in (-w, w):
                _maximum(slid[w], at, distance[z], at + dx, count)
        low, high = max(0, first - LARGEST), min(height, last + 1 + LARGEST)
        at, count = _MARGIN + low * pitch, (high - low) * pitch
        for dz in range(LARGEST + 1):
            above, below = start <= z - dz < stop, start <= z + dz < stop
            if not (above or below):
                continue
            for i in range(at, at + count):
                disc[i] = 0
            for dy in range(-LARGEST, LARGEST + 1):
                w = half_width[dz, abs(dy)]
                a, b = max(low, first + dy), min(high, last + 1 + dy)
                if w >= 0 and a < b:
                    _maximum(disc, _MARGIN + a * pitch, slid[w], _MARGIN + (a - dy) * pitch, (b - a) * pitch)
            for towards in (-dz, dz):
                if start <= z + towards < stop:
                    _maximum(best[z + towards - start], at, disc, at, count)
    for z in range(start, stop):
        for y in range(height):
            source = best[z - start, _MARGIN + y * pitch :]
            for x in range(width):
                sizes[z, y, x] = source[x]


def size_map(mask: NDArray[np.uint8], threads: int) -> NDArray[np.int32]:
    """Return S, int32 (Z, Y, X), of a mask of 0 and 1; `threads` does not change it.

    A mask without background has no distance: S is -1 everywhere, as with scipy's distance transform.
    """
    if mask.all():
        return np.full(mask.shape, -1, np.int32)
    depth, height, width = mask.shape
    pitch = _pitch(width)
    length = 2 * _MARGIN + height * pitch
    in_planes = np.zeros((depth, length), np.uint8)
    distance = np.empty((depth, length), np.uint8)
    sizes = np.empty(mask.shape, np.int32)
    with Team(threads) as team:
        parts = split(depth, threads)
        team.run(lambda a, b: _distance_in_planes(a, b, mask, pitch, in_planes), parts)
        team.run(lambda a, b: _distance_across_planes(a, b, in_planes, distance), parts)
        team.run(lambda a, b: _dilate(a, b, distance, _HALF_WIDTH, pitch, sizes), parts)
    return sizes
