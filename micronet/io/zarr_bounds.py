"""Chunks of a store, held against what they may unpack to before a codec makes room for it.

Headers of blosc, LZ4 and Zstandard state how much they hold, and codecs take that for true; the others state nothing,
and are unpacked as far as is allowed to see whether they end there.
"""

from __future__ import annotations

import asyncio
import bz2
import functools
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from micronet.core.errors import FileError

__all__ = ["Packing", "bounded_store"]

_TOLD = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
#: What filters may change of the size: numbers of one byte may be stored as those of eight, and a checksum follows.
_WIDER = 8
_SLACK = 1 << 16
_PIECE = 1 << 20
_LZMA_MEMORY = 1 << 28


@dataclass(frozen=True)
class Packing:
    """How the chunks of an array are packed.

    Parameters
    ----------
    name : str
        Of the store, as the person gave it.
    codecs : sequence of str
        In the order of packing, those of the inner chunks where there are shards.
    chunk_bytes : int
        Of a chunk, unpacked.
    inner : int
        Chunks in a shard; 0 without shards.
    index_bytes : int
        Of the index of a shard.
    index_first : bool
        Whether the index lies before the chunks.
    """

    name: str
    codecs: Sequence[str]
    chunk_bytes: int
    inner: int = 0
    index_bytes: int = 0
    index_first: bool = False

    @property
    def packed(self) -> list[str]:
        """The codecs that make chunks smaller, in the order of packing."""
        return [codec for codec in self.codecs if codec in _SIZES]

    def chunks_of(self, file: memoryview) -> Iterator[memoryview]:
        """Return what is packed by itself in a file: the file, or the chunks of a shard."""
        if not self.inner:
            yield file
            return
        index = file[: self.index_bytes] if self.index_first else file[-self.index_bytes :]
        places = np.frombuffer(index[: self.inner * 16], np.dtype("<u8"))
        for start, size in places[: len(places) // 2 * 2].reshape(-1, 2).tolist():
            if start + size <= len(file):  # others are refused, or not stored
                yield file[start : start + size]


def _check_unpacked(packing: Packing, file: memoryview, whole: bool) -> None:
    """Raise FileError if a chunk would unpack to more than it may hold.

    Parameters
    ----------
    packing : Packing
    file : memoryview
        What was read: a file, or, if not `whole`, a chunk of a shard or its index.
    whole : bool
    """
    limit = _WIDER * packing.chunk_bytes + _SLACK
    if not packing.packed:
        return
    size_of = _SIZES[packing.packed[-1]]
    trailer = 4 if packing.codecs[-1] == "crc32c" else 0
    for chunk in packing.chunks_of(file) if whole else [file]:
        size = size_of(chunk[: len(chunk) - trailer], limit)
        if size > limit:
            raise FileError(
                f"'{packing.name}' is damaged: a chunk of {packing.chunk_bytes:,} bytes claims to hold {size:,}"
            )


@functools.cache
def _store_class() -> Any:
    """Return the class of stores that look at what they read; made when zarr, an extra, is there."""
    part = import_module("zarr.abc.store").RangeByteRequest
    wrapper: Any = import_module("zarr.storage").WrapperStore

    class BoundedStore(wrapper):  # type: ignore[misc]
        packing: Packing

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found = await super().get(key, prototype, byte_range)
            inside = byte_range is None or (self.packing.inner and isinstance(byte_range, part))
            if found is not None and inside and key.rsplit("/", 1)[-1] not in _TOLD:
                view = found.as_numpy_array().view(np.uint8).data
                await asyncio.to_thread(_check_unpacked, self.packing, view, byte_range is None)
            return found

    return BoundedStore


def bounded_store(folder: Path, packing: Packing) -> Any:
    """Return a store to read an array from, which raises FileError where a chunk would unpack to more than it may."""
    store = _store_class()(import_module("zarr.storage").LocalStore(folder, read_only=True))
    store.packing = packing
    return store


def _number(data: memoryview, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size], "little")


def _of_blosc(data: memoryview, limit: int) -> int:
    return _number(data, 4, 4)


def _of_lz4(data: memoryview, limit: int) -> int:
    return _number(data, 0, 4)


def _of_zstd(data: memoryview, limit: int) -> int:
    """Return what the frame header says (RFC 8878, 3.1.1.1); 0 where it says nothing."""
    if len(data) < 6 or _number(data, 0, 4) != 0xFD2FB528:
        return 0
    descriptor = data[4]
    single = descriptor >> 5 & 1
    field = (single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    return _number(data, start, field) + (256 if field == 2 else 0)


def _of_deflate(data: memoryview, limit: int) -> int:
    # Deflate makes at most 1,032 bytes of one.
    if len(data) * 1032 <= limit:
        return 0
    return _unpacked(lambda: zlib.decompressobj(wbits=47), data, limit)


def _of_bz2(data: memoryview, limit: int) -> int:
    return _unpacked(bz2.BZ2Decompressor, data, limit)


def _of_lzma(data: memoryview, limit: int) -> int:
    return _unpacked(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), data, limit)


def _unpacked(start: Callable[[], Any], data: memoryview, limit: int) -> int:
    """Return how many bytes come out of all streams, at most one more than the limit; codecs refuse what is damaged."""
    found, fed = 0, bytes(data)
    with suppress(zlib.error, lzma.LZMAError, OSError):
        while fed and found <= limit:
            decompressor = start()
            while found <= limit and not decompressor.eof:
                out = decompressor.decompress(fed, min(_PIECE, limit + 1 - found))
                found += len(out)
                fed = getattr(decompressor, "unconsumed_tail", b"")
                if not out and not fed:
                    return found
            fed = decompressor.unused_data
    return found


_SIZES = {
    "blosc": _of_blosc,
    "lz4": _of_lz4,
    "zstd": _of_zstd,
    "gzip": _of_deflate,
    "zlib": _of_deflate,
    "bz2": _of_bz2,
    "lzma": _of_lzma,
}
