"""The grid that a network looks at a volume on, where its voxels are others than those it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.planes import Planes
from micronet.core.resample import decimate_planes, interpolate_planes, output_size
from micronet.core.volume import Volume
from micronet.networks.normalize import image_statistics
from micronet.segment.refine import hold

__all__ = ["NetworkGrid", "OnInput"]

# Lengths this close to one another are one length that was rounded.
_SAME = 0.01

_Three = tuple[float, float, float]


@dataclass(frozen=True)
class NetworkGrid:
    """Voxels of one length along the axes of a volume; the near edges of the first voxels of both grids coincide.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of the volume.
    ratios : three floats
        Length of a voxel of this grid over that of the volume, for each axis.
    """

    shape: tuple[int, int, int]
    ratios: _Three

    @classmethod
    def of(cls, volume: Volume, spacing_um: float | None) -> NetworkGrid | None:
        """Return the grid of this spacing; None where none is asked for, or the volume has it already.

        InputError where the volume does not state its spacing.
        """
        if spacing_um is None:
            return None
        if volume.spacing_um is None:
            raise InputError(
                f"the voxel size is not stated {setting('spacing_um')}, and without it nothing can be resampled "
                f"{setting('resample_um')}"
            )
        if all(abs(math.log(spacing_um / length)) <= _SAME for length in volume.spacing_um):
            return None
        z, y, x = (spacing_um / length for length in volume.spacing_um)
        return cls(volume.shape, (z, y, x))

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of voxels along (Z, Y, X)."""
        z, y, x = (output_size(count, ratio) for count, ratio in zip(self.shape, self.ratios, strict=True))
        return z, y, x

    def depth(self, y_crop: int | None) -> int | None:
        """Return how many voxels of Y cover so many of the volume."""
        return None if y_crop is None else output_size(min(y_crop, self.shape[1]), self.ratios[1])

    def volume(self, volume: Volume) -> Volume:
        """Return a volume on this grid, float32, antialiased where the grid is coarser.

        InputError where it is constant or not finite: afterwards that could not be seen.
        """
        image_statistics(volume.array)
        ratios = np.array(self.ratios)
        return replace(
            volume,
            array=self._sampled(volume.array),
            directions=volume.directions * ratios[:, None],
            origin=volume.origin + ((ratios - 1) / 2) @ volume.directions,
        )

    def start(self, mask: NDArray[Any]) -> NDArray[np.float32]:
        """Return a mask or probability on this grid, as a probability."""
        found = self._sampled(mask)
        return np.clip(found, 0, 1, out=found)

    def kept(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return labels of the volume on this grid: those of the nearest voxel."""
        nearest = [
            np.minimum(((np.arange(count) + 0.5) * ratio).astype(np.intp), length - 1)
            for count, ratio, length in zip(self.size, self.ratios, self.shape, strict=True)
        ]
        return labels[np.ix_(*nearest)]

    def back(self, probability: Planes, y_crop: int | None, keep: NDArray[np.uint8] | None = None) -> OnInput:
        """Return a probability of this grid on the grid of the volume."""
        return OnInput(probability, self, y_crop, keep)

    def _sampled(self, array: NDArray[Any]) -> NDArray[np.float32]:
        found = np.empty(self.size, np.float32)
        for plane, sampled in zip(found, decimate_planes(array, array.shape, self.ratios), strict=True):
            plane[...] = sampled
        return found


class OnInput:
    """A probability on the grid of the volume, interpolated linearly as its planes are looked at.

    Parameters
    ----------
    probability : Planes
        On the network's grid; its Y may end at the crop.
    grid : NetworkGrid
    y_crop : int, optional
        Deeper voxels of the volume were not looked at: they get 0.
    keep : ndarray of uint8, of the volume's shape, optional
        Voxels that are held at what they are: 1 lumen, 2 background.
    """

    def __init__(
        self, probability: Planes, grid: NetworkGrid, y_crop: int | None, keep: NDArray[np.uint8] | None = None
    ) -> None:
        self.shape = grid.shape
        depth = grid.depth(y_crop)
        self._source = _Cropped(probability, grid.size[1] if depth is None else depth)
        self._steps = tuple(1 / ratio for ratio in grid.ratios)
        self._y_crop, self._keep = y_crop, keep

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield the planes along Z."""
        return self._planes(0, self.shape[0])

    def __getitem__(self, planes: slice) -> NDArray[np.float32]:
        """Return the planes ``first:stop``."""
        first, stop, _ = planes.indices(self.shape[0])
        found = np.empty((max(stop - first, 0), *self.shape[1:]), np.float32)
        for plane, made in zip(found, self._planes(first, stop), strict=True):
            plane[...] = made
        return found

    def _planes(self, first: int, stop: int) -> Iterator[NDArray[np.float32]]:
        starts = [0.5 * step - 0.5 for step in self._steps]
        starts[0] += self._steps[0] * first
        planes = interpolate_planes(self._source, self._steps, starts, (stop - first, *self.shape[1:]))
        for number, plane in enumerate(planes, first):
            if self._y_crop is not None:
                plane[self._y_crop :] = 0
            if self._keep is not None:
                hold(plane, self._keep[number])
            yield plane


class _Cropped:
    """The first voxels of Y of a probability, wherever it lies."""

    def __init__(self, source: Planes, depth: int) -> None:
        self._source, self._depth = source, depth
        self.shape = (source.shape[0], depth, source.shape[2])

    def __getitem__(self, planes: slice) -> NDArray[Any]:
        return self._source[planes][:, : self._depth]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (plane[: self._depth] for plane in self._source)
