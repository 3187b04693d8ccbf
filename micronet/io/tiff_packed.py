"""Packed voxels of a TIFF, held against what the header claims before a library unpacks them without a bound."""

from __future__ import annotations

import math
import zlib
from lzma import LZMADecompressor
from pathlib import Path

from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from micronet.errors import FileError

__all__ = ["check_chunks", "check_packed"]

# What tifffile unpacks itself, through libraries that give as much as comes.
_DEFLATE = (8, 32946, 50013)
_LZMA = 34925
# LZMA asks for memory as the file says; its highest preset takes 65 MiB.
_MOST_LZMA = 128 << 20
# A tile may be larger than the image; a strip of a small image is at most its rows.
_SMALL_CHUNK = 16 << 20


def check_chunks(tif: TiffFile, series: TiffPageSeries, path: Path) -> None:
    """Raise FileError where strips or tiles lie over each other or are far larger than the image.

    Parameters
    ----------
    tif : TiffFile
    series : TiffPageSeries
        Packed.
    path : Path
        For the message.
    """
    first = series.keyframe
    chunk = math.prod(first.chunks) * (series.dtype.itemsize if series.dtype is not None else 1)
    if chunk > max(_SMALL_CHUNK, 4 * first.nbytes):
        raise FileError(f"'{path}': its header claims pieces of {chunk:,} bytes for images of {first.nbytes:,}")
    packed = sum(sum(page.databytecounts) for page in series.pages if page is not None)
    if packed > tif.filehandle.size:
        raise FileError(
            f"'{path}' is damaged: its strips take {packed:,} bytes, the file holds {tif.filehandle.size:,}"
        )


def check_packed(tif: TiffFile, page: TiffPage | TiffFrame | None, path: Path) -> None:
    """Raise FileError where a strip or tile of a page unpacks to more than its share of the image."""
    if page is None or page.compression not in (*_DEFLATE, _LZMA) or page.keyframe is None or page.dtype is None:
        return
    most = math.prod(page.keyframe.chunks) * page.dtype.itemsize
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        tif.filehandle.seek(offset)
        unpacker = LZMADecompressor(memlimit=_MOST_LZMA) if page.compression == _LZMA else zlib.decompressobj()
        unpacked = unpacker.decompress(tif.filehandle.read(count), most + 1)
        if len(unpacked) > most:
            raise FileError(f"'{path}' is damaged: {count:,} packed bytes of it unpack to more than {most:,}")
