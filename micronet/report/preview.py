"""The preview of a segmentation: middle slices and maximum projections with the contours on them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.report.figure import new_figure, write_figure

__all__ = ["ANNOTATION_COLOUR", "MASK_COLOUR", "grey_range", "sampled", "write_preview"]

# Colours that people with any colour vision tell apart, on grey (Okabe & Ito 2008).
#: Contour of the segmentation.
MASK_COLOUR = "#E69F00"
#: Contour of the annotation.
ANNOTATION_COLOUR = "#56B4E9"

_FONT = "DejaVu Sans"  # comes with matplotlib
_DPI = 160
# Inches.
_PAGE_WIDTH = 10.0
_MARGIN = 0.15
_GAP = 0.22  # between columns
_DEPTH_LABEL = 0.24  # left of a picture: the axis that runs down
_CAPTION = 0.24  # above a picture: where it lies
_FOOT = 0.3  # below a picture: the axis that runs right, and the scale bar
_ROW_GAP = 0.12
_LARGEST_HEIGHT = 3.6
_SMALLEST_SIDE = 1.5  # of the longer side of any picture
_THINNEST = 0.06


@dataclass(frozen=True)
class _View:
    """One picture: the volume seen along an array axis."""

    axis: int
    down: int
    right: int

    def slice(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._turned(array.take(array.shape[self.axis] // 2, self.axis))

    def projection(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._turned(array.max(self.axis))

    def _turned(self, plane: NDArray[Any]) -> NDArray[Any]:
        return plane if self.down < self.right else plane.T

    def size(self, lengths: tuple[float, ...]) -> tuple[float, float]:
        """Return (width, height)."""
        return lengths[self.right], lengths[self.down]


@dataclass(frozen=True)
class _Frame:
    """Where a picture lies on the page, in inches from the left and the top."""

    left: float
    top: float
    width: float
    height: float


def write_preview(
    path: str | os.PathLike[str],
    image: NDArray[Any],
    mask: NDArray[Any],
    *,
    spacing_um: tuple[float, float, float] | None = None,
    annotation: NDArray[Any] | None = None,
    title: str = "",
    mask_name: str = "segmentation",
    annotation_name: str = "annotation",
) -> None:
    """Write a PNG with the three middle slices and the three maximum projections of a segmented volume.

    Each picture keeps the physical proportions and carries the contour of the mask (orange) and of the
    annotation (blue) in that plane, or of their projections. Planes are counted from 0, as viewers do. Grey
    runs from the 0.5th to the 99.5th percentile.

    Parameters
    ----------
    path : path
        The PNG to write. It appears whole or not at all, and replaces an older one.
    image : ndarray of shape (Z, Y, X), real or bool
        Intensities.
    mask : ndarray of the same shape
        Segmentation; non-zero is inside. May be empty.
    spacing_um : tuple of three floats, optional
        Voxel size along (Z, Y, X) in µm; without it voxels are cubes and the scale bar counts them.
    annotation : ndarray of the same shape, optional
        Ground truth; non-zero is inside.
    title : str
        Headline; shortened in its middle where it does not fit.
    mask_name, annotation_name : str
        What the legend calls the contours.

    Raises
    ------
    InputError
        If the arrays are not of one three-dimensional shape, or a spacing is not positive.
    FileError
        If the file cannot be written.
    """
    _check(image, mask, annotation, spacing_um)
    spacing = (1.0, 1.0, 1.0) if spacing_um is None else spacing_um
    unit = "voxels" if spacing_um is None else "µm"
    lengths = tuple(n * step for n, step in zip(image.shape, spacing, strict=True))
    contours = [(_inside(mask), MASK_COLOUR, mask_name)]
    if annotation is not None:  # below the segmentation and wider, so that both show where they agree
        contours.insert(0, (_inside(annotation), ANNOTATION_COLOUR, annotation_name))

    figure = _drawn(image, contours, lengths, unit)
    _headline(figure, title, contours)
    # level 3 of 9: 3 % more bytes than the usual 6, in half the time
    write_figure(path, figure, format="png", dpi=_DPI, pil_kwargs={"compress_level": 3})


def _drawn(
    image: NDArray[Any], contours: list[tuple[NDArray[Any], str, str]], lengths: tuple[float, ...], unit: str
) -> Figure:
    """Return the page with its pictures: a row of slices above one of projections."""
    views = _views(lengths)
    rows, page_height = _layout(views, lengths)
    figure = new_figure(_PAGE_WIDTH, page_height, _DPI, layout=None)
    slice_range = grey_range(image[sampled(image.shape)])
    kinds: tuple[Literal["slice", "projection"], ...] = ("slice", "projection")
    for kind, frames in zip(kinds, rows, strict=True):
        for view, frame in zip(views, frames, strict=True):
            flat = _flattened(view, kind, image)
            axes = _picture(figure, frame, flat, slice_range if kind == "slice" else grey_range(flat))
            for array, colour, _ in contours:
                wide = colour == ANNOTATION_COLOUR
                _contour(axes, _flattened(view, kind, array), colour, 1.6 if wide else 0.9)
            _label(figure, frame, view, _where(view, kind, image.shape))
            _scale_bar(figure, frame, view.size(lengths)[0], unit)
    return figure


def _check(
    image: NDArray[Any],
    mask: NDArray[Any],
    annotation: NDArray[Any] | None,
    spacing_um: tuple[float, float, float] | None,
) -> None:
    if image.ndim != 3 or 0 in image.shape or image.dtype.kind not in "buif":
        raise InputError(f"a preview needs a (Z, Y, X) array of real numbers, found {image.shape} of {image.dtype}")
    for name, array in (("mask", mask), ("annotation", annotation)):
        if array is not None and array.shape != image.shape:
            raise InputError(f"{name} of shape {array.shape} differs from the image: {image.shape}")
    if spacing_um is not None and not (
        len(spacing_um) == 3 and all(math.isfinite(step) and step > 0 for step in spacing_um)
    ):
        raise InputError(f"spacing must be three positive lengths Z,Y,X in µm, found {spacing_um}")


def _inside(mask: NDArray[Any]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = mask if mask.dtype == bool else mask != 0
    return inside


def _views(lengths: tuple[float, ...]) -> tuple[_View, _View, _View]:
    """Return the views along Z, Y and X; depth (Y) always runs down, and nothing tall stands beside them."""
    z, _, x = lengths
    from_above = _View(1, down=2, right=0) if z > 1.5 * x else _View(1, down=0, right=2)
    return _View(0, down=1, right=2), from_above, _View(2, down=1, right=0)


def _layout(views: tuple[_View, ...], lengths: tuple[float, ...]) -> tuple[list[list[_Frame]], float]:
    """Return the frames of two equal rows, and the height of the page.

    All pictures share one scale, save those that would come out smaller than a stamp.
    """
    sizes = [view.size(lengths) for view in views]
    room = _PAGE_WIDTH - 2 * _MARGIN - (len(views) - 1) * _GAP - len(views) * _DEPTH_LABEL
    small: set[int] = set()
    while True:  # a picture that is too small at the common scale is set apart, which leaves less to the others
        common = [size for index, size in enumerate(sizes) if index not in small]
        scale = min(
            (room - _SMALLEST_SIDE * len(small)) / sum(width for width, _ in common),
            _LARGEST_HEIGHT / max(height for _, height in common),
        )
        smaller = {i for i, size in enumerate(sizes) if max(size) * scale < _SMALLEST_SIDE} - small
        if not smaller:
            break
        small |= smaller
    boxes = []
    for index, (width, height) in enumerate(sizes):
        own = _SMALLEST_SIDE / max(width, height) if index in small else scale
        boxes.append((max(width * own, _THINNEST), max(height * own, _THINNEST)))
    row_height = max(height for _, height in boxes)
    cells = [max(width, _SMALLEST_SIDE) for width, _ in boxes]
    spare = max(0.0, (room - sum(cells)) / (len(cells) - 1))
    headline = 0.42
    rows = []
    for row in range(2):
        top = headline + _CAPTION + row * (row_height + _CAPTION + _FOOT + _ROW_GAP)
        left = _MARGIN + _DEPTH_LABEL
        frames = []
        for (width, height), cell in zip(boxes, cells, strict=True):
            frames.append(_Frame(left, top, width, height))
            left += cell + _GAP + _DEPTH_LABEL + min(spare, 0.6)
        rows.append(frames)
    return rows, headline + 2 * (row_height + _CAPTION + _FOOT) + _ROW_GAP + _MARGIN


def sampled(shape: tuple[int, ...], most: int = 64) -> tuple[slice, ...]:
    """Return slices that leave at most about so many planes along each axis: enough for percentiles."""
    return tuple(slice(None, None, max(1, n // most)) for n in shape)


def grey_range(values: NDArray[Any]) -> tuple[float, float]:
    """Return what to show black and white: the 0.5th and the 99.5th percentile, never equal, always finite."""
    low, high = (float(value) for value in np.nanpercentile(values.astype(np.float64), (0.5, 99.5)))
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _flattened(view: _View, kind: Literal["slice", "projection"], array: NDArray[Any]) -> NDArray[Any]:
    return view.slice(array) if kind == "slice" else view.projection(array)


def _where(view: _View, kind: Literal["slice", "projection"], shape: tuple[int, ...]) -> str:
    name = "zyx"[view.axis]
    count = shape[view.axis]
    return f"{name} {count // 2} of {count}" if kind == "slice" else f"maximum along {name}"


def _picture(figure: Figure, frame: _Frame, flat: NDArray[Any], grey: tuple[float, float]) -> Axes:
    page_width, page_height = figure.get_size_inches()
    axes = figure.add_axes(
        (
            frame.left / page_width,
            1 - (frame.top + frame.height) / page_height,
            frame.width / page_width,
            frame.height / page_height,
        )
    )
    axes.imshow(
        np.asarray(flat, dtype=np.float32),
        cmap="gray",
        vmin=grey[0],
        vmax=grey[1],
        aspect="auto",
        interpolation="antialiased",
    )
    axes.set_axis_off()
    return axes


def _contour(axes: Axes, inside: NDArray[np.bool_], colour: str, width: float) -> None:
    if inside.all() or not inside.any():
        return  # no line to draw, which matplotlib would warn about
    # Repeated at the rim, so that a contour that leaves the volume is open there and reaches the edge.
    padded = np.pad(inside, 1, mode="edge").astype(np.float32)
    rows, columns = padded.shape
    lines = axes.contour(
        np.arange(columns) - 1, np.arange(rows) - 1, padded, levels=[0.5], colors=[colour], linewidths=width
    )
    lines.set_path_effects([withStroke(linewidth=width + 0.8, foreground="black", alpha=0.5)])
    axes.set_xlim(-0.5, columns - 2.5)
    axes.set_ylim(rows - 2.5, -0.5)


def _text(figure: Figure, x_inch: float, y_inch: float, text: str, size: float, **how: Any) -> Any:
    """Put text at inches from the left and the top."""
    page_width, page_height = figure.get_size_inches()
    return figure.text(
        x_inch / page_width,
        1 - y_inch / page_height,
        _printable(text),
        fontsize=size,
        family=_FONT,
        parse_math=False,
        color="black",
        **how,
    )


def _printable(text: str) -> str:
    """Replace what the font cannot draw, which matplotlib would warn about."""
    font = get_font(findfont(FontProperties(family=_FONT)))
    return "".join(c if c == "\n" or (c.isprintable() and font.get_char_index(ord(c))) else "?" for c in text)


def _label(figure: Figure, frame: _Frame, view: _View, where: str) -> None:
    _text(figure, frame.left, frame.top - 0.06, where, 8.5, va="bottom", ha="left")
    _text(figure, frame.left, frame.top + frame.height + 0.06, f"{'zyx'[view.right]} →", 8, va="top", ha="left")
    _text(figure, frame.left - 0.06, frame.top - 0.02, f"{'zyx'[view.down]}\n↓", 8, va="top", ha="right")


def _scale_bar(figure: Figure, frame: _Frame, length: float, unit: str) -> None:
    """Draw a bar of a round length under the right end of the picture; `length` is the picture's width."""
    per_inch = length / frame.width
    bar = _round_length(per_inch * min(0.3 * max(frame.width, 1.0), 0.7))
    page_width, page_height = figure.get_size_inches()
    right = frame.left + max(frame.width, _SMALLEST_SIDE)
    right = frame.left + frame.width if frame.width >= 1.3 else right
    y = frame.top + frame.height + 0.13
    figure.add_artist(
        Line2D(
            [(right - bar / per_inch) / page_width, right / page_width],
            [1 - y / page_height] * 2,
            color="black",
            linewidth=2.0,
            solid_capstyle="butt",
        )
    )
    _text(figure, right - bar / per_inch - 0.05, y, f"{bar:g} {unit}", 7.5, va="center", ha="right")


