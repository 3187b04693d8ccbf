"""A training that ``torchrun`` starts as several processes: which of them this one is, and what the others do."""

from __future__ import annotations

import os
import signal

from micronet.core.errors import InputError
from micronet.core.threads import physical_cores
from micronet.training.ranks import Processes, RankLostError
from micronet.training.trainer import Trainer

__all__ = ["compute_for_the_first", "joined", "place_of_process", "usual_threads"]

_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def place_of_process() -> tuple[int, int]:
    """Return the number of this process, from 0, and of all that train together; (0, 1) where it is alone."""
    if not all(name in os.environ for name in _SET_BY_TORCHRUN):
        return 0, 1
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        raise InputError(f"RANK and WORLD_SIZE are whole numbers, found {os.environ['RANK']!r}") from None


def usual_threads() -> int:
    """Return the threads of a process where nobody says: its share of the cores of this machine."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "1") if place_of_process()[1] > 1 else "1"
    return max(1, physical_cores() // max(1, int(here) if here.isdecimal() else 1))


def joined(trainer: Trainer) -> Processes | None:
    """Let the other processes share the steps of a trainer; None where there are none. Of the first process."""
    rank, size = place_of_process()
    if size == 1:
        return None
    processes = Processes(rank, size)
    trainer.ranks = processes
    return processes


def compute_for_the_first(trainer: Trainer) -> int:
    """Compute what the first process asks for until it is done or gone; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; what it means the first one decides
    try:
        with Processes(*place_of_process()) as processes:
            processes.follow(trainer)
    except RankLostError:
        pass  # the first one says what there is to say
    return 0
