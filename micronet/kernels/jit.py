"""How kernels are compiled: vector width, cache folder, and a typed `njit`.

Numba keys its cache by function source, argument types and CPU, but not by what a function calls nor by our vector
width. All kernels therefore share one folder whose name carries a hash of every kernel source, of numba's version
and of the width; it lies where numba was told to cache (``NUMBA_CACHE_DIR``), else in the user's cache folder,
else (nothing writable there) in the temporary folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import binding

from micronet.errors import InputError

__all__ = ["LANES", "cache_folder", "compile_c", "jit", "vector_lanes"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def vector_lanes() -> int:
    """Return how many float32 one vector holds: 16 (AVX-512), 8 (AVX), 4 (NEON, SSE) or 1 (anything else).

    The environment variable ``MICRONET_LANES`` forces one of them; LLVM splits vectors wider than the CPU's.
    """
    forced = os.environ.get("MICRONET_LANES")
    if forced:
        if forced not in ("1", "4", "8", "16"):
            raise InputError(f"MICRONET_LANES is '{forced}'; it must be 1, 4, 8 or 16")
        return int(forced)
    features = binding.get_host_cpu_features()
    for feature, lanes in (("avx512f", 16), ("avx2", 8), ("neon", 4), ("sse2", 4)):
        if features.get(feature):
            return lanes
    return 4 if "aarch64" in binding.get_default_triple() or "arm64" in binding.get_default_triple() else 1


#: float32 per vector, fixed when this module is imported.
LANES = vector_lanes()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _is_ours(folder: Path) -> bool:
    return not folder.is_symlink() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of compiled kernels, the first of the module's three that can be written; None if none."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]} {LANES}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    name = f"micronet-kernels-{digest.hexdigest()[:16]}"
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    asked = os.environ.get("NUMBA_CACHE_DIR")
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    parents = [Path(asked)] if asked else []
    for parent in (*parents, Path(user) / "micronet"):
        if _writable(parent / name):
            return parent / name
    # Anybody may have made this one: what lies in another's folder is not loaded, for it would be run.
    shared = Path(tempfile.gettempdir()) / f"micronet-{owner}"
    if _writable(shared / name) and all(_is_ours(folder) for folder in (shared, shared / name)):
        return shared / name
    return None


@contextmanager
def _caching_there() -> Iterator[bool]:
    """Point numba's cache at our folder while a kernel is declared; True when there is a folder."""
    config: Any = numba.config
    folder, before = cache_folder(), config.CACHE_DIR
    if folder is not None:
        config.CACHE_DIR = str(folder)
    try:
        yield folder is not None
    finally:
        config.CACHE_DIR = before


def jit(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `function` compiled on first call, cached, running without Python's global lock.

    Arithmetic stays IEEE (no fastmath): a NaN in the image is a NaN in the result. Division by zero follows
    NumPy. Kernels are serial; `micronet.kernels.threads` runs them on parts of a volume.
    """
    with _caching_there() as cache:
        compiled = numba.njit(nogil=True, cache=cache, error_model="numpy")(function)
    return cast(Callable[_P, _R], compiled)


def compile_c(signature: Any, function: Callable[..., None]) -> int:
    """Compile `function` now, or load it from the cache, as a C function; return its address for `call_c`.

    Callers reach it through the address, so that its many unrolled instructions are compiled once, not once in
    every caller.
    """
    with _caching_there() as cache:
        compiled: Any = numba.cfunc(signature, cache=cache, error_model="numpy")(function)
    _KEPT.append(compiled)
    return int(compiled.address)


_KEPT: list[Any] = []  # the code behind an address lives as long as its C function object
