"""Memory that a pass or training step leaves to the next: the system need not fill hundreds of megabytes with zeros.

A buffer is lent until the last array that lies in it is gone, whoever holds it; then it is kept for the next one who
asks, if it is not much too large for it. There are never more buffers than were in use at the same time: for a new one
the largest that was too small makes way, or the one that lay idle longest.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["aligned_zeros", "forget", "kept_array", "lend"]

#: Bytes of a cache line: a vector that starts within one is read and written in two parts.
_LINE = 64

_ROOM = 4  # how many times as long as asked for a buffer may be

#: What a buffer was last used for; None says that anything may lie in it.
Layout = tuple[int, ...] | None

_lock = threading.Lock()
_kept: list[tuple[NDArray[np.float32], Layout]] = []  # the one that came back last is the last
_lent = [0, 0]  # how many are lent, and the most that ever were
# Arrays may go at any moment, in any thread: they append here, which needs no lock, and `lend` sorts them in.
_returned: deque[tuple[NDArray[np.float32], Layout]] = deque()


def aligned_zeros(length: int) -> NDArray[np.float32]:
    """Return `length` zeros, the first at the beginning of a cache line."""
    buffer = np.zeros(length + _LINE // 4, np.float32)
    first = -(buffer.ctypes.data // 4) % (_LINE // 4)
    return buffer[first : first + length]


class _Lent:
    """What the arrays in a buffer hold on to."""

    def __init__(self, buffer: NDArray[np.float32], layout: Layout) -> None:
        self._buffer, self._layout, self._returned = buffer, layout, _returned
        self.__array_interface__: dict[str, Any] = buffer.__array_interface__

    def __del__(self) -> None:
        self._returned.append((self._buffer, self._layout))


def _take_back() -> None:
    while _returned:
        _kept.append(_returned.popleft())
        _lent[0] -= 1


def lend(length: int, layout: Layout = None) -> tuple[NDArray[np.float32], bool]:
    """Return an array of at least `length` numbers, and whether it is all zeros or was last used in this layout."""
    with _lock:
        _take_back()
        _lent[0] += 1
        fitting = [
            (len(buffer), before != layout, place)
            for place, (buffer, before) in enumerate(_kept)
            if length <= len(buffer) <= _ROOM * length
        ]
        if fitting:
            buffer, before = _kept.pop(min(fitting)[2])
            return np.asarray(_Lent(buffer, layout)), layout is not None and before == layout
        _lent[1] = max(_lent)
        smaller = [(len(buffer), place) for place, (buffer, _) in enumerate(_kept) if len(buffer) < length]
        if smaller:
            del _kept[max(smaller)[1]]
        elif _lent[0] + len(_kept) > _lent[1]:
            del _kept[0]
    return np.asarray(_Lent(aligned_zeros(length), layout)), True


def kept_array(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of this shape and any content, in memory that is kept for the next one."""
    length = math.prod(shape)
    return lend(length)[0][:length].reshape(shape)


def forget() -> None:
    """Give what nobody uses back to the system."""
    with _lock:
        _take_back()
        _lent[1] = _lent[0]
        _kept.clear()
