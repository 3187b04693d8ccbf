"""Run a kernel on several parts of a volume at once.

Kernels release Python's global lock, so ordinary threads do: no threading layer of numba's is started, any number of
callers may work side by side, and one thread means no other thread and the same order of additions every time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import Any

__all__ = ["Team", "physical_cores", "split"]


def physical_cores() -> int:
    """Return how many cores this process may use, hyper-threads counted once where the system tells."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = set()
    try:
        for cpu in os.sched_getaffinity(0):
            folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
            with open(f"{folder}/physical_package_id") as package, open(f"{folder}/core_id") as core:
                cores.add((package.read(), core.read()))
    except (OSError, AttributeError):
        return usable
    return max(1, len(cores))


def split(length: int, parts: int, step: int = 1) -> list[tuple[int, int]]:
    """Cut 0 .. length into at most `parts` ranges of about equal length that start at multiples of `step`."""
    cuts = sorted({round(length * part / parts / step) * step for part in range(parts)} | {length})
    return [(a, b) for a, b in pairwise(cuts) if a < b <= length]


class Team:
    """A number of threads that work on parts of the same job; a context manager."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, job: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return ``[job(*part) for part in parts]``, computed together; the first error is raised."""
        if self._pool is None or len(parts) == 1:
            return [job(*part) for part in parts]
        others = [self._pool.submit(job, *part) for part in parts[1:]]
        try:
            first = job(*parts[0])
        finally:
            for other in others:
                other.exception()  # waits: nobody may still write into memory that the caller gives up
        return [first, *(other.result() for other in others)]
