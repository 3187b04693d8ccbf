"""Pictures of a segmented volume with the contours on them: the preview, and figures to be put into a paper."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import colour
from micronet.core.errors import InputError
from micronet.report.annotated import planes_annotated
from micronet.report.figure import write_figure
from micronet.report.panels import (
    ANNOTATION_COLOUR,
    Contour,
    Panel,
    Sheet,
    draw_sheet,
    grey_range,
    sampled,
)
from micronet.report.wish import PANELS, FigureWish

__all__ = ["Further", "Scene", "View", "views", "write_paper_figure", "write_preview"]

#: Makes a picture of a volume: a slice, or a projection.
_Flat = Callable[[NDArray[Any]], NDArray[Any]]

_AXES = "zyx"
# Inches: one and two columns of a journal, 89 and 183 mm.
_ONE_PANEL, _ALL_PANELS = Sheet(3.5, 5.0, 300), Sheet(7.2, 2.6, 300)


@dataclass(frozen=True)
class View:
    """The volume seen along an array axis, and which axes run down and right in that picture."""

    axis: int
    down: int
    right: int

    def slice(self, array: NDArray[Any], plane: int) -> NDArray[Any]:
        """Return a plane of a volume."""
        return self._turned(array.take(plane, self.axis))

    def projection(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the maximum along the axis."""
        return self._turned(array.max(self.axis))

    def _turned(self, plane: NDArray[Any]) -> NDArray[Any]:
        return plane if self.down < self.right else plane.T

    def lengths(self, lengths: Sequence[float]) -> tuple[float, float]:
        """Return (height, width) of the picture."""
        return lengths[self.down], lengths[self.right]

    @property
    def axes(self) -> tuple[str, str]:
        """The letters of what runs down and right."""
        return _AXES[self.down], _AXES[self.right]


def views(lengths: Sequence[float]) -> tuple[View, View, View]:
    """Return the views along Z, Y and X; depth (Y) always runs down, and nothing tall stands beside them."""
    z, _, x = lengths
    from_above = View(1, down=2, right=0) if z > 1.5 * x else View(1, down=0, right=2)
    return View(0, down=1, right=2), from_above, View(2, down=1, right=0)


