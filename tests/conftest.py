"""Fixtures shared by all tests."""

import gc
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from disks import read_only, small_disk  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[1]

# A shell starts what runs in the background with Ctrl-C ignored, nohup adds the hang-up, and children inherit both: the
# tests that send these signals would then see nothing happen.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (getattr(signal, "SIGHUP", None), signal.SIG_DFL),
):
    if _number is not None and signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)


# Tests that run side by side (pytest -n) share the cores already: one thread each, and those of a script that asks for
# more do not spin while they wait. Set before PyTorch is loaded; children inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_finish():
    """Spare every later search for garbage the modules that all tests together import: they stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Published data, weights and golden numbers, which lie beside the repository and are not ours to ship."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs ../shared (published data, weights and golden numbers)")
    return folder


@pytest.fixture(scope="session")
def engine_ready() -> None:
    """Compile the engine, so that no script says on standard error that it does."""
    from micronet.networks import engine

    engine.make_ready("training")
    engine.make_ready("forward")


@pytest.fixture
def one_thread():
    """Let PyTorch use one: the last bits depend on how many, and small crops and windows are quicker so."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nothing_is_left_chosen():
    """A script that runs inside a test chooses engine and threads for the whole process: the next has its own."""
    yield
    if (loaded := sys.modules.get("micronet.networks.engine")) is not None:
        loaded.choose("auto")
    if "PYTEST_XDIST_WORKER" in os.environ and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
