"""Whether what distorts masks is compiled: where it is not, the first step of a refining network waits for it."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

try:
    from micronet.networks.kernels.jit import cache_folder, unkept
except ModuleNotFoundError:  # no numba here: nothing is compiled
    _COMPILES = False
else:
    _COMPILES = True

__all__ = ["is_compiled", "note_compiled"]


def _stamp() -> Path | None:
    """Return the file that is there once it is compiled; None where nothing is kept."""
    folder = cache_folder()
    # The folder's name tells versions of the kernels apart, but not of what lies here.
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    return None if folder is None else folder / f"distortion-{digest.hexdigest()[:16]}.compiled"


def is_compiled() -> bool:
    """Return whether the first distortion need not wait: compiled on this machine before, or nothing to compile."""
    if not _COMPILES:
        return True
    stamp = _stamp()
    return stamp is not None and stamp.is_file()


def note_compiled() -> None:
    """Remember, beside what is kept, that it is compiled now."""
    stamp = _stamp() if _COMPILES else None
    if stamp is not None and not unkept():
        with contextlib.suppress(OSError):  # it costs the next start a needless word
            stamp.touch()
