"""What is known of a segmentation of an OME-Zarr before a voxel is read: its grid, its masks, how it fits into memory.

µ-Net and µr-Net go through it in exact tiles (`tile_plan`), larger networks in windows (`window_plan`), what was taught
in boxes (`box_plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import free_bytes
from micronet.core.ram import MARGIN, Allowance, size
from micronet.core.volume import Volume, share_grid
from micronet.io import claimed_bytes, read_annotation
from micronet.io.checks import ReadOptions, check_axes
from micronet.io.zarr import Level, open_level
from micronet.networks.padding import Padding
from micronet.networks.registry import classes_of
from micronet.networks.taught import Taught
from micronet.segment.box_plan import BoxNeed, plan_boxes
from micronet.segment.memory import READING_WEIGHTS, Memory
from micronet.segment.plan import Task
from micronet.segment.reading import described, notes_on, takes_logarithm
from micronet.segment.refine import Refinement, checked_depth
from micronet.segment.slabs import works_in_slabs
from micronet.segment.store_spec import BoxSpec, StorePlan, StoreSpec, TileSpec, WindowSpec
from micronet.segment.store_work import copied_bytes, written_bytes
from micronet.segment.tile_plan import TilePlan, plan_tiles
from micronet.segment.window_plan import WindowsPlan

__all__ = ["Opened", "check_network", "naming", "open_store", "refuse_wishes"]

# A plane in float64, its squares, and what is made of it.
_PLANE_BYTES = 24


@dataclass(frozen=True, eq=False)
class Opened:
    """A store that is to be segmented."""

    level: Level
    grid: Volume
    masks: dict[str, Volume]
    spec: StoreSpec
    memory: Memory

    @property
    def plan(self) -> StorePlan:
        """How it is gone through."""
        return self.spec.plan


@dataclass(frozen=True)
class _Need:
    """Bytes that are held all the time, that are taken at least at some other time, and of a voxel on the disk."""

    held: int
    least: int
    itemsize: int


def open_store(
    task: Task, allowance: Allowance, processes: int, kept: StoreSpec | None, say: Callable[[str], None]
) -> Opened:
    """Open the level, read the masks, and decide how it is gone through.

    Parameters
    ----------
    task : Task
    allowance : Allowance
        Of each process.
    processes : int
        How many share the work; 0 for one that does it alone.
    kept : StoreSpec or None
        Of what there is to go on with: the tiles are as before.
    say : callable
        Receives what was found and chosen, a line at a time.

    Raises
    ------
    InputError, FileError
        For bad input, or too little memory or room.
    """
    job, path = task.job, task.path
    level = open_level(path, job.level)
    check_axes(ReadOptions(axes=job.axes), level.image.axes, path)
    grid = level.grid if job.spacing_um is None else level.grid.with_spacing(job.spacing_um)
    levels = f"level {job.level} of {level.image.levels}"
    say(f"  volume      {described(grid)}, {levels}, OME-Zarr {level.image.version}")
    for one in (*grid.notes, *notes_on(grid, None, task)):
        say(f"              note: {one}")
    logarithm = takes_logarithm(task, say)
    masks = [claimed_bytes(task.sources.of(mask), axes=job.axes, shape=job.shape) for mask in task.masks.values()]
    voxels = math.prod(grid.shape)
    need = _Need(
        voxels * len(masks) + (0 if task.beside is None else task.beside.labels.nbytes),
        max(
            _PLANE_BYTES * grid.shape[1] * grid.shape[2],
            copied_bytes(level),
            min(written_bytes(), 14 * voxels),
            *(2 * m for m in masks),
        ),
        4 if logarithm else level.dtype.itemsize,
    )
    with naming(path):
        plan = _plan(task, grid, need, allowance, processes, kept)
    words = f"{plan.words}: about {size(plan.needed)} needed{' in each process' if processes else ''}, "
    words += f"{allowance.words}; {size(plan.scratch_bytes)} of intermediate files in {job.output}/"
    say(f"  memory      {words}")
    if kept is None:
        _check_room(task, plan.scratch_bytes + 3 * voxels)
    grid, read = _masks(task, grid, say)
    windows = plan.windows if isinstance(plan, WindowsPlan) else None
    memory = Memory(plan.needed, allowance.bytes, None, words, need.held, allowance, windows)
    return Opened(level, grid, read, _spec(task, grid, read, plan, logarithm=logarithm), memory)


def check_network(task: Task) -> None:
    """Raise InputError where the network cannot go through a volume part by part."""
    weights, model = task.weights, task.weights.model
    name = f"'{weights.path.name}' ({weights.network.title})"
    if task.job.cluster is not None and any(parameter.is_cuda for parameter in model.parameters()):
        raise InputError(f"'{task.path}': the workers of a cluster compute on the CPU {setting('cluster', 'device')}")
    if isinstance(model, Taught):
        grids = [member.network for member in model.members if not member.by_voxel]
        if not all(map(works_in_slabs, grids)):
            raise InputError(
                f"'{task.path}': only the numba engine on the CPU segments an OME-Zarr with a µ-Net of {name} "
                f"{setting('engine', 'device')}"
            )
        return
    if weights.network.tiling == "slabs" and not works_in_slabs(model):
        raise InputError(
            f"'{task.path}': only the numba engine on the CPU segments an OME-Zarr {setting('engine', 'device')}"
        )
    if weights.network.tiling == "whole":
        raise InputError(
            f"'{task.path}' is segmented part by part, and {name} takes volumes whole; copy a part to NRRD or TIFF"
        )


def refuse_wishes(task: Task) -> None:
    """Raise InputError where something is asked for that needs the whole volume in memory."""
    job, path = task.job, task.path
    more = [name for name in ("figure", "keep", "label_tiff", "resample_um") if getattr(job, name)]
    for wish in sorted(job.wishes.union(more)):
        raise InputError(
            f"'{path}' is segmented part by part, and what was asked for needs it whole {setting(wish)}; leave it "
            "out, or copy a part of the volume to NRRD or TIFF"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what is wrong begin with the name of a file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error


def _plan(
    task: Task, grid: Volume, need: _Need, allowance: Allowance, processes: int, kept: StoreSpec | None
) -> StorePlan:
    """Decide how the store is gone through: as before, where there is what to go on with."""
    job, model = task.job, task.weights.model
    depth = grid.shape[1] if job.y_crop is None else min(max(job.y_crop, 1), grid.shape[1])
    inside = (grid.shape[0], depth, grid.shape[2])
    if kept is not None and allowance.fits(kept.plan.needed):
        return kept.plan
    if isinstance(model, Taught):
        box_need = BoxNeed(need.held, need.least, need.itemsize, allowance, processes)
        return plan_boxes(inside, model, model.checked_spacing(grid.spacing_um), box_need)
    if task.weights.network.tiling == "windows":
        return _plan_windows(task, inside, math.prod(grid.shape), need, allowance, several=processes > 0)
    return plan_tiles(
        Padding(inside).shape,
        refines=task.weights.network.refines,
        held=need.held,
        least=need.least,
        itemsize=need.itemsize,
        allowance=allowance,
        processes=processes,
    )


def _plan_windows(
    task: Task, inside: tuple[int, int, int], voxels: int, need: _Need, allowance: Allowance, *, several: bool
) -> WindowsPlan:
    """Return the largest windows that fit, with the result on the disk."""
    model, needed, tried = task.weights.model, 0, ""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for windows in task.job.window_wish.candidates(model, inside):
        if not windows.on_disk:
            continue
        bytes_ = windows.window_bytes(model) if several else windows.work_bytes(model)
        work = need.held + 4 * parameters + max(need.least, bytes_)
        needed = int(allowance.program + MARGIN * max(READING_WEIGHTS * parameters, work))
        if allowance.fits(needed):
            scratch = voxels * (need.itemsize + 4 * len(classes_of(model)))
            if several and windows.averages:
                scratch += 4 * windows.count * math.prod(windows.sides)
            return WindowsPlan(windows, needed, scratch, several)
        tried = f"in {windows.sides_words}"
    if not tried:
        border = task.job.window_wish.border
        raise InputError(
            f"the windows that are tried have nothing inside a border of {border} on each side: smaller, or a larger "
            f"window {setting('border', 'window')}"
        )
    raise InputError(
        f"about {size(needed)} of memory needed even {tried}, {allowance.words}; free memory or allow more "
        f"{setting('max_ram')}"
    )


def _check_room(task: Task, room: int) -> None:
    free = free_bytes(task.job.output)
    if free < room:
        raise FileError(
            f"'{task.path}': intermediate files and result take {size(room)} in '{task.job.output}', "
            f"{size(free)} are free; choose another disk {setting('output')}"
        )


def _spec(task: Task, grid: Volume, masks: dict[str, Volume], plan: StorePlan, *, logarithm: bool) -> StoreSpec:
    """Return what a process has to know; InputError where a setting does not fit the volume."""
    job, model, start = task.job, task.weights.model, masks.get("initial_mask")
    with naming(task.path):
        depth = checked_depth(grid.array, model, Refinement(job.passes, start, y_crop=job.y_crop))
    files = (str(task.path.absolute()), job.level, logarithm, job.threshold, depth, "annotation" in masks)
    if isinstance(plan, TilePlan):
        return TileSpec(*files, task.weights.network.refines, start is not None, plan)
    if isinstance(plan, WindowsPlan):
        return WindowSpec(*files, plan)
    if not isinstance(model, Taught):
        raise AssertionError("boxes are for what was taught")
    return BoxSpec(*files, model.checked_spacing(grid.spacing_um), plan)


def _masks(task: Task, grid: Volume, say: Callable[[str], None]) -> tuple[Volume, dict[str, Volume]]:
    """Return the grid, whose unit a mask may settle, and the masks by their role."""
    job, found = task.job, {}
    for role, path in task.masks.items():
        annotation = read_annotation(
            task.sources.of(path), segment=job.segment, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape
        )
        grid, mask, note = share_grid(grid, annotation.mask, str(task.path), str(path))
        say(f"  {role.replace('initial_mask', 'start from'):<12}{annotation.description}")
        for one in dict.fromkeys((*mask.notes, *([note] if note else []))):
            say(f"              note: {one}")
        found[role] = mask
    return grid, found
