"""Which pages of a TIFF are the stack: writers that add slice after slice make a series of each piece.

tifffile, imageio and ITK read a file whose pages were written one by one, in chunks or appended later; Fiji shows all
its pages as one stack. tifffile gives each piece as a series of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tifffile import TiffFile, TiffPage, TiffPageSeries

from micronet.core.errors import FileError

__all__ = ["stack_series"]

# Series that tifffile finds by their pages, and not by what a maker of microscopes says of them.
_PIECES = ("shaped", "generic", "uniform")
_UNSTATED = "IQ"


def stack_series(tif: TiffFile, path: Path, *, described: bool) -> tuple[TiffPageSeries, list[str]]:
    """Return the series that holds the whole stack, and notes of what lies beside it.

    Parameters
    ----------
    tif : TiffFile
    path : Path
        For the messages.
    described : bool
        ImageJ or OME says what the pages are.

    Raises
    ------
    FileError
        If the file holds several images of which none is plainly the one to read.
    """
    found = list(tif.series)
    whole = [series for series in found if not _reduced(series)] or found
    first = whole[0]
    alike = [series for series in whole if _page(series) == _page(first)]
    beside = [series for series in found if series not in alike]
    larger = [series for series in beside if series in whole and not _smaller(series, first)]
    if larger or (len(alike) > 1 and described):
        kind = "different images" if larger else "images beside the one that its description tells of"
        raise FileError(
            f"'{path}' holds {kind}: {_listed([*alike, *beside])}; save the one to read as a file of its own"
        )
    joined, notes = _joined(alike, path) if len(alike) > 1 else (first, [])
    small = [*beside, *(level for series in alike for level in series.levels[1:])]
    if small:
        notes.append(f"smaller images in the file (thumbnails or levels of a pyramid) are not read: {_listed(small)}")
    return joined, notes


def _joined(alike: Sequence[TiffPageSeries], path: Path) -> tuple[TiffPageSeries, list[str]]:
    """Return the pages of all these series in the order of the file, as one series."""
    leads = {series.axes[:-2] for series in alike}
    stated = leads - {"", *_UNSTATED}
    if (
        any(series.kind not in _PIECES or series.is_truncated or series.axes[-2:] != "YX" for series in alike)
        or max(map(len, leads)) > 1
        or len(stated) > 1
    ):
        raise FileError(
            f"'{path}' holds {len(alike)} series of pages, and nothing says how they belong together: "
            f"{_listed(alike)}; save them as one stack, or one of them as a file of its own"
        )
    # A frame takes what tifffile last read for granted, which here may be the page of another piece.
    frames = [page for series in alike for page in series if page is not None]
    pages = sorted(
        (page if isinstance(page, TiffPage) else page.aspage() for page in frames), key=lambda page: page.index
    )
    axis = stated.pop() if stated else "I"
    shape = (len(pages), *alike[0].shape[-2:])
    joined = TiffPageSeries(pages, shape, alike[0].dtype, f"{axis}YX", kind="generic", squeeze=False)
    if all(series.axes == "YX" for series in alike):
        return joined, []
    return joined, [f"the stack lies in {len(alike)} pieces in the file, read one after the other: {_listed(alike)}"]


def _page(series: TiffPageSeries) -> tuple[object, ...]:
    page = series.keyframe
    return page.shape, page.axes, page.dtype, page.bitspersample, page.photometric


def _reduced(series: TiffPageSeries) -> bool:
    """Whether the file says that a series is a small copy, or keeps it below a page."""
    page = series.keyframe
    return page.is_reduced or page.is_subifd


def _smaller(series: TiffPageSeries, first: TiffPageSeries) -> bool:
    one, other = series.keyframe, first.keyframe
    sides = (one.imagelength, one.imagewidth), (other.imagelength, other.imagewidth)
    return sides[0] != sides[1] and all(a <= b for a, b in zip(*sides, strict=True))


def _listed(series: Sequence[TiffPageSeries]) -> str:
    kinds = Counter(f"{one.shape} ({one.axes}) of {one.keyframe.bitspersample} bits" for one in series)
    named = [f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items()]
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
