"""What is to be done with one volume: what it is called, what it reads and writes, whether that is there already."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.names import write_name
from micronet.core.ownership import REPLACE, Outputs, check_outputs
from micronet.core.volume import Volume, shared_part
from micronet.io import Source, Sources, claimed_bytes, files_of, open_stack, volume_stem
from micronet.io.checks import is_store
from micronet.io.labels import LUMEN
from micronet.measure.footprint import least_bytes
from micronet.networks.card import card_path
from micronet.segment.memory import Memory, Need, memory_without_network, plan_memory
from micronet.segment.resampling import NetworkGrid
from micronet.segment.settings import Job, Weights

__all__ = [
    "Beside",
    "Found",
    "Plan",
    "Task",
    "TimePoint",
    "input_record",
    "is_done",
    "plan_addition",
    "plan_room",
    "plan_task",
    "volume_record",
]


@dataclass(eq=False)
class Found:
    """What a time point leaves to the next: its mask, and its probability as the file has it (0 to 255).

    `levels` is None where only the file has them.
    """

    mask: NDArray[np.bool_]
    levels: NDArray[np.uint8] | None = None

    def take_levels(self) -> NDArray[np.uint8] | None:
        """Return the levels and hold them no longer: whoever makes floats of them needs the room."""
        levels, self.levels = self.levels, None
        return levels


@dataclass(frozen=True, eq=False)
class TimePoint:
    """One time point of a recording, read already.

    `stem` names its results, `source` is what the record says of the input, `files` what the input lies in, and `start`
    the file with the probability (0 to 255) that the refinement starts from, instead of the job's initial mask;
    `before` has the same in memory where it was found in this run. `beside` is how many bytes the caller holds
    meanwhile, `on_found` receives what is found.
    """

    stem: str
    volume: Volume
    source: dict[str, Any]
    files: tuple[Path, ...]
    start: Path | None = None
    before: Found | None = None
    beside: int = 0
    on_found: Callable[[Found], None] | None = None


@dataclass(frozen=True, eq=False)
class Beside:
    """What whoever taught the network puts into the result of an OME-Zarr.

    Parameters
    ----------
    labels : ndarray of uint8, shape (Z, Y, X)
        Of a box of the volume: 1 lumen, 2 background, 0 not annotated.
    place : (slice, slice, slice)
        The box.
    write : callable
        Writes further files into a folder, and returns them by kind.
    free : bool
        The mask may differ from the labels.
    """

    labels: NDArray[np.uint8]
    place: tuple[slice, slice, slice]
    write: Callable[[Path], dict[str, Path]]
    free: bool = False

    def sampled(self, step: int, shape: Sequence[int]) -> NDArray[np.uint8]:
        """Return the labels of every so many voxels of the volume along each axis, of which there are `shape`."""
        found = np.zeros(shape, np.uint8)
        first = [-(-part.start // step) for part in self.place]
        seen = self.labels[
            tuple(slice(at * step - part.start, None, step) for at, part in zip(first, self.place, strict=True))
        ]
        found[tuple(slice(at, at + length) for at, length in zip(first, seen.shape, strict=True))] = seen
        return found

    def impose(self, mask: NDArray[np.bool_], box: Sequence[slice]) -> None:
        """Let the mask of a box of the volume hold what the labels say."""
        shared = None if self.free else shared_part(self.place, box)
        if shared is None:
            return
        inner, outer = shared
        said = self.labels[inner]
        np.copyto(mask[outer], said == LUMEN, where=said > 0)


@dataclass(frozen=True, eq=False)
class Task:
    """A volume to segment: its file, the network and the settings; of a recording, the time point too.

    `sources` are the files that are read, open from the plan until the task is done. `held` is how many bytes a voxel
    the caller holds meanwhile, `segment` what the mask is called that is found. `beside` is for an OME-Zarr that this
    process segments by itself.
    """

    path: Path
    weights: Weights
    job: Job
    sources: Sources
    time_point: TimePoint | None = None
    held: int = 0
    segment: str = "lumen"
    beside: Beside | None = None

    @property
    def stem(self) -> str:
        """How the names of the results begin."""
        return volume_stem(self.path) if self.time_point is None else self.time_point.stem

    @property
    def settles(self) -> bool:
        """Whether it is refined until the mask settles."""
        return self.job.until_stable and self.weights.network.refines

    @property
    def in_store(self) -> bool:
        """Whether it is an OME-Zarr, which is segmented tile by tile."""
        return self.time_point is None and is_store(self.path)

    @property
    def soft_start(self) -> Path | None:
        """The file with the probability that the refinement starts from."""
        return None if self.time_point is None else self.time_point.start

    @property
    def masks(self) -> dict[str, Path]:
        """The files of masks that are read beside the volume, by their role."""
        job = self.job
        roles = {"initial_mask": self.soft_start or job.initial_mask, "annotation": job.annotation, "keep": job.keep}
        return {role: mask for role, mask in roles.items() if mask is not None}


@dataclass(frozen=True, eq=False)
class Plan:
    """A task with what it writes.

    `asked` is how the record begins: with all that the result depends on. `done` is the record of an earlier result.
    """

    task: Task
    outputs: Outputs
    asked: dict[str, Any]
    done: dict[str, Any] | None


def plan_task(task: Task) -> Plan:
    """Check what a task would write, and note what its result depends on; MicronetError where that cannot be."""
    weights, job, time_point = task.weights, task.job, task.time_point
    files = files_of(task.sources.of(task.path), job.level) if time_point is None else time_point.files
    masks = {role: task.sources.of(mask) for role, mask in task.masks.items()}
    beside = [file for mask in masks.values() for file in files_of(mask)]
    outputs = job.outputs(task.stem, store=task.in_store)
    check_outputs([outputs], [*files, *beside, weights.path, card_path(weights.path)])
    done = outputs.read()
    asked = {
        "input": input_record(task.sources.of(task.path), job.level) if time_point is None else time_point.source,
        "weights": {"path": write_name(weights.path), "sha256": weights.sha256, "network": weights.network.name},
        "masks": {role: input_record(mask) for role, mask in masks.items()},
        "parameters": job.parameters(),
    }
    return Plan(task, outputs, asked, done)


def plan_room(task: Task) -> Memory:
    """Decide, by the headers alone, whether the volume is segmented whole, in slabs or in windows."""
    try:
        job, need = task.job, _need(task, task.masks.values())
        return plan_memory(need, task.weights.model, job.max_ram, job.output, job.window_wish)
    except InputError as error:
        raise InputError(f"'{task.path}': {error}") from error


def plan_addition(task: Task, files: Iterable[Path]) -> Memory:
    """Decide, by the headers alone, whether there is memory to add to a result what is made of its files alone."""
    try:
        return memory_without_network(_need(task, [*task.masks.values(), *files]), task.job.max_ram)
    except InputError as error:
        raise InputError(f"'{task.path}': {error}") from error


def _need(task: Task, masks: Iterable[Path]) -> Need:
    path, job, time_point = task.path, task.job, task.time_point
    if time_point is None:
        how: dict[str, Any] = {"axes": job.axes, "spacing_um": job.spacing_um, "shape": job.shape, "dtype": job.dtype}
        with open_stack(task.sources.of(path), **how, flat=task.weights.flat) as stack:
            grid = stack.grid
    else:
        grid = time_point.volume
    if job.figure is not None:
        job.figure.check(grid.shape, "the volume")
    network = NetworkGrid.of(grid, job.resample_um)
    depth = job.y_crop if network is None else network.depth(job.y_crop)
    height = (grid.shape if network is None else network.size)[1]
    return Need(
        grid.shape,
        height if depth is None else min(max(depth, 1), height),
        grid.array.dtype,
        logarithm=job.intensity == "log" or task.weights.taught_on_log,
        masks=tuple(_mask_bytes(mask, task) for mask in masks),
        soft_start=task.soft_start is not None,
        beside=task.held * math.prod(grid.shape) + (0 if time_point is None else time_point.beside),
        seen=None if network is None else network.size,
        starts="initial_mask" in task.masks,
        spacing_um=grid.spacing_um,
        classes=len(task.weights.classes),
        wishes={name: least for name, least in least_bytes(math.prod(grid.shape)).items() if name in job.wishes},
    )


def input_record(source: Source, level: int = 0) -> dict[str, Any]:
    """Return what a record says of an input: its path and its hash; of an OME-Zarr that of a level."""
    return {"path": write_name(source.path), "sha256": source.sha256(files_of(source, level))}


def is_done(outputs: Outputs, asked: Mapping[str, Any], path: Path) -> bool:
    """Whether a whole result of what is asked is there; FileError where it is one of something else.

    `asked` is how the record begins. Files are the same where their hashes are, wherever they lie.
    """
    done = outputs.read()
    if done is None:
        return False
    different = [name for name, one in asked.items() if not _same(done.get(name), one)]
    if different:
        raise FileError(
            f"'{outputs.record_path}' holds a result of other {' and '.join(different)} for '{path.name}'; {REPLACE}"
        )
    return all(file.exists() for file in outputs.paths)


def _same(told: Any, asked: Any) -> bool:
    if isinstance(asked, list):
        return isinstance(told, list) and len(told) == len(asked) and all(map(_same, told, asked))
    if not isinstance(asked, Mapping):
        return bool(told == asked)
    if not isinstance(told, Mapping):
        return False
    if "sha256" in asked:
        return bool(told.get("sha256") == asked["sha256"])
    return told.keys() == asked.keys() and all(_same(told[key], asked[key]) for key in asked)


def volume_record(volume: Volume, notes: Iterable[str]) -> dict[str, Any]:
    """Return what a record says of the volume that was read."""
    return {
        "shape_zyx": list(volume.shape),
        "dtype": str(volume.array.dtype),
        "spacing_um_zyx": None if volume.spacing_um is None else list(volume.spacing_um),
        "space": volume.space,
        "units": volume.units,
        "notes": list(notes),
    }


def _mask_bytes(mask: Path, task: Task) -> int:
    before = None if task.time_point is None else task.time_point.before
    if mask == task.soft_start and before is not None and before.levels is not None:
        return before.levels.nbytes
    shown = task.sources.of(mask)
    return claimed_bytes(shown, axes=task.job.axes, shape=task.job.shape, flat=task.weights.flat)
