"""The picture of a preparation: middle slices of a volume before and after, each on its own grid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.report.figure import write_figure
from micronet.report.panels import Panel, Sheet, draw_sheet, grey_range
from micronet.report.preview import views

__all__ = ["Cuts", "write_before_after"]

_AXES = "ZYX"


class Cuts:
    """The three middle planes of a volume that is gone through plane by plane.

    Parameters
    ----------
    shape : sequence of three ints
        Of the volume, in the order of `axes`.
    spacing_um : sequence of three floats
        Its voxel size in µm, along (Z, Y, X).
    axes : str
        The axes, slowest first, such as ``"YZX"``.
    """

    def __init__(self, shape: Sequence[int], spacing_um: Sequence[float], axes: str = _AXES) -> None:
        self.spacing_um = tuple(spacing_um)
        self._shape, self._axes = tuple(shape), axes
        self._across: NDArray[Any] | None = None
        self._rows: list[NDArray[Any]] = []
        self._columns: list[NDArray[Any]] = []

    def through(self, planes: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Yield planes as they are, and keep what is needed of them."""
        for number, plane in enumerate(planes):
            if number == self._shape[0] // 2:
                self._across = plane.copy()
            self._rows.append(plane[self._shape[1] // 2].copy())
            self._columns.append(plane[:, self._shape[2] // 2].copy())
            yield plane

    def panels(self, name: str) -> list[Panel]:
        """Return the slices along Z, Y and X; all planes have gone through."""
        if self._across is None:
            raise AssertionError("the middle plane has not gone through")
        flat = [self._across, np.stack(self._rows), np.stack(self._columns)]
        grey = grey_range(np.concatenate([plane.ravel() for plane in flat]))
        counts = [self._shape[self._axes.index(letter)] for letter in _AXES]
        lengths = [count * step for count, step in zip(counts, self.spacing_um, strict=True)]
        panels = []
        for view in views(lengths):
            letter = _AXES[view.axis]
            picture = flat[self._axes.index(letter)]
            first = self._axes.replace(letter, "")[0]
            caption = f"{name}: {letter.lower()} {counts[view.axis] // 2} of {counts[view.axis]}"
            turned = picture if first == _AXES[view.down] else picture.T
            panels.append(Panel(turned, view.lengths(lengths), view.axes, caption, grey))
        return panels


def write_before_after(path: str | os.PathLike[str], before: Cuts, after: Cuts, title: str = "") -> None:
    """Write a PNG with the middle slices of a volume before and after, at one scale; FileError if that fails."""
    sizes = [" × ".join(f"{step:.3g}" for step in cuts.spacing_um) for cuts in (before, after)]
    sheet = Sheet()
    rows = [before.panels("before"), after.panels("after")]
    figure = draw_sheet(rows, sheet, f"{title}: voxels of {sizes[0]} µm, then {sizes[1]} µm (z × y × x)")
    write_figure(path, figure, format="png", dpi=sheet.dpi, pil_kwargs={"compress_level": 3})
