"""Exact Euclidean distances up to a limit, plane by plane in small integers.

A squared distance splits by axis: along x it is the square of the distance to the nearest voxel in the row, and then
``min over k of d(y + k) + k²`` along y and along z (Felzenszwalb & Huttenlocher 2012, eq. 2). Up to a limit of some
voxels the minimum over k is taken directly; everything fits 16 bits, stays in the processor's cache, and is the same
on every machine. Oracle: ``scipy.ndimage.distance_transform_edt`` in the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micronet.core.threads import Team, split

__all__ = ["squared_distance"]

_Squares = NDArray[np.uint16]


def squared_distance(mask: NDArray[np.bool_], limit_vox: int, threads: int = 1) -> _Squares:
    """Return the squared distance, in voxels, of every voxel to the nearest one that is True.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool
        Where the distance is 0. Nothing lies outside of the volume.
    limit_vox : int
        Distances from here on, and all of an empty mask, give ``limit_vox ** 2``; at most 181, for 16 bits.
    threads : int
        Does not change the result.

    Returns
    -------
    ndarray of shape (Z, Y, X), uint16

    Examples
    --------
    >>> squared_distance(np.array([[[True, False, False, False]]]), 3)
    array([[[0, 1, 4, 9]]], dtype=uint16)
    """
    depth = mask.shape[0]
    far = np.uint16(limit_vox**2)
    in_planes = np.empty(mask.shape, np.uint16)
    squares = np.empty(mask.shape, np.uint16)
    reached = [bool(plane.any()) for plane in mask]

    def within(begin: int, end: int) -> None:
        row, spare = np.empty(mask.shape[1:], np.uint16), np.empty(mask.shape[1:], np.uint16)
        for z in range(begin, end):
            if not reached[z]:
                in_planes[z] = far
                continue
            first = np.where(mask[z], np.uint16(0), far)
            np.copyto(row, first)
            for k in range(1, min(limit_vox, mask.shape[2])):
                _closer(row[:, k:], first[:, :-k], k, spare[:, k:])
                _closer(row[:, :-k], first[:, k:], k, spare[:, k:])
            np.copyto(in_planes[z], row)
            for k in range(1, min(limit_vox, mask.shape[1])):
                _closer(in_planes[z, k:], row[:-k], k, spare[k:])
                _closer(in_planes[z, :-k], row[k:], k, spare[k:])

    def across(begin: int, end: int) -> None:
        spare = np.empty(mask.shape[1:], np.uint16)
        for z in range(begin, end):
            np.copyto(squares[z], in_planes[z])
            for k in range(1, limit_vox):
                for other in (z - k, z + k):
                    if 0 <= other < depth and reached[other]:
                        _closer(squares[z], in_planes[other], k, spare)

    with Team(threads) as team:
        parts = split(depth, threads)
        team.run(within, parts)
        team.run(across, parts)
    return squares


def _closer(squares: _Squares, others: _Squares, steps: int, spare: _Squares) -> None:
    """Take the smaller of `squares` and what lies `steps` voxels away, in place."""
    np.add(others, np.uint16(steps * steps), out=spare)
    np.minimum(squares, spare, out=squares)
