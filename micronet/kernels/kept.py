"""Memory that one training step leaves to the next: the system need not fill hundreds of megabytes with zeros anew.

A buffer is lent until the last array that lies in it is gone, whoever holds it; then it is kept for the next one who
asks. There are never more buffers than were in use at the same time.
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

_lock = threading.Lock()
_kept: list[NDArray[np.float32]] = []
# Arrays may go at any moment, in any thread: they append here, which needs no lock, and `lend` sorts them in.
_returned: deque[NDArray[np.float32]] = deque()


def aligned_zeros(length: int) -> NDArray[np.float32]:
    """Return `length` zeros, the first at the beginning of a cache line."""
    buffer = np.zeros(length + _LINE // 4, np.float32)
    first = -(buffer.ctypes.data // 4) % (_LINE // 4)
    return buffer[first : first + length]


class _Lent:
    """What the arrays in a buffer hold on to."""

    def __init__(self, buffer: NDArray[np.float32]) -> None:
        self._buffer, self._returned = buffer, _returned
        self.__array_interface__: dict[str, Any] = buffer.__array_interface__

    def __del__(self) -> None:
        self._returned.append(self._buffer)


def lend(length: int) -> tuple[NDArray[np.float32], bool]:
    """Return an array of at least `length` numbers, and whether they are all zeros, not what somebody left there."""
    with _lock:
        while _returned:
            _kept.append(_returned.popleft())
        _kept.sort(key=len)
        fitting = [place for place, buffer in enumerate(_kept) if len(buffer) >= length]
        if fitting:
            return np.asarray(_Lent(_kept.pop(fitting[0]))), False
        if _kept:  # too small, and in its place there is now a larger one
            _kept.pop()
    return np.asarray(_Lent(aligned_zeros(length))), True


def kept_array(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of this shape and any content, in memory that is kept for the next one."""
    length = math.prod(shape)
    return lend(length)[0][:length].reshape(shape)


def forget() -> None:
    """Give what nobody uses back to the system."""
    with _lock:
        _returned.clear()
        _kept.clear()
