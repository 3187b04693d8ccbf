"""How plots are set up and written: one canvas without a window, one way to the disk."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from micronet.core.files import atomic_path

__all__ = ["figure_bytes", "new_figure", "tidy_axes", "write_figure"]

# Letters as such: in PDF as TrueType (42), which programs for drawing can change.
_TEXT_AS_TEXT: Any = {"svg.fonttype": "none", "svg.hashsalt": "micronet", "pdf.fonttype": 42}
# The same picture is the same file, and its record holds the date.
_UNDATED: Mapping[str, Mapping[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def new_figure(
    width: float, height: float, dpi: int | None = None, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty white figure of so many inches, drawn without a window."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def tidy_axes(axes: Axes) -> None:
    """Give axes a pale grid behind what is drawn, and no frame above and to the right."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(path: str | os.PathLike[str], figure: Figure, **how: Any) -> None:
    """Write a figure in the format of the path's suffix; whole or not at all.

    Letters are text in SVG and PDF, so that they can be changed and found. FileError if it cannot be written. A name
    that the font cannot show is drawn with boxes and not complained about.
    """
    how = {"format": Path(path).suffix[1:].lower()} | how
    if how["format"] in ("svg", "pdf"):
        how["metadata"] = _UNDATED[how["format"]]
    with atomic_path(path) as temporary, rc_context(_TEXT_AS_TEXT):
        _save(figure, temporary, how)


def figure_bytes(figure: Figure, **how: Any) -> bytes:
    """Return a figure as the bytes of a file; as `write_figure`."""
    stream = io.BytesIO()
    _save(figure, stream, how)
    return stream.getvalue()


def _save(figure: Figure, target: Path | BinaryIO, how: Mapping[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(target, **how)
