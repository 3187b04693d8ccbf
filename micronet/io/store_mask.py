"""A mask in an OME-Zarr of which boxes are read: for what is larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micronet.core.errors import InputError, setting
from micronet.core.volume import Volume
from micronet.io.zarr import labels_of, open_level

__all__ = ["StoreMask", "chosen_label"]


class StoreMask:
    """Labels of an image, or an image that holds bool, {0, 1} or {0, 255}; as `micronet.io.read_annotation` takes them.

    Parameters
    ----------
    path : Path
        An OME-Zarr.
    segment : str, optional
        Which of its labels, where there are several.
    level : int
        Which scale.
    spacing_um : (z, y, x), optional
        Stands above what the store states.
    """

    def __init__(
        self, path: Path, *, segment: str | int | None = None, level: int = 0, spacing_um: ArrayLike | None = None
    ) -> None:
        self._path, names = path, labels_of(path)
        self._of_labels = bool(names)
        name = chosen_label(path, names, segment) if names else ""
        self._level = open_level(path, level, path / "labels" / name if names else None)
        grid = self._level.grid
        self.grid: Volume = grid if spacing_um is None else grid.with_spacing(spacing_um)
        self.description = f"labels '{name}' of '{path.name}'" if names else f"mask '{path.name}'"
        self._foreground: Any = None

    @property
    def pieces(self) -> tuple[int, int, int]:
        """Sides (Z, Y, X) of what lies in one file."""
        return self._level.pieces

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[np.bool_]:
        """Return a box; FileError where a chunk is damaged, InputError where it is no mask."""
        found = self._level[box]
        mask: NDArray[np.bool_] = found != 0
        if not self._of_labels and found.dtype != bool and mask.any():
            self._foreground = found.max() if self._foreground is None else self._foreground
            other = found[mask & (found != self._foreground)]
            if self._foreground not in (1, 255) or other.size:
                value = self._foreground if not other.size or self._foreground not in (1, 255) else other[0]
                raise InputError(f"'{self._path}' is no mask: it holds {value:g}, expected 0 and 1, or 0 and 255")
        return mask


def chosen_label(path: Path, names: list[str], wanted: str | int | None) -> str:
    """Return the name of the labels that are meant; InputError where that is not clear, or there are no such."""
    if wanted is None and len(names) > 1:
        raise InputError(f"'{path}' has the labels {', '.join(names)}; name one {setting('segment')}")
    name = names[0] if wanted is None else str(wanted)
    if name not in names:
        raise InputError(f"'{path}' has no labels '{name}', only {', '.join(names)} {setting('segment')}")
    return name