@dataclass(frozen=True, eq=False)
class Further:
    """A segment beside the first: its name, its mask (non-zero is inside) and annotation, of the image's shape."""

    name: str
    mask: NDArray[Any]
    annotation: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """What there is to be shown of a volume.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), real or bool
        Intensities.
    mask : ndarray of the same shape
        Segmentation; non-zero is inside. May be empty.
    spacing_um : tuple of three floats, optional
        Voxel size along (Z, Y, X) in µm; without it voxels are cubes and scale bars count them.
    annotation : ndarray of the same shape, optional
        Ground truth; non-zero is inside.
    known : ndarray of bool, of the same shape, optional
        Where a sparse annotation says anything; None is everywhere.
    y_crop : int, optional
        How deep (Y) the network looked; the mask has no outline where that ends.
    mask_name, annotation_name : str
        What the legend calls the contours.
    further : sequence of Further
        Segments beside that of `mask`, each drawn in a colour of its own (`micronet.core.classes.colour`), in their
        order after the first.
    origin, whole : tuple of three ints, optional
        Where the arrays begin in the volume that they were cut out of, and the shape of that.

    Raises
    ------
    InputError
        If the arrays are not of one three-dimensional shape, or a spacing is not positive.
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    spacing_um: tuple[float, float, float] | None = None
    annotation: NDArray[Any] | None = None
    known: NDArray[np.bool_] | None = None
    y_crop: int | None = None
    mask_name: str = "segmentation"
    annotation_name: str = "annotation"
    further: Sequence[Further] = ()
    origin: tuple[int, int, int] = (0, 0, 0)
    whole: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        image, spacing = self.image, self.spacing_um
        if image.ndim != 3 or 0 in image.shape or image.dtype.kind not in "buif":
            raise InputError(f"a preview needs a (Z, Y, X) array of real numbers, found {image.shape} of {image.dtype}")
        arrays = [("mask", self.mask), ("annotation", self.annotation), ("annotated part", self.known)]
        arrays += [pair for one in self.further for pair in (("mask", one.mask), ("annotation", one.annotation))]
        for name, array in arrays:
            if array is not None and array.shape != image.shape:
                raise InputError(f"{name} of shape {array.shape} differs from the image: {image.shape}")
        if spacing is not None and not (
            len(spacing) == 3 and all(math.isfinite(step) and step > 0 for step in spacing)
        ):
            raise InputError(f"spacing must be three positive lengths Z,Y,X in µm, found {spacing}")

    @property
    def unit(self) -> str:
        """The unit of lengths."""
        return "voxels" if self.spacing_um is None else "µm"

    @property
    def lengths(self) -> tuple[float, ...]:
        """How long the volume is along (Z, Y, X)."""
        return tuple(n * step for n, step in zip(self.image.shape, self.spacing_um or (1.0, 1.0, 1.0), strict=True))

    @property
    def depth(self) -> int:
        """How many planes along Y were looked at."""
        height: int = self.image.shape[1]
        return height if self.y_crop is None else max(1, min(self.y_crop, height))

    def plane(self, axis: int) -> int:
        """Return the middle plane; where nothing is annotated there, the one with most annotated lumen."""
        middle: int = (self.depth if axis == 1 else self.image.shape[axis]) // 2
        annotation = self._annotated()
        told = annotation if self.known is None else self.known
        if told is None or annotation is None or told.take(middle, axis).any():
            return middle
        others = tuple(other for other in range(3) if other != axis)
        lumen = _inside(annotation) if self.known is None else _inside(annotation) & self.known
        areas = np.count_nonzero(lumen if lumen.any() else told, axis=others)
        most = np.flatnonzero(areas == areas.max())
        return int(most[len(most) // 2]) if areas.any() else middle

    def _annotated(self) -> NDArray[Any] | None:
        """Return where any segment is annotated."""
        annotation = self.annotation
        for one in self.further:
            if one.annotation is not None:
                annotation = one.annotation if annotation is None else _inside(annotation) | _inside(one.annotation)
        return annotation

    def cut(self, crop: Sequence[tuple[str, int, int]]) -> Scene:
        """Return a box of it, along axes given by their letters from a voxel up to another that is not in it."""
        box, origin = [slice(None)] * 3, list(self.origin)
        for letter, first, end in crop:
            axis = _AXES.index(letter)
            box[axis], origin[axis] = slice(first, end), first
        inner = tuple(box)
        return replace(
            self,
            image=self.image[inner],
            mask=self.mask[inner],
            annotation=None if self.annotation is None else self.annotation[inner],
            known=None if self.known is None else self.known[inner],
            further=[
                replace(one, mask=one.mask[inner], annotation=None if one.annotation is None else one.annotation[inner])
                for one in self.further
            ],
            y_crop=None if self.y_crop is None else self.y_crop - origin[1],
            origin=(origin[0], origin[1], origin[2]),
            whole=self.whole or self.image.shape,
        )

    def panel(self, view: View, plane: int | None, grey: tuple[float, float] | None = None) -> Panel:
        """Return a slice, or the projection where there is no `plane`; `grey` is what is black and white in it."""

        def flat(array: NDArray[Any]) -> NDArray[Any]:
            return view.projection(array) if plane is None else view.slice(array, plane)

        letter, whole = _AXES[view.axis], (self.whole or self.image.shape)[view.axis]
        picture = flat(self.image)
        deep = self.y_crop is not None and 0 < self.y_crop < self.image.shape[1]
        # Y is never seen from the side in the view along it.
        crop = self.y_crop if deep and view.axis != 1 else None
        looked_at = None
        if crop is not None:
            looked_at = np.zeros(picture.shape, bool)
            looked_at[:crop] = True
        return Panel(
            picture,
            view.lengths(self.lengths),
            view.axes,
            f"maximum along {letter}" if plane is None else f"{letter} {plane + self.origin[view.axis]} of {whole}",
            grey_range(picture, projection=True) if grey is None else grey,
            self._contours(view, flat, plane is None, looked_at),
            None if crop is None else crop - 0.5,
        )

    def _contours(self, view: View, flat: _Flat, projected: bool, looked_at: NDArray[np.bool_] | None) -> list[Contour]:
        """Return the contours of a picture, the lowest first.

        Annotations lie below the segmentation and are wider, so that both show where they agree; the first segment lies
        uppermost, and stands first in the legend.
        """
        masks = [(self.mask_name, self.mask), *((one.name, one.mask) for one in self.further)]
        drawn = [
            Contour(flat(_inside(mask)), name, colour(number), known=looked_at)
            for number, (name, mask) in enumerate(masks, 1)
        ]
        below = [
            self._annotated_in(flat, one, projected, _annotated_planes(view, planes))
            for one, planes in zip(self._annotations, self._planes_annotated, strict=True)
        ]
        return [*below, *reversed(drawn)]

    @property
    def _annotations(self) -> list[NDArray[Any]]:
        every = [self.annotation, *(one.annotation for one in self.further)]
        return [one for one in every if one is not None]

    def _annotated_in(
        self, flat: _Flat, annotation: NDArray[Any], projected: bool, known: NDArray[np.bool_] | None
    ) -> Contour:
        annotated = _inside(annotation)
        if self.known is not None:
            annotated, known = annotated & self.known, flat(self.known)
            if projected:  # lumen along the way is known from one voxel, that there is none from all of them
                known = flat(annotated) | ~flat(~self.known)
        return Contour(flat(annotated), self.annotation_name, ANNOTATION_COLOUR, 1.6, known)

    @cached_property
    def _planes_annotated(self) -> list[Sequence[NDArray[np.bool_]]]:
        """Return, of each annotation along (Z, Y, X), which planes were annotated."""
        if self.known is not None:
            return [[np.ones(n, bool) for n in self.image.shape] for _ in self._annotations]
        return [planes_annotated(_inside(one)) for one in self._annotations]

    def rows(self, planes: Sequence[int]) -> tuple[list[Panel], list[Panel]]:
        """Return three slices and three projections."""
        grey = grey_range(self.image[sampled(self.image.shape)])
        seen = views(self.lengths)
        slices = [self.panel(view, plane, grey) for view, plane in zip(seen, planes, strict=True)]
        return slices, [self.panel(view, None) for view in seen]


def write_preview(path: str | os.PathLike[str], scene: Scene, title: str = "") -> None:
    """Write a PNG with three slices and the three maximum projections of a segmented volume; of one plane, of that.

    Each picture keeps the physical proportions and carries the contour of the mask (orange) and of the
    annotation (blue) in that plane, or of their projections. The slices are the middle ones of what was looked at, or,
    where nothing is annotated there, those with most annotated lumen; planes are counted from 0, as viewers do. What is
    black and white `micronet.report.panels.grey_range` says: for all slices together, for each projection by itself.

    Parameters
    ----------
    path : path
        The PNG to write. It appears whole or not at all, and replaces an older one.
    scene : Scene
    title : str
        Headline; shortened in its middle where it does not fit.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    sheet = Sheet(unit=scene.unit)
    figure = draw_sheet(_sheet_rows(scene, [scene.plane(axis) for axis in range(3)]), sheet, title)
    # level 3 of 9: 3 % more bytes than the usual 6, in half the time
    write_figure(path, figure, format="png", dpi=sheet.dpi, pil_kwargs={"compress_level": 3})