def _round_length(largest: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above `largest`."""
    power = 10.0 ** math.floor(math.log10(largest))
    return max(step * power for step in (1, 2, 5) if step * power <= largest * (1 + 1e-9))


def _headline(figure: Figure, title: str, contours: list[tuple[NDArray[np.bool_], str, str]]) -> None:
    page_width, _ = figure.get_size_inches()
    handles = [
        Line2D([], [], color=colour, linewidth=2.2, label=_printable(name + ("" if array.any() else " (empty)")))
        for array, colour, name in reversed(contours)
    ]
    legend = figure.legend(
        handles=handles,
        loc="upper right",
        ncols=len(handles),
        frameon=False,
        borderaxespad=0.0,
        bbox_to_anchor=(1 - _MARGIN / page_width, 1 - 0.08 / figure.get_size_inches()[1]),
        prop=FontProperties(family=_FONT, size=9),
        handlelength=1.4,
        columnspacing=1.4,
    )
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    room = legend.get_window_extent(renderer).x0 - (_MARGIN + _DEPTH_LABEL + 0.2) * _DPI
    text = _text(figure, _MARGIN + _DEPTH_LABEL, 0.12, title, 11, va="top", ha="left", weight="bold")
    whole = text.get_text()
    kept = len(whole)
    while kept > 1 and text.get_window_extent(renderer).width > room:
        kept -= 1
        text.set_text(whole[: (kept + 1) // 2] + "…" + whole[len(whole) - kept // 2 :])
