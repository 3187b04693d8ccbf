"""How kernels are compiled: vector width, cache folder, and a typed `njit`.

Numba keys its cache by function source, argument types and CPU, but not by what a function calls nor by our vector
width. All kernels therefore share one folder whose name carries a hash of every kernel source, of numba's version
and of the width; it lies where numba was told to cache (``NUMBA_CACHE_DIR``), else in the user's cache folder,
else (nothing writable there) in the temporary folder. Where nothing can be kept (a full disk), kernels are compiled
all the same, and `unkept` tells why.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import binding
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from micronet.core.errors import InputError

__all__ = ["LANES", "cache_folder", "compile_c", "jit", "unkept", "vector_lanes"]

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


class _Cache(FunctionCache):
    """Numba's cache of one kernel, which does without what cannot be read or written."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled before, None where there is nothing that can be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, or remember why it is not kept."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            _UNKEPT.append(f"'{cache_folder()}': {getattr(error, 'strerror', None) or 'a damaged file'}")


_UNKEPT: list[str] = []


def unkept() -> str:
    """Return why something that was compiled in this process could not be kept, empty where all was."""
    if cache_folder() is None:
        return "no folder for it can be written"
    return _UNKEPT[0] if _UNKEPT else ""


def _keep(compiled: Any, function: Callable[..., Any]) -> None:
    """Let numba look in our folder before it compiles a kernel, and keep there what it compiled."""
    config: Any = numba.config
    folder, before = cache_folder(), config.CACHE_DIR
    if folder is None:
        return
    config.CACHE_DIR = str(folder)
    try:
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # numba asks whether it may write there too, a moment later
        _UNKEPT.append(str(error))
    finally:
        config.CACHE_DIR = before


def jit(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `function` compiled on first call, cached, running without Python's global lock.

    Arithmetic stays IEEE (no fastmath): a NaN in the image is a NaN in the result. Division by zero follows
    NumPy. Kernels are serial; `micronet.core.threads` runs them on parts of a volume.
    """
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    _keep(compiled, function)
    return cast(Callable[_P, _R], compiled)


def compile_c(signature: Any, function: Callable[..., None]) -> int:
    """Compile `function` now, or load it from the cache, as a C function; return its address for `call_c`.

    Callers reach it through the address, so that its many unrolled instructions are compiled once, not once in
    every caller.
    """
    c_function: Any = CFunc
    types: Any = normalize_signature(signature)  # type: ignore[no-untyped-call]
    compiled = c_function(function, types, locals={}, options={"error_model": "numpy"})
    _keep(compiled, function)
    compiled.compile()
    _LIVING.append(compiled)
    return int(compiled.address)


_LIVING: list[Any] = []  # the code behind an address lives as long as its C function object
