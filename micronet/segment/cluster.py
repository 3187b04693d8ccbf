"""Who does the steps of a segmentation of an OME-Zarr: this process, or the workers of a Dask cluster.

The library dask.distributed is an extra; of it futures only. A step is a function of a folder and a number: it reads
from the shared disk, writes whole pieces to it and returns what it counted. So a worker that dies takes nothing with
it, and what it was at is done again by another.
"""

from __future__ import annotations

import functools
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from micronet.core.errors import FileError, InputError, MicronetError, setting
from micronet.core.ram import SHARE, Allowance, available_memory, size
from micronet.segment import worker_setup
from micronet.segment.checkpoint import work_of
from micronet.segment.plane_work import Runner
from micronet.segment.store_work import StoreWork

__all__ = ["STEPS", "Crew", "crew_of", "do_step", "library"]

#: What a worker does.
STEPS = (
    {"copy", "sums", "squares", "write", "halve"}
    | {"encode", "down", "bottom", "up", "decode"}  # of tile_work
    | {"sample", "within", "across", "sums_evened", "squares_evened", "look", "regrid", "tile", "mix"}  # box_work
    | {"blend"}  # window_work
)
# A step that fails is tried so often again, after a while: a disk that is shared may show a file late.
_RETRIES, _PAUSE = 2, 0.5
# How many workers may die over one step before it is given up.
_DEATHS = 10
_PATIENCE = 30.0
# Dask tells of a connection that closes as of something critical.
_SILENT = logging.CRITICAL + 1


def library() -> Any:
    """Return the module distributed; InputError, which says what to install, where it is missing."""
    try:
        version("distributed")
    except PackageNotFoundError:
        raise InputError(
            f"a cluster needs the package distributed: pip install 'distributed>=2025.1' {setting('cluster')}"
        ) from None
    return import_module("distributed")


