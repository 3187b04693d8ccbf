"""How much memory there is, how much of it may be taken, and what is refused."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from micronet.core.errors import InputError, setting

__all__ = ["MARGIN", "PROGRAM", "SCORING", "SHARE", "Allowance", "MemoryLimitError", "available_memory", "size"]

#: Part of the available memory that is used where nobody says how much.
SHARE = 0.8
#: Interpreter, PyTorch, compiled kernels and the preview; measured.
PROGRAM = 500_000_000
#: The same of scoring, which needs no PyTorch and compiles nothing: 114 MB, 164 with a figure.
SCORING = 200_000_000
#: Estimates came within 3 % of what was measured, before this.
MARGIN = 1.08
_CGROUP, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class MemoryLimitError(InputError):
    """Something takes more memory than allowed."""


@dataclass(frozen=True)
class Allowance:
    """How much memory the process may take.

    Parameters
    ----------
    bytes : int or None
        None where nobody says and the system does not tell.
    words : str
        The same for a person.
    program : int
        Bytes that it takes before it holds a volume.
    """

    bytes: int | None
    words: str
    program: int = PROGRAM

    @classmethod
    def of(cls, max_ram: int | None, program: int | None = None) -> Allowance:
        """Return what is wished, by default `SHARE` of what is available now; `program` is by default `PROGRAM`."""
        program = PROGRAM if program is None else program
        if max_ram is not None:
            return cls(max_ram, f"{size(max_ram)} allowed {setting('max_ram')}", program)
        available = available_memory()
        if available is None:
            return cls(None, "what is available is not known", program)
        allowed = int(SHARE * available)
        return cls(allowed, f"{size(allowed)} allowed ({SHARE:.0%} of what is available)", program)

    def fits(self, needed: int) -> bool:
        """Return whether so many bytes may be taken."""
        return self.bytes is None or needed <= self.bytes

    def check(self, held: int, work: int, what: str, advice: str = "leave it out") -> int:
        """Return the bytes of the whole process where it holds some and takes more for some work.

        MemoryLimitError, which says `what` does not fit and what helps beside more memory, where that is too much.
        """
        needed = int(self.program + MARGIN * (held + work))
        if not self.fits(needed):
            raise MemoryLimitError(
                f"{what} does not fit: about {size(needed)} of memory needed, {self.words}; {advice}, free memory "
                f"or allow more {setting('max_ram')}"
            )
        return needed


def available_memory() -> int | None:
    """Return how many bytes could be taken now without pushing anybody out; None where the system does not tell."""
    found = [_available_to_system(), *_available_to_group()]
    return min((number for number in found if number is not None), default=None)


def _available_to_system() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _available_to_windows()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # macOS tells only how much there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _available_to_windows() -> int | None:
    import ctypes

    # MEMORYSTATUSEX: its own length and the load in 32 bits each, then seven numbers of 64 bits.
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)
    done = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status[2]) if done else None


def _available_to_group() -> list[int]:
    """Return what the control groups of this process (containers, batch jobs) leave it."""
    left = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root, limit, used = (
                (_CGROUP, "memory.max", "memory.current")
                if not controllers
                else (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            )
            here = root / name.lstrip("/")
            for folder in (here, *here.parents):
                if not folder.is_relative_to(root):
                    break
                with contextlib.suppress(OSError, ValueError):  # "max", or no such controller
                    most = int((folder / limit).read_text())
                    left.append(max(most - int((folder / used).read_text()) + _cached(folder), 0))
    return left


def _cached(folder: Path) -> int:
    """Return how much of a control group's memory is files that can be read again."""
    for line in (folder / "memory.stat").read_text().splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def size(number: int) -> str:
    """Return a number of bytes for a person.

    >>> size(2_345_000_000), size(12_300_000)
    ('2.35 GB', '12 MB')
    """
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
