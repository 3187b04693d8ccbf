"""Signals that end the work: as an error would, and never lost where an exception would be."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Ended", "orderly_end", "postponed"]

_AGAIN_S = 0.1


class Ended(BaseException):
    """A signal asks us to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def postponed(number: int, frame: FrameType | None) -> bool:
    """Return whether a signal comes where an exception would be lost; it is then sent again in a moment.

    While LLVM compiles it calls Python back. What is raised there is printed and lost, and so is the compiled code.
    """
    while frame is not None and frame.f_globals.get("__name__") != "llvmlite.binding.executionengine":
        frame = frame.f_back
    if frame is None:
        return False
    again = threading.Timer(_AGAIN_S, _send, (number,))
    again.daemon = True
    again.start()
    return True


def _send(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)  # it wakes a main thread that waits
    else:
        signal.raise_signal(number)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the work as an error would, so that no half-written file stays behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        if postponed(number, frame):
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        for other in taken:  # a terminal that closes may send more than one
            signal.signal(other, signal.SIG_IGN)
        raise Ended(number)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # Only the main thread may, and what whoever started us wants ignored (nohup: SIGHUP) stays ignored.
    here = threading.current_thread() is threading.main_thread()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: before for number in numbers if here and (before := signal.getsignal(number)) in usual}
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, before in taken.items():
            signal.signal(number, before)
