"""What a task reads: the volume as the network is to see it, the mask to start from, the annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micronet.core.errors import InputError, setting
from micronet.core.volume import Volume, share_grid
from micronet.io import Source, read_annotation, read_volume
from micronet.io.corrections import CHECKED, read_corrections
from micronet.io.sidecar import LOGARITHMS, refuse_second_log, stated_domain
from micronet.networks.card import card_line
from micronet.networks.normalize import log_intensity
from micronet.networks.padding import Padding
from micronet.segment.plan import Task, TimePoint
from micronet.segment.resampling import NetworkGrid
from micronet.segment.settings import Job

__all__ = ["Inputs", "described", "notes_on", "read_inputs", "read_job_volume", "read_mask", "takes_logarithm"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was read, on one grid.

    `volume` is what was asked to be segmented, `start` the mask (bool) or probability that the refinement starts from,
    `annotation` a mask (bool), `keep` has voxels that stay what they are (uint8: 1 lumen, 2 background). `notes` say
    what had to be assumed, `outside` where the volume lies outside of what the network was trained on. `seen` is what
    the network looks at: the volume, or that on a grid of its own, `grid`.
    """

    volume: Volume
    seen: Volume
    grid: NetworkGrid | None
    start: Volume | None
    annotation: Volume | None
    keep: Volume | None
    notes: list[str]
    outside: str | None


def read_inputs(task: Task, say: Callable[[str], None]) -> Inputs:
    """Read all that a task needs, and tell the person; MicronetError for bad input."""
    path, job, time_point = task.path, task.job, task.time_point
    volume = read_job_volume(task.sources.of(path), job, task.weights.flat) if time_point is None else time_point.volume
    say(f"  volume      {described(volume)}")
    grid = _network_grid(volume, task)
    notes = [*volume.notes, *notes_on(volume, grid, task)]
    for note in notes:
        say(f"              note: {note}")
    if volume.spacing_um is None:
        _refuse_lengths(path, job)
    volume, log_taken = _as_wanted(task, volume, say)
    start: Volume | None
    if time_point is not None and time_point.start is not None:
        volume, start = _probability_of(task.sources.of(time_point.start), time_point, volume, path)
        say(f"  start from  {time_point.start.name}")
    else:
        volume, start = read_mask(job.initial_mask, task, volume, "start from", say)
    volume, annotation = read_mask(job.annotation, task, volume, "annotation", say)
    volume, keep = _read_kept(task, volume, say)
    weights = task.weights
    seen = _seen(volume, grid, task, say)
    outside = card_line(weights.path, weights.sha256, path, seen, log_taken=log_taken)
    if outside is not None:
        say(f"  WARNING     {outside}")
    return Inputs(volume, seen, grid, start, annotation, keep, notes, outside)


def read_job_volume(source: Source, job: Job, flat: bool = False) -> Volume:
    """Read a volume as the settings say; errors as `micronet.io.read_volume`."""
    how: dict[str, Any] = {"axes": job.axes, "spacing_um": job.spacing_um, "shape": job.shape, "dtype": job.dtype}
    return read_volume(source, **how, flat=flat, level=job.level)


def _refuse_lengths(path: Path, job: Job) -> None:
    """Raise InputError where something is asked for that needs the voxel size."""
    needy = None
    if job.measures:
        needy = f"which the measures need {setting('measures')}"
    elif job.clean is not None and job.clean.below_um3 is not None:
        needy = f"which a smallest volume needs {setting('clean')}"
    if needy is not None:
        raise InputError(f"'{path}' does not state its voxel size {setting('spacing_um')}, {needy}")


def _network_grid(volume: Volume, task: Task) -> NetworkGrid | None:
    try:
        return NetworkGrid.of(volume, task.job.resample_um)
    except InputError as error:
        raise InputError(f"'{task.path}': {error}") from error


def _seen(volume: Volume, grid: NetworkGrid | None, task: Task, say: Callable[[str], None]) -> Volume:
    """Return the volume as the network looks at it."""
    um = task.job.resample_um
    if um is None:
        return volume
    if grid is None:
        say(f"  resample    not needed: the voxels are {um:g} µm")
        return volume
    shape = " x ".join(str(n) for n in grid.size)
    say(f"  resample    {shape} voxels of {um:g} µm for the network; what is written has the input's own")
    try:
        return grid.volume(volume)
    except InputError as error:
        raise InputError(f"'{task.path}': {error}") from error


