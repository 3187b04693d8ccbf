"""What is checked of a TIFF before anything is unpacked: its pages, its packings, its sizes."""

from __future__ import annotations

import math
import os
import struct
import zlib
from lzma import LZMADecompressor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
from tifffile import COMPRESSION, TiffFile, TiffFrame, TiffPage, TiffPageSeries

from micronet.core.errors import FileError
from micronet.io.checks import one_line
from micronet.io.tiff_jpeg import check_jpeg

__all__ = ["Pages", "check_packed", "check_pages", "check_size"]


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
    size = os.fstat(stream.fileno()).st_size
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
