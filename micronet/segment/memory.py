"""How much memory a volume takes to segment, and whether it is done whole or in slabs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import nn

from micronet.core import ram
from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import free_bytes
from micronet.core.ram import Allowance, size
from micronet.networks import engine
from micronet.networks.padding import Padding
from micronet.networks.registry import network_of
from micronet.segment.slabs import works_in_slabs
from micronet.segment.window_plan import Windows, WindowWish

__all__ = ["READING_WEIGHTS", "Memory", "Need", "memory_without_network", "plan_memory", "program_bytes"]

# Thicker slabs save nearly nothing: 16 planes beside each are computed twice.
_THICKEST = 128
#: Bytes a parameter while weights are read, before anything else is; a V-Net's are a third of what it takes.
READING_WEIGHTS = 10
# What importing MONAI adds to the program; measured.
_MONAI = 80_000_000
# What is read at once of planes that lie on the disk.
_PLANES_READ = 64 << 20


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
    soft_start : bool
        One of them is a probability that the refinement starts from: kept as float32.
    beside : int
        Bytes that the caller holds, such as the volume of the time point before.
    seen : (Z, Y, X), optional
        Of the grid that the network looks at, where the volume is resampled for it; `depth` counts its voxels then.
    starts : bool
        One of the masks is what the refinement starts from.
    wishes : mapping of str to int
        The settings that ask for more than the usual files: bytes that each takes at least, whatever is found.
        `Memory.check` has the rest once the mask is known.
    spacing_um : (z, y, x), optional
        What taught networks take depends on it.
    classes : int
        Each has a probability of its own.
    """

    shape: tuple[int, int, int]
    depth: int
    stored: np.dtype[np.generic]
    logarithm: bool = False
    masks: tuple[int, ...] = ()
    soft_start: bool = False
    beside: int = 0
    seen: tuple[int, int, int] | None = None
    starts: bool = False
    wishes: Mapping[str, int] = field(default_factory=dict)
    spacing_um: tuple[float, float, float] | None = None
    classes: int = 1

    def held(self, planes: int | None) -> int:
        """Return about how many bytes are held once the mask is known, beside the program."""
        probability = 0 if planes is not None else 4 * self.classes * self._looked_at()
        return self._inputs() + self.classes * math.prod(self.shape) + probability

    def _inputs(self) -> int:
        voxels = math.prod(self.shape)
        image = voxels * (4 if self.logarithm else self.stored.itemsize)
        return self.beside + image + (len(self.masks) + 3 * self.soft_start) * voxels + self._resampled()

    def _looked_at(self) -> int:
        return math.prod(self.seen or self.shape)

    def _resampled(self) -> int:
        """Return what is held on the network's grid: the image, and what the refinement starts from."""
        return 0 if self.seen is None else 4 * self._looked_at() * (1 + self.starts)

    def bytes_without_network(self) -> int:
        """Return about how many bytes the process takes at most where the mask is known and only read."""
        voxels = math.prod(self.shape)
        stored, image = voxels * self.stored.itemsize, voxels * (4 if self.logarithm else self.stored.itemsize)
        kept = self._inputs() - self.beside
        reading = self.beside + max([stored + image, 2 * stored, *(mask + kept for mask in self.masks)])
        return int(ram.PROGRAM + ram.MARGIN * max(reading, self.held(0) + max(self.wishes.values(), default=0)))

    @property
    def crop(self) -> tuple[int, int, int]:
        """What is looked at, (Z, Y, X)."""
        depth, _, width = self.seen or self.shape
        return depth, self.depth, width

    def bytes(self, model: nn.Module, planes: int | None = None, windows: Windows | None = None) -> int:
        """Return about how many bytes the process takes at most: whole, in slabs of some planes, or in windows."""
        voxels = math.prod(self.shape)
        depth = self.crop[0]
        padding = Padding(self.crop, network_of(model).smallest_axis)
        size = padding.shape
        image = voxels * (4 if self.logarithm else self.stored.itemsize)
        # Readers turn axes and byte order, and a mask is chosen from labels, before they are what they will be.
        stored = voxels * self.stored.itemsize
        kept = (len(self.masks) + 3 * self.soft_start) * voxels
        reading = self.beside + max([stored + image, 2 * stored, *(image + mask + kept for mask in self.masks)])
        reading += self._resampled()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        holding = self._inputs() + 4 * parameters
        if windows is not None:
            work, planes = windows.work_bytes(model), 0 if windows.on_disk else None
            output = (1 + self.classes) * voxels
            results = 4 * self._looked_at()
            output += min(results, _PLANES_READ) if windows.on_disk else 2 * self.classes * results
        elif planes is not None:
            work = engine.pass_bytes(size, planes)
            if padding.needed:  # what is read is padded, and of a thin stack all planes at a time
                work += 2 * 4 * math.prod(size[1:]) * (size[0] if size[0] > depth else planes + 16)
            output = 2 * voxels  # the segmentation, and where it agrees with an annotation
        else:
            work = self._whole(model, padding)
            work += 4 * (self.classes - 1) * math.prod(padding.shape)
            output = (1 + self.classes) * voxels + (4 * self.classes + 4) * self._looked_at()
        after = self.held(planes) + max(self.wishes.values(), default=0)
        most = max(READING_WEIGHTS * parameters, reading, holding + work, holding + output, after)
        return int(program_bytes(model) + ram.MARGIN * most)

    def _whole(self, model: nn.Module, padding: Padding) -> int:
        """Return what it takes to look at the whole volume at once, beside what is held."""
        network, looked_at = network_of(model), math.prod(padding.shape)
        if network.in_um:  # image and result, and what it says itself; it pads where it must
            taught: Any = model
            return 8 * math.prod(padding.inside) + int(taught.pass_bytes(padding.inside, self.spacing_um))
        # The image and, for a µr-Net, the last probability, the same normalised, and what it started from.
        work = looked_at * (4 + 12 * network.refines)
        slabs = works_in_slabs(model)
        work += engine.pass_bytes(padding.shape) if slabs else network.pass_bytes(model, padding.shape)
        return 2 * work if padding.needed else work  # beside what is padded, the same without its margins

    def scratch_bytes(self, model: nn.Module) -> int:
        """Return how much room slabs take on the disk."""
        return 4 * self._looked_at() * (2 if network_of(model).refines else self.classes)


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
        Thickness of the slabs; None for the whole volume at once, or windows.
    description : str
        One line, to be shown to the person.
    held : int
        Bytes, estimated, that are held once the mask is known, beside the program.
    allowance : Allowance
        The same as `allowed`, with its words.
    windows : Windows or None
        The windows in which a larger network looks at it; None where it does so at once.
    """

    needed: int
    allowed: int | None
    slab_planes: int | None
    description: str
    held: int
    allowance: Allowance
    windows: Windows | None = None

    def check(self, wish: str, work: int) -> int:
        """Return the bytes of the process with the work of a setting, now that the mask is known.

        MemoryLimitError that names the setting where that is more than allowed.
        """
        return self.allowance.check(self.held, work, _wished(wish))


def plan_memory(
    need: Need, model: nn.Module, max_ram: int | None, folder: Path, wish: WindowWish | None = None
) -> Memory:
    """Decide how a volume is segmented: whole where that fits into memory, else in the thickest slabs that do.

    A larger network goes through it in windows where it does not fit, or where that is asked for.

    Parameters
    ----------
    need : Need
    model : torch.nn.Module
    max_ram : int, optional
        Bytes that the process may take; by default `SHARE` of what is available now.
    folder : Path
        Where slabs have their intermediate files; it need not exist yet.
    wish : WindowWish, optional
        What is asked of windows.

    Returns
    -------
    Memory

    Raises
    ------
    InputError
        If not even the thinnest slabs or smallest windows fit, or neither is possible.
    FileError
        If there is no room for the intermediate files.
    """
    allowance, wish = Allowance.of(max_ram, program_bytes(model)), wish or WindowWish()
    wish.check(model)
    whole, limit = need.bytes(model), allowance.words
    if allowance.fits(whole) and not wish.asked:
        return Memory(
            whole, allowance.bytes, None, f"whole: about {size(whole)} needed, {limit}", need.held(None), allowance
        )
    if network_of(model).tiling == "windows":
        return _in_windows(need, model, allowance, folder, wish)
    if not works_in_slabs(model):
        raise InputError(
            f"about {size(whole)} of memory needed, {limit}; only the numba engine on the CPU could do it in slabs "
            f"{setting('engine', 'device')}, else crop the volume or allow more {setting('max_ram')}"
        )
    planes = next((n for n in range(_THICKEST, 0, -4) if allowance.fits(need.bytes(model, n))), None)
    if planes is None:
        _refuse(need, allowance, lambda one: one.bytes(model, 4), need.held(4), "in slabs, ")
    planes = min(planes, -(-(need.seen or need.shape)[0] // 4) * 4)
    needed, scratch = need.bytes(model, planes), need.scratch_bytes(model)
    _check_room(folder, scratch)
    how = f"slabs of {planes} planes: about {size(needed)} needed, {limit}; whole it would be {size(whole)}"
    how += f"; {size(scratch)} of intermediate files in {folder}/"
    return Memory(needed, allowance.bytes, planes, how, need.held(planes), allowance)


def memory_without_network(need: Need, max_ram: int | None) -> Memory:
    """Return what reading a volume and its mask takes; InputError where that does not fit."""
    allowance, needed = Allowance.of(max_ram), need.bytes_without_network()
    if not allowance.fits(needed):
        raise InputError(
            f"about {size(needed)} of memory needed, {allowance.words}; free memory or allow more {setting('max_ram')}"
        )
    return Memory(
        needed, allowance.bytes, None, f"about {size(needed)} needed, {allowance.words}", need.held(0), allowance
    )


def _in_windows(need: Need, model: nn.Module, allowance: Allowance, folder: Path, wish: WindowWish) -> Memory:
    """Return the largest windows that fit; whose result lies on the disk where it has to."""
    smallest: Windows | None = None
    for windows in wish.candidates(model, need.crop):
        smallest, needed = windows, need.bytes(model, windows=windows)
        if not allowance.fits(needed):
            continue
        how = "" if wish.asked else f"{size(need.bytes(model))} would be needed whole: "
        how += f"{windows.words}: about {size(needed)} needed, {allowance.words}"
        if windows.on_disk:
            scratch = need.scratch_bytes(model)
            _check_room(folder, scratch)
            how += f"; {size(scratch)} of intermediate files in {folder}/"
        held = need.held(0 if windows.on_disk else None)
        return Memory(needed, allowance.bytes, None, how, held, allowance, windows)
    if smallest is None:
        raise InputError(
            f"the windows that are tried have nothing inside a border of {wish.border} on each side: smaller, or a "
            f"larger window {setting('border', 'window')}"
        )
    last, chosen = smallest, "" if wish.window is None else f" {setting('window')}"
    words = f"in {last.sides_words}{chosen}, "
    _refuse(need, allowance, lambda one: one.bytes(model, windows=last), need.held(0), words)


def _refuse(need: Need, allowance: Allowance, bytes_of: Callable[[Need], int], held: int, how: str) -> NoReturn:
    """Say what does not fit even in the smallest parts: a wish, where it would fit without it."""
    for wish in need.wishes:
        others = {name: least for name, least in need.wishes.items() if name != wish}
        if allowance.fits(bytes_of(replace(need, wishes=others))):
            allowance.check(held, need.wishes[wish], _wished(wish))
    raise InputError(
        f"about {size(bytes_of(need))} of memory needed even {how}{allowance.words}; crop the volume, "
        f"free memory or allow more {setting('max_ram')}"
    )


def program_bytes(model: nn.Module) -> int:
    """Return what the program takes before it holds anything."""
    return ram.PROGRAM + (_MONAI if network_of(model).tiling == "windows" else 0)


def _wished(wish: str) -> str:
    return f"what was asked for {setting(wish)}"


def _check_room(folder: Path, needed: int) -> None:
    free = free_bytes(folder)
    if free < needed:
        raise FileError(
            f"intermediate files take {size(needed)} in '{folder}', {size(free)} are free; allow more memory "
            f"{setting('max_ram')} or choose another disk {setting('output')}"
        )
