"""Voxels of a TIFF that are packed, held against what the header claims before a library unpacks them.

tifffile and imagecodecs unpack what `PACKINGS` lists. A strip or tile may unpack to its share of the image and no more,
which is tried with a bound before it is done without one; a JPEG states its size, which is read first.
"""

from __future__ import annotations

import math
import zlib
from lzma import LZMADecompressor
from pathlib import Path

import imagecodecs
from tifffile import COMPRESSION, TiffFile, TiffFrame, TiffPage, TiffPageSeries

from micronet.errors import FileError
from micronet.io.checks import one_line
from micronet.io.tiff_jpeg import check_jpeg

__all__ = ["check_packed", "check_size"]

_CCITT = (2, 3, 4)
_LZW, _JPEG, _PACKBITS, _LZMA = 5, 7, 32773, 34925
_DEFLATE = (8, 32946, 50013)
_ZSTD = (50000, 34926)
# How many bytes of voxels a byte in the file can hold at most: more is a header that claims too much. LZW codes at most
# 4 kB in 12 bits, PackBits 128 bytes in two, JPEG 64 voxels of two bytes in one bit; a blank line of CCITT is one bit.
_MOST_PACKED = {
    **dict.fromkeys(_CCITT, 1 << 18),
    _LZW: 1 << 13,
    _JPEG: 1 << 11,
    _PACKBITS: 1 << 7,
    _LZMA: 1 << 15,
    **dict.fromkeys(_DEFLATE, 1 << 11),
    **dict.fromkeys(_ZSTD, 1 << 15),
}
_WHOLE_BYTES = (8, 16, 32, 64)
# LZMA asks for memory as the file says; its highest preset takes 65 MiB.
_MOST_LZMA = 128 << 20
# A tile may be larger than the image; a strip of a small image is at most its rows.
_SMALL_CHUNK = 16 << 20
# What a writer may leave between strips that are not packed.
_PADDING = 4096


def check_size(tif: TiffFile, series: TiffPageSeries, path: Path) -> None:
    """Raise FileError where the voxels that a TIFF claims cannot be in it, or are packed in a way that is not read.

    Before memory is taken for them.
    """
    keyframes = {id(page.keyframe): page.keyframe for page in series if page is not None and page.keyframe is not None}
    for keyframe in keyframes.values():
        _check_packing(keyframe, path)
    size = tif.filehandle.size
    # Several pieces are packed each in its own way; the tightest tells what the file can hold.
    most = max(_most_packed(keyframe) for keyframe in keyframes.values())
    if series.nbytes > size * most:
        raise FileError(f"'{path}': its header claims {series.nbytes:,} bytes of voxels, the file holds {size:,}")
    if any(_unpacked_apart(keyframe) for keyframe in keyframes.values()):
        _check_chunks(tif, series, path)
    for page in series:
        if page is None:
            raise FileError(f"'{path}': some of its pages are missing")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if not (isinstance(offset, int) and isinstance(count, int)) or min(offset, count) < 0:
                raise FileError(f"'{path}' is damaged: no voxels can begin at byte {offset} and take {count} bytes")
            if offset + count > size:
                raise FileError(
                    f"'{path}' is cut short: voxels go on to byte {offset + count:,}, the file holds {size:,}"
                )


def check_packed(tif: TiffFile, page: TiffPage | TiffFrame | None, path: Path) -> None:
    """Raise FileError where a strip or tile of a page unpacks to more than its share of the image."""
    if page is None or page.keyframe is None or not _unpacked_apart(page.keyframe):
        return
    keyframe = page.keyframe
    if keyframe.compression in _CCITT:  # unpacks to as many voxels as the header claims, whatever it holds
        return
    most = _piece_bytes(keyframe)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if keyframe.compression == 1:
            if count > most + _PADDING:
                raise FileError(f"'{path}' is damaged: a strip of {count:,} bytes, expected {most:,}")
        elif count:
            tif.filehandle.seek(offset)
            packed = tif.filehandle.read(count)
            if keyframe.compression == _JPEG:
                check_jpeg(packed, page.jpegtables, keyframe, path)
            else:
                _check_piece(packed, keyframe, most, path)


