"""What a JPEG in a TIFF states of itself, read before a library takes memory for it."""

from __future__ import annotations

import struct
from pathlib import Path

from tifffile import TiffPage

from micronet.core.errors import FileError

__all__ = ["check_jpeg"]

# Baseline, extended and progressive, in Huffman codes; lossless and arithmetic ones are rare, and less well tried.
_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC, *_FRAMES}
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
# A progressive JPEG of one channel has six scans or ten, each of which goes through all of it.
_MOST_SCANS = 20


def check_jpeg(content: bytes, tables: bytes | None, keyframe: TiffPage, path: Path) -> None:
    """Raise FileError unless a JPEG is as large as its strip or tile.

    Parameters
    ----------
    content : bytes
        The strip or tile.
    tables : bytes or None
        Of the TIFF, which the JPEG may do without.
    keyframe : TiffPage
        What the header claims.
    path : Path
        For the message.
    """
    if tables and _frame(tables, path) is not None:
        raise FileError(f"'{path}' is damaged: its JPEG tables hold an image")
    frame = _frame(content, path)
    if frame is None:
        raise FileError(f"'{path}' is damaged: a JPEG of it holds no image")
    precision, rows, width, samples = frame
    of_image = (
        (keyframe.tilelength, keyframe.tilewidth) if keyframe.is_tiled else (keyframe.rowsperstrip, keyframe.imagewidth)
    )
    expected = keyframe.samplesperpixel if keyframe.planarconfig == 1 else 1
    if not (0 < rows <= of_image[0] and 0 < width <= of_image[1]) or samples != expected:
        raise FileError(
            f"'{path}' is damaged: a JPEG of {rows} x {width} x {samples} voxels in a strip or tile of "
            f"{of_image[0]} x {of_image[1]} x {expected}"
        )
    if precision != keyframe.bitspersample:
        raise FileError(
            f"'{path}' is damaged: a JPEG of {precision} bits, where the header claims {keyframe.bitspersample}"
        )
    scans = content.count(bytes((0xFF, _SCAN)))
    if scans > _MOST_SCANS:
        raise FileError(f"'{path}': a JPEG of it takes {scans:,} scans, at most {_MOST_SCANS} are read")


def _frame(content: bytes, path: Path) -> tuple[int, int, int, int] | None:
    """Return precision, rows, columns and samples of a JPEG, None where it holds tables alone."""
    at = 2
    try:
        if content[:2] != bytes((0xFF, _START)):
            raise ValueError("it does not begin like one")
        while True:
            lead, marker = content[at], content[at + 1]
            if lead != 0xFF:
                raise ValueError(f"no marker at byte {at}")
            if marker == 0xFF:  # a filler
                at += 1
                continue
            if marker == _END:
                return None
            length = struct.unpack_from(">H", content, at + 2)[0]
            if marker in _OTHER_FRAMES or marker == _SCAN or length < 2:
                raise ValueError(f"marker {marker:#x} at byte {at}")
            if marker in _FRAMES:
                precision, rows, width, samples = struct.unpack_from(">BHHB", content, at + 4)
                return precision, rows, width, samples
            at += 2 + length
    except (ValueError, IndexError, struct.error) as error:
        raise FileError(
            f"'{path}': a JPEG of it is damaged, lossless or of a kind that is not read ({error})"
        ) from error
