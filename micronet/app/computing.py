"""Who computes, and with how many threads; all that the terminal has to do with PyTorch."""

from __future__ import annotations

import sys

import torch
from tqdm import tqdm

from micronet.core.errors import printable
from micronet.core.threads import physical_cores
from micronet.networks import engine
from micronet.networks.registry import Network

__all__ = ["set_engine", "set_threads"]


def set_threads(threads: int | None) -> int:
    """Let PyTorch and the numba engine work with this many threads (default: physical cores); return the number."""
    number = threads or physical_cores()
    torch.set_num_threads(number)
    return number


def set_engine(choice: engine.Engine, network: Network, *, training: bool = False, device: str = "cpu") -> str:
    """Choose who computes a network, compile it if this is its first use here, and return its name for the person.

    What is compiled is kept for the next time; a line and a bar say so while it happens, and a line where it is not.
    """
    engine.choose(choice)
    kernels = network.tiling == "slabs" or network.in_um
    if choice == "torch" or device != "cpu" or not kernels or not engine.available():
        return "PyTorch"
    if not engine.is_ready(training):
        sys.stderr.write("compiling the engine for this machine, once; this takes about half a minute\n")
        with tqdm(total=100, leave=False, disable=None, unit="%", bar_format="{l_bar}{bar}| {elapsed}") as bar:

            def progress(fraction: float) -> None:
                bar.update(round(100 * fraction) - bar.n)

            engine.make_ready(training, progress)
        if reason := engine.unkept():
            sys.stderr.write(
                printable(f"the compiled engine is not kept ({reason}): the next start compiles it again; ")
                + "NUMBA_CACHE_DIR names another folder\n"
            )
    return "numba engine"
