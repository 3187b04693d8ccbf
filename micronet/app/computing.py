"""Who computes, and with how many threads; all that the terminal has to do with PyTorch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from tqdm import tqdm

from micronet.core.errors import printable
from micronet.core.threads import physical_cores
from micronet.networks import engine

__all__ = ["choose_engine", "set_engine", "set_threads"]


def set_threads(threads: int | None) -> int:
    """Let PyTorch and the numba engine work with this many threads (default: physical cores); return the number."""
    number = threads or physical_cores()
    torch.set_num_threads(number)
    return number


def set_engine(choice: engine.Engine, work: Iterable[engine.Work], device: str = "cpu") -> str:
    """Choose who computes, compile it if this is the first such work here, and return its name for the person.

    What is compiled is kept for the next time; a line and a bar say so while it happens, and a line where it is not.
    """
    name, make_ready = choose_engine(choice, work, device)
    make_ready()
    return name


def choose_engine(
    choice: engine.Engine, work: Iterable[engine.Work], device: str = "cpu"
) -> tuple[str, Callable[[], None]]:
    """Choose who computes as `set_engine` does, and return what compiles it, for when there is something to compute."""
    engine.choose(choice)
    work = sorted(work) if device == "cpu" else []

    @cache
    def make_ready() -> None:
        if missing := [kind for kind in work if not engine.is_ready(kind)]:
            _compile(missing)

    return "PyTorch" if choice == "torch" or not work or not engine.available() else "numba engine", make_ready


def _compile(missing: Sequence[engine.Work]) -> None:
    _say("compiling the engine for this machine, once; this takes about half a minute")
    form = "{l_bar}{bar}| {elapsed}"
    with tqdm(total=100, leave=False, disable=None, unit="%", bar_format=form) as bar, _ticking(bar):
        for done, kind in enumerate(missing):

            def progress(fraction: float, done: int = done) -> None:
                bar.update(round(100 * (done + fraction) / len(missing)) - bar.n)

            engine.make_ready(kind, progress)
    if reason := engine.unkept():
        _say(
            f"the compiled engine is not kept ({reason}): the next start compiles it again; "
            "NUMBA_CACHE_DIR names another folder"
        )


def _say(line: str) -> None:
    tqdm.write(printable(line), file=sys.stderr)  # above a bar of the work that waits for it


@contextmanager
def _ticking(bar: Any) -> Iterator[None]:
    """Redraw a bar every second while a block lasts: its clock shows that it is not stuck."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(1.0):
            bar.refresh()

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()
