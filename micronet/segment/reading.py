"""What a task reads: the volume as the network is to see it, the mask to start from, the annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micronet.core.errors import InputError, setting
from micronet.core.volume import Volume, share_grid
from micronet.io import Source, read_annotation, read_volume
from micronet.io.sidecar import refuse_second_log
from micronet.networks.card import card_line
from micronet.networks.normalize import log_intensity
from micronet.networks.padding import Padding
from micronet.segment.plan import Task, TimePoint
from micronet.segment.settings import Job

__all__ = ["Inputs", "described", "padding_notes", "read_inputs", "read_job_volume"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was read, on one grid.

    `volume` is what the network looks at, `start` the mask (bool) or probability that the refinement starts from,
    `annotation` a mask (bool). `notes` say what had to be assumed, `outside` where the volume lies outside of what the
    network was trained on.
    """

    volume: Volume
    start: Volume | None
    annotation: Volume | None
    notes: list[str]
    outside: str | None


def read_inputs(task: Task, say: Callable[[str], None]) -> Inputs:
    """Read all that a task needs, and tell the person; MicronetError for bad input."""
    path, job, time_point = task.path, task.job, task.time_point
    volume = read_job_volume(task.sources.of(path), job) if time_point is None else time_point.volume
    say(f"  volume      {described(volume)}")
    notes = [*volume.notes, *padding_notes(volume, job)]
    for note in notes:
        say(f"              note: {note}")
    if job.measures and volume.spacing_um is None:
        raise InputError(
            f"'{path}' does not state its voxel size {setting('spacing_um')}, which the measures need "
            f"{setting('measures')}"
        )
    if job.intensity == "log":
        refuse_second_log(path)
        volume = volume.with_array(log_intensity(volume.array))
        say("  intensity   the logarithm of what is stored")
    start: Volume | None
    if time_point is not None and time_point.start is not None:
        volume, start = _probability_of(task.sources.of(time_point.start), time_point, volume, path)
        say(f"  start from  {time_point.start.name}")
    else:
        volume, start = _read_mask(job.initial_mask, task, volume, "start from", say)
    volume, annotation = _read_mask(job.annotation, task, volume, "annotation", say)
    weights = task.weights
    outside = card_line(weights.path, weights.sha256, path, volume, log_taken=job.intensity == "log")
    if outside is not None:
        say(f"  WARNING     {outside}")
    return Inputs(volume, start, annotation, notes, outside)


def read_job_volume(source: Source, job: Job) -> Volume:
    """Read a volume as the settings say; errors as `micronet.io.read_volume`."""
    return read_volume(source, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape, dtype=job.dtype)


def padding_notes(volume: Volume, job: Job) -> list[str]:
    """Return the note on axes that are too short for the network, where there are any."""
    depth, height, width = volume.shape
    note = Padding((depth, min(job.y_crop or height, height), width)).note
    return [] if note is None else [note]


def _read_mask(
    mask_path: Path | None, task: Task, volume: Volume, role: str, say: Callable[[str], None]
) -> tuple[Volume, Volume | None]:
    """Return the volume, whose length unit may be settled by the mask, and the mask."""
    if mask_path is None:
        return volume, None
    job = task.job
    annotation = read_annotation(
        task.sources.of(mask_path), segment=job.segment, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape
    )
    volume, mask, note = share_grid(volume, annotation.mask, str(task.path), str(mask_path))
    say(f"  {role:<12}{annotation.description}")
    for one in dict.fromkeys((*mask.notes, *([note] if note else []))):
        say(f"              note: {one}")
    return volume, mask


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
