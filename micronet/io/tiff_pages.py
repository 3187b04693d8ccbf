"""What a library would not survive in a TIFF, looked for without it.

A chain of pages that runs in a circle would never end, pages that lie over each other would take hours, and numbers are
ten times as large in memory as in the file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from micronet.errors import FileError

__all__ = ["Pages", "check_pages"]

# Byte order, then 42 for a classic TIFF and 43 for one with 64-bit offsets.
_CLASSIC, _BIG = 42, 43
# The types whose values are numbers, with their size; others stay bytes.
_NUMBER_BYTES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# A page of 260,000 strips needs as much; no microscope cuts one into more.
_MOST_NUMBERS = 2 << 20
# tifffile takes 25 µs for each; no volume has as many slices.
_MOST_PAGES = 100_000
# What a page must share with the first for its voxels to be unpacked like that: size, depth, packing, photometric,
# order of bits, samples, rows a strip, planes, predictor, tile, sample format.
_MUST_AGREE = (256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 339)


class Pages(NamedTuple):
    """The chain of pages of a TIFF."""

    number: int
    alike: bool  #: voxels are stored in the same way in all of them


def check_pages(stream: BinaryIO, path: Path) -> Pages:
    """Return how many pages a TIFF has and whether they are alike.

    Raises
    ------
    FileError
        If the file is no TIFF, its chain of pages leaves the file or comes back to a page it had, its pages lie over
        each other, or one of them holds more numbers than a page can need.
    """
    size = path.stat().st_size
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = struct.unpack(f"{order}H", start[2:4])[0] if order and len(start) >= 8 else None
    if version == _CLASSIC:
        offset_form, count_form, entry = f"{order}I", f"{order}H", 12
        offset = struct.unpack(offset_form, start[4:8])[0]
    elif version == _BIG and len(start) == 16:
        offset_form, count_form, entry = f"{order}Q", f"{order}Q", 20
        offset = struct.unpack(offset_form, start[8:16])[0]
    else:
        raise FileError(f"'{path}' is no TIFF that can be read: it starts with {start[:4]!r}")
    tag_form = f"{order}HHI4s" if version == _CLASSIC else f"{order}HHQ8s"
    seen: set[int] = set()
    tags = 0
    first: dict[int, tuple[int, bytes]] | None = None
    alike = True
    while offset:
        if offset in seen:
            raise FileError(f"'{path}' is damaged: its pages run in a circle after {len(seen)}")
        seen.add(offset)
        count = _number(stream, offset, count_form, size)
        first_tag = offset + struct.calcsize(count_form)
        following = None if count is None else _number(stream, first_tag + count * entry, offset_form, size)
        if count is None or following is None:
            raise FileError(f"'{path}' is cut short or damaged: page {len(seen)} lies beyond its end ({size:,} bytes)")
        tags += count
        if len(seen) > _MOST_PAGES or tags * entry > size:
            what = "lie over each other" if tags * entry > size else "are more than are read"
            raise FileError(f"'{path}' is damaged: {len(seen):,} of its pages {what}")
        stream.seek(first_tag)
        stated = {}
        for code, kind, length, value in struct.iter_unpack(tag_form, stream.read(count * entry)):
            if length == 1 and code in _MUST_AGREE:
                stated[code] = kind, value
            if length * _NUMBER_BYTES.get(kind, 0) > _MOST_NUMBERS:
                raise FileError(f"'{path}' is damaged: tag {code} of page {len(seen)} holds {length:,} numbers")
        first = stated if first is None else first
        alike &= stated == first
        offset = following
    if not seen:
        raise FileError(f"'{path}' is a TIFF without an image")
    return Pages(len(seen), alike)


def _number(stream: BinaryIO, offset: int, form: str, size: int) -> int | None:
    length = struct.calcsize(form)
    if offset + length > size:
        return None
    stream.seek(offset)
    return int(struct.unpack(form, stream.read(length))[0])