class Crew:
    """The workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
    say : callable
        Receives what becomes of workers, a line at a time.
    """

    def __init__(self, client: Any, say: Callable[[str], None]) -> None:
        self._client, self._say = client, say
        self.lost = 0
        #: Where a browser shows what it does; empty where bokeh is not installed.
        self.dashboard = str(client.dashboard_link) if find_spec("bokeh") else ""
        self._closing = False
        self._there = set[Any]()
        client.subscribe_topic("all", self._hear)
        self._there.update(self.workers)

    @property
    def record(self) -> dict[str, int]:
        """What a record says of them: how many processes there are, and how many workers were lost."""
        return {"processes": self.processes, "lost": self.lost}

    @property
    def workers(self) -> dict[str, Any]:
        """What the scheduler knows of each, by its address."""
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    @property
    def processes(self) -> int:
        """How many steps are done at the same time now."""
        return max(1, sum(int(worker["nthreads"]) for worker in self.workers.values()))

    def allowance(self, max_ram: int | None, program: int) -> Allowance:
        """Return how much memory each process may take, of which a program takes some."""
        if max_ram is not None:
            return Allowance.of(max_ram, program)
        limits = [
            int(worker["memory_limit"]) // max(int(worker["nthreads"]), 1)
            for worker in self.workers.values()
            if worker.get("memory_limit")
        ]
        if not limits:  # a cluster of this machine
            available = available_memory()
            if available is None:
                return Allowance.of(None, program)
            limits = [available // (self.processes + 1)]
        allowed = int(SHARE * min(limits))
        return Allowance(allowed, f"{size(allowed)} allowed in each process ({SHARE:.0%} of its share)", program)

    def wait(self) -> None:
        """Wait until there is a worker, and say so."""
        if not self.workers:
            self._say("  cluster     no worker yet: waiting for the first one")
            while not self.workers:
                time.sleep(1)

    def check(self, folder: Path) -> None:
        """Raise InputError where a worker does not see the folder, or has another version."""
        told = self._client.run(_refusal, str(folder))
        for address, refusal in sorted(told.items()):
            if refusal:
                raise InputError(f"worker {address}: {refusal}")

    def runner(self, folder: Path, call: str, on_tile: Callable[[], None]) -> Runner:
        """Return a runner that has the steps done by workers; `on_tile` is called after each that ticks.

        `call` tells what the folder is of now: workers outlive a call, and may know it from an earlier one.
        """
        threads = torch.get_num_threads()

        def run(step: str, count: int, *arguments: Any, ticks: bool = False) -> list[Any]:
            todo = functools.partial(
                do_step, folder=str(folder), step=step, arguments=arguments, threads=threads, call=call
            )
            futures = self._client.map(todo, range(count), pure=False, retries=_RETRIES)
            found: list[Any] = [None] * count
            try:
                for future in library().as_completed(futures):
                    number, result = future.result()
                    found[number] = result
                    future.release()
                    if ticks:
                        on_tile()
            except MicronetError:
                self._stop(futures)
                raise
            except Exception as error:
                self._stop(futures)
                raise _told(error, step) from error
            return found

        return run

    def close(self) -> None:
        """Tell no more of workers that go."""
        self._closing = True
        self._client.unsubscribe_topic("all")

    def _stop(self, futures: list[Any]) -> None:
        """Cancel what has not begun, and wait for what has: it still writes."""
        self._client.cancel(futures)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and any(self._client.processing().values()):
            time.sleep(0.1)

    def _hear(self, event: tuple[float, Any]) -> None:
        told = event[1] if isinstance(event[1], dict) else {}
        action, worker = told.get("action"), told.get("worker")
        if action == "add-worker":
            self._there.add(worker)
        if self._closing or action != "remove-worker" or worker not in self._there:
            return  # of one that has gone already Dask may tell again
        self._there.discard(worker)
        if not self._there:
            self._say("  cluster     no worker is left: waiting for others; what is finished is kept")
        if told.get("expected"):
            return
        self.lost += 1
        begun = len(told.get("processing-tasks") or ())
        again = f"; {begun} of its tiles are done again by others" if begun else ""
        self._say(f"  cluster     worker {worker} is lost{again}")


@contextmanager
def crew_of(cluster: str, say: Callable[[str], None]) -> Iterator[Crew]:
    """Give the workers of a cluster, and end those that were started for it.

    Parameters
    ----------
    cluster : str
        How many processes to start on this machine; or the address of a scheduler (``tcp://..``), or its file.
    say : callable

    Raises
    ------
    InputError
        If dask.distributed is missing, or there is no scheduler.
    """
    distributed, dask = library(), import_module("dask")
    with ExitStack() as stack:
        stack.enter_context(_quiet(dask))
        if cluster.isdecimal():
            client = stack.enter_context(_local(distributed, int(cluster)))
        else:
            client = stack.enter_context(_joined(distributed, cluster))
        crew = Crew(client, say)
        stack.callback(crew.close)
        crew.wait()
        shown = crew.dashboard or "not there (pip install bokeh)"
        count = len(crew.workers)
        words = f"{count} worker{'s' if count > 1 else ''} of {client.scheduler.address}"
        say(f"  cluster     {words}, dashboard: {shown}")
        yield crew


def do_step(
    number: int, folder: str, step: str, arguments: tuple[Any, ...], threads: int, call: str = ""
) -> tuple[int, Any]:
    """Do a step, in a worker; return its number and what it gives."""
    if step not in STEPS:
        raise InputError(f"'{step}' is no step")
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    try:
        return number, getattr(_work(folder, call), step)(number, *arguments)
    except FileError:
        time.sleep(_PAUSE)
        raise


@functools.lru_cache(maxsize=1)
def _work(folder: str, call: str) -> StoreWork:
    return work_of(Path(folder), call)


def _refusal(folder: str) -> str | None:
    """Return, in a worker, why it cannot do its work."""
    try:
        work_of(Path(folder))
    except (MicronetError, OSError) as error:
        return f"{socket.gethostname()}: {error}"
    return None


@contextmanager
def _local(distributed: Any, processes: int) -> Iterator[Any]:
    """Start workers on this machine, of one thread each; the engine's threads are counted apart."""
    # The plan bounds the memory of each process: Dask need not pause or end one.
    with (
        distributed.LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            preload=[worker_setup.__name__],
            dashboard_address=":0",
            silence_logs=_SILENT,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextmanager
def _joined(distributed: Any, cluster: str) -> Iterator[Any]:
    """Join the cluster of a scheduler that somebody started."""
    how = {"address": cluster}
    if not re.match(r"[a-z]+://", cluster):
        if not Path(cluster).is_file():
            raise FileError(f"'{cluster}' is no scheduler file: is the scheduler running? {setting('cluster')}")
        how = {"scheduler_file": cluster}
    try:
        client = distributed.Client(**how, timeout=_PATIENCE)
    except Exception as error:  # whatever the transport raises, or a file that is no JSON
        raise InputError(f"no scheduler answers at '{cluster}' ({error}) {setting('cluster')}") from error
    with client:
        yield client


@contextmanager
def _quiet(dask: Any) -> Iterator[None]:
    """Keep Dask's own words, of which ours tell what matters, off the terminal."""
    logger = logging.getLogger("distributed")
    level = logger.level
    with dask.config.set(
        {"distributed.scheduler.allowed-failures": _DEATHS, "distributed.logging.distributed": "critical"}
    ):
        logger.setLevel(_SILENT)
        try:
            yield
        finally:
            logger.setLevel(level)


def _told(error: Exception, step: str) -> Exception:
    """Return an error of Dask's as one line."""
    name = type(error).__name__
    if name == "KilledWorker":
        return InputError(
            f"step '{step}' ended every worker that tried it: was their memory taken by others? allow less "
            f"{setting('max_ram')}"
        )
    if name in ("CommClosedError", "FutureCancelledError", "CancelledError", "TimeoutError"):
        return InputError(f"the cluster's scheduler has gone in step '{step}' ({name})")
    return error
