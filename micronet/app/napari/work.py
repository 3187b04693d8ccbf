"""Work in a thread, as those see it who wait for it. It knows nothing of napari nor Qt."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, NamedTuple

__all__ = ["Progress", "StoppedError", "Tell", "Work"]

#: Receives what there is to show, and raises `StoppedError` when nobody wants it any more.
Tell = Callable[[Any], None]


class StoppedError(Exception):
    """The work is not wanted any more."""


class Progress(NamedTuple):
    """What is done, of how much, and a word on it."""

    done: int
    whole: int
    what: str


class Work:
    """What a piece of work has told so far, how it ended, and a way to stop it.

    Parameters
    ----------
    function : callable
        Receives a `Tell`; called by `run`, in whatever thread.
    """

    def __init__(self, function: Callable[[Tell], Any]) -> None:
        self._function = function
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._stop, self._end = Event(), Event()
        self.result: Any = None
        self.error: Exception | None = None

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop; what it tells no longer counts then."""
        return self._stop.is_set()

    @property
    def ended(self) -> bool:
        """Whether `run` has returned; it tells nothing from then on."""
        return self._end.is_set()

    def stop(self) -> None:
        """Ask it to stop, which it does when it tells of something next."""
        self._stop.set()

    def run(self) -> None:
        """Do the work; `result` or `error` says how it ended, neither where it was stopped."""
        try:
            self.result = self._function(self._tell)
        except StoppedError:
            pass
        except Exception as error:  # it belongs to whoever waits
            self.error = error
        finally:
            self._end.set()

    def told(self) -> list[Any]:
        """Return what was told since the last call."""
        found = []
        while True:
            try:
                found.append(self._told.get_nowait())
            except Empty:
                return found

    def _tell(self, event: Any) -> None:
        if self.stopped:
            raise StoppedError
        self._told.put(event)
