"""The coarser grid that a page shows a volume on: what of it is kept, and its projections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.planes import Planes
from micronet.core.resample import decimate_planes

__all__ = ["VOXELS", "Grid", "slabs"]

#: Most voxels that one page can show: a byte for each would be too many, but as JPEG they fit.
VOXELS = 5_000_000
#: Most voxels shown along an axis: JPEG counts pixels in 16 bits.
_LONGEST = 1024
#: Longest side of a projection in pixels, over the cube root of the voxels shown: 400 where these are the most.
_PROJECTED = 400 / VOXELS ** (1 / 3)
#: Voxels to hold at once while a volume is gone through.
_BLOCK = 1 << 22


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Yield slices along the first axis that hold about 4 million voxels each.

    >>> list(slabs((5, 2048, 1024)))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, _BLOCK // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))


@dataclass(frozen=True)
class Grid:
    """The coarser grid that a volume is shown on.

    Parameters
    ----------
    shape : tuple of three ints
        Of the volume, (Z, Y, X).
    spacing_um : tuple of three floats, optional
        Its voxel size in µm; None where that is not known.
    voxels : int
        Most voxels to show. An axis is coarsened only where its voxels are finer than those shown.
    """

    shape: tuple[int, int, int]
    spacing_um: tuple[float, float, float] | None = None
    voxels: int = VOXELS

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels shown along (Z, Y, X); as near to cubes as the volume's own voxels allow."""
        if math.prod(self.shape) <= self.voxels and max(self.shape) <= _LONGEST:
            return self.shape
        high = max(self._lengths)
        low = high / _LONGEST
        if math.prod(self._cells(low)) <= self.voxels:
            return self._cells(low)
        for _ in range(60):  # the smallest cube of which there are not too many
            step = (low + high) / 2
            if math.prod(self._cells(step)) > self.voxels:
                low = step
            else:
                high = step
        return self._cells(high)

    @property
    def projected(self) -> tuple[int, int, int]:
        """Pixels of the projections along (Z, Y, X)."""
        return self._cells(max(self._lengths) / (_PROJECTED * self.voxels ** (1 / 3)))

    @property
    def _lengths(self) -> tuple[float, float, float]:
        z, y, x = (n * step for n, step in zip(self.shape, self.spacing_um or (1.0, 1.0, 1.0), strict=True))
        return z, y, x

    def _cells(self, step: float) -> tuple[int, int, int]:
        z, y, x = (
            min(n, max(1, math.ceil(length / step - 1e-6))) for n, length in zip(self.shape, self._lengths, strict=True)
        )
        return z, y, x

    def planes(self, axis: int) -> NDArray[np.int64]:
        """Return which voxel of the volume lies at the centre of each shown one."""
        n, m = self.shape[axis], self.size[axis]
        return (2 * np.arange(m) + 1) * n // (2 * m)

    def bits(self, array: Planes, threshold: float = 0.5) -> bytes:
        """Return a mask as bits: the voxels at the shown ones' centres, then the projections along Z, Y and X.

        Parameters
        ----------
        array : array of shape (Z, Y or less, X), bool or real
            Inside is what is above the threshold, and deeper than the array there is nothing. It is read in slabs
            along Z, so that it may lie on disk.
        threshold : float

        Returns
        -------
        bytes
            ``numpy.packbits`` of all of them after one another.
        """
        z, y, x = (self.planes(axis) for axis in range(3))
        y = y[y < array.shape[1]]
        sampled = np.zeros(self.size, bool)
        flat = [np.zeros([n for other, n in enumerate(self.shape) if other != axis], bool) for axis in range(3)]
        for slab in slabs(array.shape):
            inside = np.asarray(array[slab]) > threshold
            here = (z >= slab.start) & (z < slab.stop)
            sampled[here, : len(y)] = inside.take(z[here] - slab.start, 0).take(y, 1).take(x, 2)
            depth = inside.shape[1]
            flat[0][:depth] |= inside.any(0)
            flat[1][slab] = inside.any(1)
            flat[2][slab, :depth] = inside.any(2)
        parts = [sampled, *(self._pooled(plane, axis, np.logical_or) for axis, plane in enumerate(flat))]
        return np.packbits(np.concatenate([part.ravel() for part in parts])).tobytes()

    def projections(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the maximum projections along Z, Y and X of a volume, read in slabs along Z."""
        first = np.asarray(array[:1])
        along_z, along_y, along_x = first[0], [], []
        for slab in slabs(array.shape):
            block = np.asarray(array[slab])
            along_z = np.maximum(along_z, block.max(0))
            along_y.append(block.max(1))
            along_x.append(block.max(2))
        flat = (along_z, np.concatenate(along_y), np.concatenate(along_x))
        return [self._pooled(plane, axis, np.maximum) for axis, plane in enumerate(flat)]

    def _pooled(self, plane: NDArray[Any], axis: int, combine: np.ufunc) -> NDArray[Any]:
        kept = [other for other in range(3) if other != axis]
        for number, other in enumerate(kept):
            n, m = self.shape[other], self.projected[other]
            plane = combine.reduceat(plane, np.arange(m) * n // m, axis=number)
        return plane

    def coarse(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Return a volume on the shown grid, lightly smoothed where that is coarser; read plane by plane."""
        ratios = [n / m for n, m in zip(self.shape, self.size, strict=True)]
        # Narrower than what `resample` takes against aliasing: a picture may alias a little, but should be sharp.
        sigmas = [(ratio - 1) / 2 for ratio in ratios]
        planes = (np.asarray(array[number]) for number in range(self.shape[0]))
        return np.stack(list(decimate_planes(planes, self.shape, ratios, sigmas)))
