"""Pictures of planes on a sheet: each with its axes, where it lies, a scale bar and the contours on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from micronet.core.classes import ANNOTATION_COLOUR, colour
from micronet.report.figure import new_figure

__all__ = ["ANNOTATION_COLOUR", "MASK_COLOUR", "Contour", "Panel", "Sheet", "draw_sheet", "grey_range", "sampled"]

#: Contour of the segmentation, where there is one.
MASK_COLOUR = colour(1)

_FONT = "DejaVu Sans"  # comes with matplotlib
# Inches.
_MARGIN = 0.15
_GAP = 0.22  # between columns
_DEPTH_LABEL = 0.24  # left of a picture: the axis that runs down
_CAPTION = 0.24  # above a picture: where it lies
_FOOT = 0.3  # below a picture: the axis that runs right, and the scale bar
_ROW_GAP = 0.12
_HEADLINE, _LEGEND = 0.42, 0.28  # with a title, and without one
_SMALLEST_SIDE = 1.5  # of the longer side of any picture
_THINNEST = 0.06
_LEGEND_SIZE = 9


@dataclass(frozen=True, eq=False)
class Contour:
    """The outline of a mask in a plane.

    `inside` and `known` are bool, of the picture's shape; where `known` (None: everywhere) is False nothing is known
    of the mask, and where that begins is no outline.
    """

    inside: NDArray[np.bool_]
    name: str
    colour: str
    width: float = 0.9
    known: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture.

    Parameters
    ----------
    picture : ndarray of shape (down, right), real
    lengths : (float, float)
        How long its sides are, downwards and to the right, in the unit of the sheet.
    axes : (str, str)
        What the axes that run down and right are called.
    caption : str
    grey : (float, float)
        What is black and what is white.
    contours : sequence of Contour
        The first lies below the others.
    crop : float, optional
        The row of pixels below which nothing was looked for.
    """

    picture: NDArray[Any]
    lengths: tuple[float, float]
    axes: tuple[str, str]
    caption: str
    grey: tuple[float, float]
    contours: Sequence[Contour] = ()
    crop: float | None = None


@dataclass(frozen=True)
class Sheet:
    """What pictures are put on: its width and their greatest height in inches, dots per inch, the unit of lengths."""

    width: float = 10.0
    highest: float = 3.6
    dpi: int = 160
    unit: str = "µm"


@dataclass(frozen=True)
class _Frame:
    """Where a picture lies on the sheet, in inches from the left and the top, and how long its scale bar is."""

    left: float
    top: float
    width: float
    height: float
    bar: float  # in the unit of the sheet
    per_inch: float


def draw_sheet(rows: Sequence[Sequence[Panel]], sheet: Sheet, title: str = "") -> Figure:
    """Return a sheet of equally long rows of pictures, all of one scale but for those smaller than a stamp.

    A title is shortened in its middle where it does not fit beside the legend.
    """
    handles = _handles(rows)
    headline = _HEADLINE if title else _LEGEND if handles else 0.1
    frames, height = _layout(rows, sheet, headline)
    figure = new_figure(sheet.width, height, sheet.dpi, layout=None)
    for panels, places in zip(rows, frames, strict=True):
        for panel, frame in zip(panels, places, strict=True):
            axes = _picture(figure, frame, panel)
            for contour in panel.contours:
                _draw_contour(axes, contour)
            if panel.crop is not None:
                line = axes.axhline(panel.crop, color="white", linestyle=(0, (4, 3)), linewidth=1.1)
                line.set_path_effects([withStroke(linewidth=2.4, foreground="black", alpha=0.6)])
            _label(figure, frame, panel)
            _scale_bar(figure, frame, sheet.unit)
    _add_headline(figure, sheet, title, handles)
    return figure