def write_paper_figure(path: str | os.PathLike[str], scene: Scene, wish: FigureWish) -> None:
    """Write one picture, or all six (of one plane, that), for print: SVG, PDF or PNG, 300 dpi, 89 or 183 mm wide.

    Text is text in SVG and PDF, contours and scale bars are lines.

    Parameters
    ----------
    path : path
        Its suffix is the format. The file appears whole or not at all, and replaces an older one.
    scene : Scene
    wish : FigureWish
        What of it is shown.

    Raises
    ------
    InputError
        If a plane or a box does not lie in the volume.
    FileError
        If the file cannot be written.
    """
    wish.check(scene.image.shape, wish.name)
    part = scene.cut(wish.crop)
    planes = [part.plane(axis) for axis in range(3)]
    for letter, plane in wish.slice:
        axis = _AXES.index(letter)
        planes[axis] = plane - part.origin[axis]
    if wish.panel == "all":
        rows = _sheet_rows(part, planes)
        sheet = _ALL_PANELS if len(rows) > 1 else _ONE_PANEL
        write_figure(path, draw_sheet(rows, replace(sheet, unit=part.unit)), dpi=sheet.dpi)
        return
    rows = part.rows(planes)
    chosen = [*rows[0], *rows[1]][PANELS.index(wish.panel)]
    write_figure(path, draw_sheet([[chosen]], replace(_ONE_PANEL, unit=part.unit)), dpi=_ONE_PANEL.dpi)


def _sheet_rows(scene: Scene, planes: Sequence[int]) -> Sequence[Sequence[Panel]]:
    """Return all pictures of a volume in their rows; an image of one plane is a line from the side."""
    rows = scene.rows(planes)
    return rows if len(scene.image) > 1 else [rows[0][:1]]


def _annotated_planes(view: View, planes: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_] | None:
    """Return what of a picture lies in planes that were annotated, given along (Z, Y, X); None for all of it."""
    down, right = (planes[axis] for axis in (view.down, view.right))
    return None if down.all() and right.all() else down[:, None] & right


def _inside(mask: NDArray[Any]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = mask if mask.dtype == bool else mask != 0
    return inside
