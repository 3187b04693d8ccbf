"""The chain of pages of a TIFF, followed without a library: one that runs in a circle would never end there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from micronet.errors import FileError

__all__ = ["check_pages"]

# Byte order, then 42 for a classic TIFF and 43 for one with 64-bit offsets.
_CLASSIC, _BIG = 42, 43


def check_pages(stream: BinaryIO, path: Path) -> int:
    """Return the number of pages of a TIFF.

    Raises
    ------
    FileError
        If the file is no TIFF, or its chain of pages leaves the file or comes back to a page it had.
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
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise FileError(f"'{path}' is damaged: its pages run in a circle after {len(seen)}")
        seen.add(offset)
        count = _number(stream, offset, count_form, size)
        following = (
            None
            if count is None
            else _number(stream, offset + struct.calcsize(count_form) + count * entry, offset_form, size)
        )
        if following is None:
            raise FileError(f"'{path}' is cut short or damaged: page {len(seen)} lies beyond its end ({size:,} bytes)")
        offset = following
    if not seen:
        raise FileError(f"'{path}' is a TIFF without an image")
    return len(seen)


def _number(stream: BinaryIO, offset: int, form: str, size: int) -> int | None:
    length = struct.calcsize(form)
    if offset + length > size:
        return None
    stream.seek(offset)
    return int(struct.unpack(form, stream.read(length))[0])
