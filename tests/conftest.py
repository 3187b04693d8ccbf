"""Fixtures shared by all tests."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


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
    from micronet import engine

    engine.make_ready(training=True, progress=lambda _: None)
    engine.make_ready(training=False, progress=lambda _: None)