def notes_on(volume: Volume, grid: NetworkGrid | None, task: Task) -> list[str]:
    """Return what the network does to the volume; InputError where one that works in µm refuses its voxels."""
    if task.weights.network.in_um:
        taught: Any = task.weights.model
        try:
            taught.checked_spacing(volume.spacing_um)
        except InputError as error:
            raise InputError(f"'{task.path}': {error}") from error
        note = taught.told_spacing(volume.spacing_um)
    else:
        depth, height, width = volume.shape if grid is None else grid.size
        crop = task.job.y_crop if grid is None else grid.depth(task.job.y_crop)
        note = Padding((depth, min(crop or height, height), width), task.weights.network.smallest_axis).note
    return [] if note is None else [note]


def _as_wanted(task: Task, volume: Volume, say: Callable[[str], None]) -> tuple[Volume, bool]:
    """Return the volume or its logarithm, and whether that was taken."""
    if takes_logarithm(task, say):
        return volume.with_array(log_intensity(volume.array)), True
    return volume, False


def takes_logarithm(task: Task, say: Callable[[str], None]) -> bool:
    """Return whether the logarithm of a volume is taken, as the person asks or the network was taught, which is told.

    InputError where the file says that it holds logarithms already, and the person asks for them.
    """
    asked = task.job.intensity == "log"
    if not asked and not (task.weights.taught_on_log and stated_domain(task.path)[0] not in LOGARITHMS):
        return False
    if asked:
        refuse_second_log(task.path)
    say(f"  intensity   the logarithm of what is stored{'' if asked else ', as the network was taught'}")
    return True


def read_mask(
    mask_path: Path | None, task: Task, volume: Volume, role: str, say: Callable[[str], None]
) -> tuple[Volume, Volume | None]:
    """Return the volume, whose length unit may be settled by the mask, and the mask."""
    if mask_path is None:
        return volume, None
    job = task.job
    annotation = read_annotation(
        task.sources.of(mask_path),
        segment=job.segment,
        axes=job.axes,
        spacing_um=job.spacing_um,
        shape=job.shape,
        flat=task.weights.flat,
    )
    volume, mask, note = share_grid(volume, annotation.mask, str(task.path), str(mask_path))
    say(f"  {role:<12}{annotation.description}")
    for one in dict.fromkeys((*mask.notes, *([note] if note else []))):
        say(f"              note: {one}")
    return volume, mask


def _read_kept(task: Task, volume: Volume, say: Callable[[str], None]) -> tuple[Volume, Volume | None]:
    """Return the volume, whose length unit may be settled by the mask, and the voxels that stay as they were edited."""
    job = task.job
    if job.keep is None:
        return volume, None
    volume, kept = read_corrections(
        task.sources.of(job.keep),
        volume,
        str(task.path),
        checked=job.checked or CHECKED,
        lumen=job.segment,
        chooser="segment",
        spacing_um=job.spacing_um,
    )
    say(f"  kept        {kept.description}")
    for note in kept.notes:
        say(f"              note: {note}")
    return volume, kept.volume


def _probability_of(start: Source, time_point: TimePoint, volume: Volume, path: Path) -> tuple[Volume, Volume]:
    """Return the volume, whose length unit may be settled by the probability to start from, and that.

    What the run before has found it hands over; the file holds the same numbers.
    """
    levels = None if time_point.before is None else time_point.before.take_levels()
    if levels is None:
        volume, found, _ = share_grid(volume, read_volume(start), str(path), str(start.path))
    else:
        found = volume.with_array(levels)
    probability = found.array.astype(np.float32)
    probability /= 255
    return volume, found.with_array(probability)


def described(volume: Volume) -> str:
    """Return shape, type, spacing and space of a volume for a person."""
    spacing = volume.spacing_um
    where = "spacing unknown" if spacing is None else "spacing " + " x ".join(f"{s:.4g}" for s in spacing) + " µm"
    shape = " x ".join(str(n) for n in volume.shape)
    return f"{shape} (Z, Y, X), {volume.array.dtype}, {where}, {volume.space or 'space not stated'}"
