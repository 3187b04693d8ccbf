"""What can be gone through plane by plane, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["Planes"]


class Planes(Protocol):
    """An array, or what lies on a disk or is made as it is looked at: slices along Z, and a loop over the planes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along (Z, Y, X)."""

    def __getitem__(self, planes: slice, /) -> NDArray[Any]:
        """Return the planes ``first:stop``."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield the planes."""
