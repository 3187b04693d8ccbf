"""How much memory a volume takes to segment, and whether it is done whole or in slabs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micronet import engine
from micronet.errors import FileError, InputError
from micronet.inference import works_in_slabs
from micronet.models import MicroNet, MicroRNet

__all__ = ["SHARE", "Memory", "Need", "available_memory", "plan_memory"]

#: Part of the available memory that is used where nobody says how much.
SHARE = 0.8
# Interpreter, PyTorch, compiled kernels and the preview; measured.
_PROGRAM = 500_000_000
# Estimates came within 3 % of what was measured, before this.
_MARGIN = 1.08
# What PyTorch takes a voxel beside what the caller holds; 185 and 223 were measured.
_TORCH_BYTES = {"u-net": 200, "ur-net": 240}
# Thicker slabs save nearly nothing: 16 planes beside each are computed twice.
_THICKEST = 128
_CGROUP, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Need:
    """What the memory of a segmentation depends on, all known before a voxel is read.

    Parameters
    ----------
    shape : (Z, Y, X)
        Of the volume.
    depth : int
        How many voxels of Y are looked at.
    stored : numpy dtype
        Of the file's voxels.
    logarithm : bool
        Its logarithm is taken first.
    masks : tuple of int
        Bytes that each mask read beside it takes in its file, layers and all, unpacked.
    """

    shape: tuple[int, int, int]
    depth: int
    stored: np.dtype[np.generic]
    logarithm: bool = False
    masks: tuple[int, ...] = ()

    def bytes(self, model: MicroNet | MicroRNet, planes: int | None = None) -> int:
        """Return about how many bytes the process takes at most: whole, or in slabs of some planes."""
        depth, height, width = self.shape
        voxels, looked_at = depth * height * width, depth * self.depth * width
        size = depth, self.depth, width
        image = voxels * (4 if self.logarithm else self.stored.itemsize)
        # Readers turn axes and byte order, and a mask is chosen from labels, before they are what they will be.
        stored = voxels * self.stored.itemsize
        reading = max([stored + image, 2 * stored, *(image + mask + len(self.masks) * voxels for mask in self.masks)])
        holding = image + len(self.masks) * voxels
        refines = isinstance(model, MicroRNet)
        if planes is not None:
            work = engine.pass_bytes(size, planes)
            output = 2 * voxels  # the segmentation, and where it agrees with an annotation
        else:
            # The image and, for a µr-Net, the last probability, the same normalised, and what it started from.
            work = looked_at * (4 + 12 * refines)
            if works_in_slabs(model):
                work += engine.pass_bytes(size)
            else:
                work += looked_at * _TORCH_BYTES[model.name]
            output = (4 + 4 + 2) * voxels
        return int(_PROGRAM + _MARGIN * max(reading, holding + work, holding + output))

    def scratch_bytes(self, model: MicroNet | MicroRNet) -> int:
        """Return how much room slabs take on the disk."""
        depth, height, width = self.shape
        return 4 * depth * height * width * (2 if isinstance(model, MicroRNet) else 1)


@dataclass(frozen=True)
class Memory:
    """What was decided.

    Parameters
    ----------
    needed : int
        Bytes, estimated, of the whole process at its peak.
    allowed : int or None
        Bytes; None where nobody says and the system does not tell.
    slab_planes : int or None
        Thickness of the slabs; None for the whole volume at once.
    description : str
        One line, to be shown to the person.
    """

    needed: int
    allowed: int | None
    slab_planes: int | None
    description: str


def plan_memory(need: Need, model: MicroNet | MicroRNet, max_ram: int | None, folder: Path) -> Memory:
    """Decide how a volume is segmented: whole where that fits into memory, else in the thickest slabs that do.

    Parameters
    ----------
    need : Need
    model : MicroNet or MicroRNet
    max_ram : int, optional
        Bytes that the process may take; by default `SHARE` of what is available now.
    folder : Path
        Where slabs have their intermediate files; it need not exist yet.

    Returns
    -------
    Memory

    Raises
    ------
    InputError
        If not even the thinnest slabs fit, or slabs are not possible.
    FileError
        If there is no room for the intermediate files.
    """
    available = available_memory() if max_ram is None else None
    allowed = max_ram if max_ram is not None else available and int(SHARE * available)
    whole = need.bytes(model)
    limit = (
        "what is available is not known"
        if allowed is None
        else f"{_size(allowed)} allowed ({'--max-ram' if available is None else f'{SHARE:.0%} of what is available'})"
    )
    if allowed is None or whole <= allowed:
        return Memory(whole, allowed, None, f"whole: about {_size(whole)} needed, {limit}")
    if not works_in_slabs(model):
        raise InputError(
            f"about {_size(whole)} of memory needed, {limit}; only the numba engine on the CPU could do it in slabs "
            "(--engine auto --device cpu), else crop the volume or raise --max-ram"
        )
    planes = next((n for n in range(_THICKEST, 0, -4) if need.bytes(model, n) <= allowed), None)
    if planes is None:
        raise InputError(
            f"about {_size(need.bytes(model, 4))} of memory needed even in slabs, {limit}; crop the volume, "
            "free memory or raise --max-ram"
        )
    planes = min(planes, -(-need.shape[0] // 4) * 4)
    needed, scratch = need.bytes(model, planes), need.scratch_bytes(model)
    _check_room(folder, scratch)
    how = f"slabs of {planes} planes: about {_size(needed)} needed, {limit}; whole it would be {_size(whole)}"
    return Memory(needed, allowed, planes, f"{how}; {_size(scratch)} of intermediate files in {folder}/")


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


def _check_room(folder: Path, needed: int) -> None:
    here = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(here).free
    if free < needed:
        raise FileError(
            f"intermediate files take {_size(needed)} in '{folder}', {_size(free)} are free; raise --max-ram, or "
            "choose another disk with -o DIR"
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
