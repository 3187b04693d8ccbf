"""What needs the disk, done in a thread beside the one that computes: the next tile is read, the last one written."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["Aside"]


class Aside:
    """Does one thing after the other in a thread of its own, in the order in which it was asked to.

    Parameters
    ----------
    works : bool
        If not, nothing is done ahead, and everything at once where it is asked for.
    """

    def __init__(self, works: bool) -> None:
        self._pool = ThreadPoolExecutor(1) if works else None
        self._coming: dict[Hashable, Future[Any]] = {}
        self._last: Future[None] | None = None

    def expect(self, key: Hashable, read: Callable[[], Any]) -> None:
        """Begin to read what `get` will ask for."""
        if self._pool is not None:
            self._coming[key] = self._pool.submit(read)

    def get(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """Return what `read` returns, or what was read ahead under this key; its errors are raised here."""
        coming = self._coming.pop(key, None)
        return read() if coming is None else coming.result()

    def later(self, job: Callable[[], None]) -> None:
        """Do something, after what was to be done later before, whose error is raised here."""
        if self._pool is None:
            job()
            return
        self.finish()
        self._last = self._pool.submit(job)

    def finish(self) -> None:
        """Wait until everything is done that was to be done later; its error is raised here."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def forget(self) -> None:
        """Give up what was read ahead and not asked for."""
        self._coming.clear()
