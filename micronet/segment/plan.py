"""What is to be done with one volume: what it is called, what it reads and writes, whether that is there already."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.volume import Volume
from micronet.io import Source, Sources, claimed_bytes, files_of, open_stack, volume_stem
from micronet.io.checks import is_store
from micronet.measure.footprint import least_bytes
from micronet.networks.card import card_path
from micronet.segment.memory import Memory, Need, plan_memory
from micronet.segment.settings import Job, Weights

__all__ = ["Found", "Plan", "Task", "TimePoint", "input_record", "plan_room", "plan_task"]


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
class Task:
    """A volume to segment: its file, the network and the settings; of a recording, the time point too.

    `sources` are the files that are read, open from the plan until the task is done.
    """

    path: Path
    weights: Weights
    job: Job
    sources: Sources
    time_point: TimePoint | None = None

    @property
    def stem(self) -> str:
        """How the names of the results begin."""
        return volume_stem(self.path) if self.time_point is None else self.time_point.stem

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
        roles = {"initial_mask": self.soft_start or self.job.initial_mask, "annotation": self.job.annotation}
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

    def earlier(self, say: Callable[[str], None]) -> Outcome | None:
        """Return the outcome where the result is there already; FileError where there is another one."""
        if self.done is None:
            return None
        path, record_path = self.task.path, self.outputs.record_path
        if not self._same():
            raise FileError(
                f"'{record_path}' holds a result of other settings, weights or input for '{path.name}'; "
                f"replace it {setting('force')} or write elsewhere {setting('output')}"
            )
        on_request = self.task.job.files_on_request(self.task.stem)
        missing = [kind for kind, file in on_request.items() if not file.exists()]
        if missing:
            say(f"  {missing[0]:<12}not written before; segmented again for it")
            return None
        return Outcome(path, "skipped", f"done before ({record_path}); it can be done again {setting('force')}")

    def _same(self) -> bool:
        recorded, asked = self.done or {}, self.asked
        try:
            return all(recorded[key] == asked[key] for key in ("parameters", "masks")) and all(
                recorded[key]["sha256"] == asked[key]["sha256"] for key in ("input", "weights")
            )
        except (KeyError, TypeError):
            return False


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
    """Decide, by the headers alone, whether the volume is segmented whole or in slabs."""
    path, job, time_point = task.path, task.job, task.time_point
    if time_point is None:
        source = task.sources.of(path)
        with open_stack(source, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape, dtype=job.dtype) as stack:
            grid = stack.grid
    else:
        grid = time_point.volume
    need = Need(
        grid.shape,
        grid.shape[1] if job.y_crop is None else min(max(job.y_crop, 1), grid.shape[1]),
        grid.array.dtype,
        logarithm=job.intensity == "log",
        masks=tuple(_mask_bytes(mask, task) for mask in task.masks.values()),
        soft_start=task.soft_start is not None,
        beside=0 if time_point is None else time_point.beside,
        wishes={name: least for name, least in least_bytes(math.prod(grid.shape)).items() if name in job.wishes},
    )
    try:
        return plan_memory(need, task.weights.model, job.max_ram, job.output)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error


def input_record(source: Source, level: int = 0) -> dict[str, Any]:
    """Return what a record says of an input: its path and its hash; of an OME-Zarr that of a level."""
    return {"path": write_name(source.path), "sha256": source.sha256(files_of(source, level))}


def _mask_bytes(mask: Path, task: Task) -> int:
    before = None if task.time_point is None else task.time_point.before
    if mask == task.soft_start and before is not None and before.levels is not None:
        return before.levels.nbytes
    return claimed_bytes(task.sources.of(mask), axes=task.job.axes, shape=task.job.shape)
