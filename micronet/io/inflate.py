"""Read a known number of bytes from a raw, gzip or bzip2 stream, in no more memory than it really holds."""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from pathlib import Path
from typing import IO, BinaryIO, cast

from micronet.core.errors import FileError
from micronet.io.checks import one_line

__all__ = ["ENCODINGS", "check_raw_size", "inflate", "inflate_prefix", "open_encoded", "read_bytes"]

#: The encodings that can be read.
ENCODINGS = ("raw", "gzip", "bzip2")

# Pieces of this size keep the copying negligible beside the decompression.
_PIECE = 4 << 20
# How far to count what a file holds beyond its header's claim, for the message.
_MOST_SURPLUS = 64 << 20


def open_encoded(stream: BinaryIO, encoding: str) -> IO[bytes]:
    """Return `stream` itself for raw, else a file object that decompresses from where `stream` stands."""
    if encoding == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream, mode="rb"))
    if encoding == "bzip2":
        return bz2.BZ2File(stream)
    return stream


def check_raw_size(stream: BinaryIO, expected: int, path: Path, skip: int = 0) -> None:
    """Raise FileError unless exactly `expected` bytes follow from where `stream` stands, after `skip`."""
    present = os.fstat(stream.fileno()).st_size - stream.tell() - skip
    if present != expected:
        raise _wrong_size(path, expected, f"{max(present, 0):,}")


def inflate(stream: BinaryIO, encoding: str, expected: int, path: Path, *, skip: int = 0) -> bytearray:
    """Return exactly `expected` bytes, all that `stream` holds after `skip`.

    The memory grows with what has really been read, so a header that claims too much costs nothing.

    Raises
    ------
    FileError
        If the stream holds fewer or more bytes than expected, is cut short, or is damaged.
    """
    if encoding == "raw":
        check_raw_size(stream, expected, path, skip)
    source = open_encoded(stream, encoding)
    try:
        skipped = _count(source, skip)
        content = read_bytes(source, expected)
        if skipped < skip or len(content) < expected:
            raise _wrong_size(path, expected, f"{len(content):,}")
        surplus = _count(source, _MOST_SURPLUS)
    except EOFError as error:
        raise _cut_short(path, encoding) from error
    except (gzip.BadGzipFile, zlib.error, OSError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"'{path}' is damaged: its {encoding} data cannot be read ({one_line(error)})") from error
    if surplus:
        at_least = "at least " if surplus >= _MOST_SURPLUS else ""
        raise _wrong_size(path, expected, f"{at_least}{expected + surplus:,}")
    return content


def inflate_prefix(stream: BinaryIO, encoding: str, size: int, path: Path) -> bytes:
    """Return the first `size` bytes, or fewer where the stream ends; the stream is rewound."""
    start = stream.tell()
    try:
        return bytes(read_bytes(open_encoded(stream, encoding), size))
    except EOFError as error:
        raise _cut_short(path, encoding) from error
    except (gzip.BadGzipFile, zlib.error, OSError) as error:
        raise FileError(f"'{path}' is damaged: its {encoding} data cannot be read ({one_line(error)})") from error
    finally:
        stream.seek(start)


def read_bytes(source: IO[bytes], size: int) -> bytearray:
    """Return the next `size` bytes, or fewer where the data ends; memory grows with what is really there."""
    content = bytearray()
    while len(content) < size:
        piece = source.read(min(_PIECE, size - len(content)))
        if not piece:
            break
        content += piece
    return content


def _count(source: IO[bytes], limit: int) -> int:
    """Count the bytes that are left, up to `limit`, without keeping them."""
    counted = 0
    while counted < limit and (piece := source.read(min(_PIECE, limit - counted))):
        counted += len(piece)
    return counted


def _wrong_size(path: Path, expected: int, found: str) -> FileError:
    return FileError(f"'{path}': its header claims {expected:,} bytes of voxels, the file holds {found}")


def _cut_short(path: Path, encoding: str) -> FileError:
    return FileError(f"'{path}' is cut short: its {encoding} data ends before it is complete; copy it again")