def _check_packing(keyframe: TiffPage, path: Path) -> None:
    bits, packing = keyframe.bitspersample, keyframe.compression
    if packing != 1 and (packing not in _MOST_PACKED or keyframe.jpegheader is not None):
        name = next((known.name for known in COMPRESSION if known == packing), packing)
        raise FileError(
            f"'{path}' is packed in a way that is not read ({name}): save it uncompressed, or with LZW, Deflate, "
            "Zstandard or PackBits"
        )
    if keyframe.dtype is None:
        raise FileError(
            f"'{path}' holds voxels of {bits} bits in sample format {int(keyframe.sampleformat)}, which are not read; "
            "save it with 8, 16 or 32 bits"
        )
    if (packing in _CCITT and bits != 1) or (keyframe.predictor != 1 and bits not in _WHOLE_BYTES):
        raise FileError(
            f"'{path}' is damaged: packing {packing} with predictor {int(keyframe.predictor)} holds no {bits} bits"
        )


def _unpacked_apart(keyframe: TiffPage) -> bool:
    """Whether strips are unpacked one by one, and so take more memory than bytes in the file."""
    return keyframe.compression != 1 or keyframe.bitspersample not in _WHOLE_BYTES


def _most_packed(keyframe: TiffPage) -> float:
    """Return how many bytes of voxels a byte in the file can hold."""
    if keyframe.compression != 1:
        return _MOST_PACKED[keyframe.compression]
    rows, width, samples = keyframe.imagelength, keyframe.imagewidth, keyframe.samplesperpixel
    stored = rows * _row_bytes(keyframe, width)
    itemsize = 1 if keyframe.dtype is None else keyframe.dtype.itemsize
    return max(1.0, rows * width * samples * itemsize / stored) if stored else 1.0


def _check_chunks(tif: TiffFile, series: TiffPageSeries, path: Path) -> None:
    """Raise FileError where strips or tiles lie over each other or are far larger than the image."""
    packed = 0
    for page in series:
        if page is None or page.keyframe is None or page.dtype is None:
            continue
        chunk, image = math.prod(page.chunks) * page.dtype.itemsize, page.nbytes
        if chunk > max(_SMALL_CHUNK, 4 * image):
            raise FileError(f"'{path}': its header claims pieces of {chunk:,} bytes for images of {image:,}")
        packed += sum(page.databytecounts)
    if packed > tif.filehandle.size:
        raise FileError(
            f"'{path}' is damaged: its strips take {packed:,} bytes, the file holds {tif.filehandle.size:,}"
        )


def _check_piece(packed: bytes, keyframe: TiffPage, most: int, path: Path) -> None:
    if keyframe.fillorder == 2:
        packed = bytes(imagecodecs.bitorder_decode(packed))
    try:
        size = _unpacked_size(packed, keyframe.compression, most + 1)
    except RuntimeError as error:  # what the codecs raise, also where the bound is not enough
        raise FileError(
            f"'{path}' is damaged: {len(packed):,} packed bytes of it do not unpack to {most:,} ({one_line(error)})"
        ) from error
    if size > most:
        raise FileError(f"'{path}' is damaged: {len(packed):,} packed bytes of it unpack to more than {most:,}")


def _unpacked_size(packed: bytes, packing: int, most: int) -> int:
    """Return to how many bytes something unpacks, at most `most`."""
    if packing in _DEFLATE:
        return len(zlib.decompressobj().decompress(packed, most))
    if packing == _LZMA:
        return len(LZMADecompressor(memlimit=_MOST_LZMA).decompress(packed, most))
    unpack = {_LZW: imagecodecs.lzw_decode, _PACKBITS: imagecodecs.packbits_decode}.get(
        packing, imagecodecs.zstd_decode
    )
    return len(unpack(packed, out=most))


def _piece_bytes(keyframe: TiffPage) -> int:
    """Return the bytes of a whole strip or tile when it is unpacked; rows begin at whole bytes."""
    if keyframe.is_tiled:
        return keyframe.tiledepth * keyframe.tilelength * _row_bytes(keyframe, keyframe.tilewidth)
    return keyframe.rowsperstrip * _row_bytes(keyframe, keyframe.imagewidth)


def _row_bytes(keyframe: TiffPage, width: int) -> int:
    bits = keyframe.bitspersample
    if not isinstance(bits, int):  # colours of different depth, which are refused
        bits = max(bits)
    samples = keyframe.samplesperpixel if keyframe.planarconfig == 1 else 1
    return -(-width * samples * bits // 8)