def sampled(shape: tuple[int, ...], most: int = 64) -> tuple[slice, ...]:
    """Return slices that leave at most about so many planes along each axis: enough for percentiles."""
    return tuple(slice(None, None, max(1, n // most)) for n in shape)


def grey_range(values: NDArray[Any], *, projection: bool = False) -> tuple[float, float]:
    """Return what to show black and white, never equal, always finite: the 0.5th and the 99.5th percentile.

    Of a maximum projection many pixels are nearly as bright as the brightest: white is what leaves its median at most
    at two thirds of the way and its 90th percentile at four fifths: contours stand out, and nothing is burnt out.
    """
    shares = np.nanpercentile(values.astype(np.float64), (0.5, 50, 90, 99.5))
    low, middle, bright, high = (float(value) for value in shares)
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if projection:
        high = max(high, low + 1.5 * (middle - low), low + 1.25 * (bright - low))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _layout(rows: Sequence[Sequence[Panel]], sheet: Sheet, headline: float) -> tuple[list[list[_Frame]], float]:
    """Return the frames of rows of equal height, and the height of the sheet."""
    columns = range(len(rows[0]))
    sizes = [tuple(max(row[column].lengths[side] for row in rows) for side in (1, 0)) for column in columns]
    room = sheet.width - 2 * _MARGIN - (len(sizes) - 1) * _GAP - len(sizes) * _DEPTH_LABEL
    scales = _scales(sizes, room, sheet.highest)
    bars = _bars(sizes, scales)
    cells = [max(size[0] * scale, _SMALLEST_SIDE) for size, scale in zip(sizes, scales, strict=True)]
    spare = min(0.6, max(0.0, (room - sum(cells)) / max(1, len(cells) - 1)))
    row_height = max(max(size[1] * scale, _THINNEST) for size, scale in zip(sizes, scales, strict=True))
    frames = []
    for number, row in enumerate(rows):
        top = headline + _CAPTION + number * (row_height + _CAPTION + _FOOT + _ROW_GAP)
        left = _MARGIN + _DEPTH_LABEL
        places = []
        for panel, scale, bar, cell in zip(row, scales, bars, cells, strict=True):
            down, right = (max(length * scale, _THINNEST) for length in panel.lengths)
            places.append(_Frame(left, top, right, down, bar, panel.lengths[1] / right))
            left += cell + _GAP + _DEPTH_LABEL + spare
        frames.append(places)
    count = len(rows)
    return frames, headline + count * (row_height + _CAPTION + _FOOT) + (count - 1) * _ROW_GAP + _MARGIN


def _scales(sizes: Sequence[tuple[float, ...]], room: float, highest: float) -> list[float]:
    """Return inches per unit of each column: one scale, save of those that would come out smaller than a stamp."""
    small: set[int] = set()  # set apart, which leaves less to the others
    narrow: set[int] = set()  # at the common scale, but as wide as a stamp for what stands above and below them
    scale = math.inf
    while True:
        common = set(range(len(sizes))) - small
        scale = min(scale, highest / max(sizes[index][1] for index in common))
        if wide := common - narrow:
            stamps = _SMALLEST_SIDE * (len(sizes) - len(wide))
            scale = min(scale, (room - stamps) / sum(sizes[index][0] for index in wide))
        smaller = {index for index in common if max(sizes[index]) * scale < _SMALLEST_SIDE}
        narrower = {index for index in wide if sizes[index][0] * scale < _SMALLEST_SIDE}
        if not smaller | narrower or smaller == common:
            break
        small |= smaller
        narrow |= narrower
    return [_SMALLEST_SIDE / max(size) if index in small else scale for index, size in enumerate(sizes)]


def _bars(sizes: Sequence[tuple[float, ...]], scales: Sequence[float]) -> list[float]:
    """Return how long the scale bar of each column is: equal where the scale is."""
    narrowest: dict[float, float] = {}
    for (width, _), scale in zip(sizes, scales, strict=True):
        narrowest[scale] = min(width * scale, narrowest.get(scale, math.inf))
    return [_round_length(min(0.3 * max(narrowest[scale], 1.0), 0.7) / scale) for scale in scales]


def _picture(figure: Figure, frame: _Frame, panel: Panel) -> Axes:
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
        np.asarray(panel.picture, dtype=np.float32),
        cmap="gray",
        vmin=panel.grey[0],
        vmax=panel.grey[1],
        aspect="auto",
        interpolation="antialiased",
    )
    axes.set_axis_off()
    return axes


def _draw_contour(axes: Axes, contour: Contour) -> None:
    inside, known = contour.inside, contour.known
    if inside.all() or not inside.any():
        return  # no line to draw, which matplotlib would warn about
    # Repeated at the rim, so that a contour that leaves the volume is open there and reaches the edge.
    padded = np.pad(inside, 1, mode="edge").astype(np.float32)
    rows, columns = padded.shape
    field: Any = padded
    if known is not None and not known.all():
        told = np.pad(known, 1, mode="edge")
        if len(np.unique(padded[told])) < 2:
            return
        field = np.ma.array(padded, mask=~told)
    lines = axes.contour(
        np.arange(columns) - 1,
        np.arange(rows) - 1,
        field,
        levels=[0.5],
        colors=[contour.colour],
        linewidths=contour.width,
        corner_mask=False,
    )
    lines.set_path_effects([withStroke(linewidth=contour.width + 0.8, foreground="black", alpha=0.5)])
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


def _label(figure: Figure, frame: _Frame, panel: Panel) -> None:
    down, right = panel.axes
    _text(figure, frame.left, frame.top - 0.06, panel.caption, 8.5, va="bottom", ha="left")
    _text(figure, frame.left, frame.top + frame.height + 0.06, f"{right} →", 8, va="top", ha="left")
    _text(figure, frame.left - 0.06, frame.top - 0.02, f"{down}\n↓", 8, va="top", ha="right")


def _scale_bar(figure: Figure, frame: _Frame, unit: str) -> None:
    """Draw a bar of a round length under the right end of the picture."""
    length = frame.bar / frame.per_inch
    page_width, page_height = figure.get_size_inches()
    right = frame.left + (frame.width if frame.width >= 1.3 else max(frame.width, _SMALLEST_SIDE))
    y = frame.top + frame.height + 0.13
    figure.add_artist(
        Line2D(
            [(right - length) / page_width, right / page_width],
            [1 - y / page_height] * 2,
            color="black",
            linewidth=2.0,
            solid_capstyle="butt",
        )
    )
    _text(figure, right - length - 0.05, y, f"{frame.bar:g} {unit}", 7.5, va="center", ha="right")


def _round_length(largest: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above `largest`."""
    power = 10.0 ** math.floor(math.log10(largest))
    return max(step * power for step in (1, 2, 5) if step * power <= largest * (1 + 1e-9))


def _handles(rows: Sequence[Sequence[Panel]]) -> list[Line2D]:
    """Return what the legend shows: each kind of contour, the uppermost first, and the end of what was looked at."""
    panels = [panel for row in rows for panel in row]
    drawn: dict[str, tuple[Contour, bool]] = {}
    for contour in (contour for panel in panels for contour in panel.contours):
        anywhere = drawn.get(contour.name, (contour, False))[1]
        drawn[contour.name] = (contour, anywhere or bool(contour.inside.any()))
    handles = []
    for contour, anywhere in reversed(drawn.values()):
        label = _printable(contour.name + ("" if anywhere else " (empty)"))
        handles.append(Line2D([], [], color=contour.colour, linewidth=2.2, label=label))
    if any(panel.crop is not None for panel in panels):
        handles.append(Line2D([], [], color="0.4", linestyle=(0, (2, 1)), linewidth=1.6, label="y-crop"))
    return handles


def _add_headline(figure: Figure, sheet: Sheet, title: str, handles: list[Line2D]) -> None:
    page_width, page_height = figure.get_size_inches()
    left = _MARGIN + _DEPTH_LABEL
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    room = (page_width - left - _MARGIN) * sheet.dpi
    if handles:
        legend = figure.legend(
            handles=handles,
            loc="upper right" if title else "upper left",
            ncols=len(handles),
            frameon=False,
            borderaxespad=0.0,
            bbox_to_anchor=((1 - _MARGIN / page_width) if title else left / page_width, 1 - 0.08 / page_height),
            prop=FontProperties(family=_FONT, size=_LEGEND_SIZE),
            handlelength=1.4,
            columnspacing=1.4,
            borderpad=0.4 if title else 0.0,
        )
        room = legend.get_window_extent(renderer).x0 - (left + 0.2) * sheet.dpi
    if not title:
        return
    text = _text(figure, left, 0.12, title, 11, va="top", ha="left", weight="bold")
    whole = text.get_text()
    kept = len(whole)
    while kept > 1 and text.get_window_extent(renderer).width > room:
        kept -= 1
        text.set_text(whole[: (kept + 1) // 2] + "…" + whole[len(whole) - kept // 2 :])
