"""What networks have in common that look at the scale-space features of a voxel (kernels/scale_space.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from micronet.networks.evening import evened
from micronet.networks.kernels.scale_space import Part, reach, work_bytes

__all__ = ["ByVoxel"]


class _Looks(Protocol):
    """What there is of a network before `ByVoxel`."""

    @property
    def scales(self) -> tuple[float, ...]:
        """Of the features, in µm."""

    @property
    def around_um(self) -> float:
        """Surroundings that the image is evened by first; 0: it is not."""

    def look(
        self,
        seen: NDArray[np.float32],
        spacing_um: Sequence[float],
        out: NDArray[np.float32] | None = None,
        threads: int | None = None,
        within: Part = ...,
    ) -> NDArray[np.float32]:
        """Return the probability in an image, or a box of one, that is evened already."""


class ByVoxel:
    """A network with `scales`, `around_um` and `look`."""

    def predict(
        self: _Looks,
        image: NDArray[np.float32],
        spacing_um: Sequence[float],
        out: NDArray[np.float32] | None = None,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the lumen probability of every voxel; features are computed on the way and forgotten.

        Parameters
        ----------
        image : ndarray of shape (Z, Y, X), float32
            Normalised, as `micronet.normalize_image` gives it; axes of any length.
        spacing_um : (z, y, x)
        out : ndarray of the same shape, float32, optional
            Written to and returned.
        threads : int, optional
            Default: the physical cores. It does not change the result.
        """
        seen = evened(image, spacing_um, self.around_um) if self.around_um else image
        return self.look(seen, spacing_um, out, threads)

    def reach(self: _Looks, spacing_um: Sequence[float]) -> tuple[int, int, int]:
        """Return how many voxels around a voxel (Z, Y, X) its features look at."""
        return reach(self.scales, spacing_um)

    def work_bytes(self: _Looks, spacing_um: Sequence[float], width: int) -> int:
        """Return about how many bytes `look` takes in a thread, beside image and result, for rows of so many voxels."""
        return work_bytes(self.scales, spacing_um, width)
