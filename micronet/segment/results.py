"""What a task finds: measured, written, and told in a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import setting
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.provenance import versions
from micronet.core.ram import MemoryLimitError
from micronet.core.volume import Volume
from micronet.io import write_label_tiff
from micronet.io.scratch import Scratch
from micronet.measure.footprint import mesh_bytes, vessels_bytes
from micronet.measure.lumen_files import write_surface, write_vessels
from micronet.measure.overlap import Overlap, overlap
from micronet.segment.memory import Memory
from micronet.segment.outputs import above, levels, measure, score_line, scores_record, write_result
from micronet.segment.plan import Found, Plan, Task
from micronet.segment.reading import Inputs
from micronet.segment.refine import Iteration
from micronet.segment.settings import Job

__all__ = [
    "Measured",
    "Prediction",
    "Watch",
    "Written",
    "hand_over",
    "measure_prediction",
    "record_of",
    "scored_line",
    "write_results",
]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What each pass did, and the probability: in memory or (in slabs) on the disk, its planes can be looped over."""

    probability: NDArray[np.float32] | Scratch
    iterations: list[Iteration]


@dataclass(frozen=True, eq=False)
class Measured:
    """The mask, and what it amounts to: as the record has it, as suspicions, as scores, and in a word for the table."""

    mask: NDArray[np.bool_]
    result: dict[str, Any]
    warnings: list[str]
    scores: dict[str, Any] | None

    @property
    def um3(self) -> str:
        """The volume in words, after a comma; nothing where the spacing is not known."""
        return "" if self.result["um3"] is None else f", {self.result['um3']:,.0f} µm³"

    def outcome(self, path: Path) -> Outcome:
        """Return what the table of a batch says."""
        score = "" if self.scores is None else f", F {self.scores['f1']:.3f}"
        return Outcome(path, "done", f"{self.result['voxels']:,} voxels{self.um3}{score}")


@dataclass(frozen=True, eq=False)
class Written:
    """The files by kind, the most bytes of memory that the process took, and a line for each that did not fit."""

    files: dict[str, Path]
    needed: int
    refused: list[str]


class Watch:
    """How many seconds each step took, in their order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, step: str) -> None:
        """Note that a step has ended."""
        now = time.perf_counter()
        self.seconds[step], self._last = now - self._last, now


def measure_prediction(task: Task, inputs: Inputs, prediction: Prediction, say: Callable[[str], None]) -> Measured:
    """Take the mask out of a probability, measure and score it, and tell the person."""
    job, volume = task.job, inputs.volume
    mask = above(prediction.probability, job.threshold)
    result, warnings = measure(mask, volume, job.threshold, job.y_crop)
    scores, line = None, ""
    if inputs.annotation is not None:
        scores, line = _scored(mask, inputs.annotation.array, job.y_crop)
    found = Measured(mask, result, warnings, scores)
    share = f"{100 * result['fraction']:.2f} % of what was looked at"
    say(f"  lumen       {result['voxels']:,} voxels ({share}){found.um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")
    if line:
        say(f"  scores      {line}")
    return found


def write_results(
    plan: Plan, inputs: Inputs, prediction: Prediction, measured: Measured, memory: Memory, say: Callable[[str], None]
) -> Written:
    """Write the files of a result but for its page and its record; FileError when that cannot be done."""
    stem, volume, mask = plan.task.stem, inputs.volume, measured.mask
    with plan.outputs.staged() as folder:
        job = replace(plan.task.job, output=folder)
        files = write_result(
            folder,
            stem,
            volume,
            prediction.probability,
            mask,
            annotation=None if inputs.annotation is None else inputs.annotation.array,
            probability_name=f"{stem}_probability.nrrd",
        )
        on_request = job.files_on_request(stem)
        if job.report:
            files["report"] = on_request["report"]
        needed, refused = _write_measures(job, stem, volume.with_array(mask), memory, files)
        for line in refused:
            say(f"  WARNING     {line}")
        if job.label_tiff:
            files["labels"] = write_label_tiff(on_request["labels"], [mask], volume)
    return Written(files, needed, refused)


def record_of(
    plan: Plan,
    memory: Memory,
    inputs: Inputs,
    prediction: Prediction,
    measured: Measured,
    written: Written,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return what ``<stem>.json`` says."""
    volume, weights = inputs.volume, plan.task.weights
    warnings = [*([inputs.outside] if inputs.outside else []), *measured.warnings, *written.refused]
    return plan.asked | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "volume": {
            "shape_zyx": list(volume.shape),
            "dtype": str(volume.array.dtype),
            "spacing_um_zyx": None if volume.spacing_um is None else list(volume.spacing_um),
            "space": volume.space,
            "units": volume.units,
            "notes": inputs.notes,
        },
        "result": measured.result | {"warnings": warnings},
        "iterations": [asdict(iteration) for iteration in prediction.iterations],
        "scores": measured.scores,
        "files": {kind: write_name(file.name) for kind, file in written.files.items()},
        "seconds": {step: round(lasted, 3) for step, lasted in seconds.items()},
        "memory": {
            "slab_planes": memory.slab_planes,
            "estimated_bytes": written.needed,
            "allowed_bytes": memory.allowed,
        },
        "device": str(next(weights.model.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def hand_over(prediction: Prediction, measured: Measured) -> Found:
    """Return what the next time point starts from, as it is in the files."""
    found = np.empty(prediction.probability.shape, np.uint8)
    for plane, level in zip(found, levels(prediction.probability), strict=True):
        plane[...] = level
    return Found(measured.mask, found)


def _scored(mask: NDArray[np.bool_], annotation: NDArray[np.bool_], y_crop: int | None) -> tuple[dict[str, Any], str]:
    """Return the scores as the record has them, and as a line."""
    mask = mask[:, :y_crop]
    counts = overlap(mask, annotation[:, :y_crop])
    return scored_line(counts, int(np.count_nonzero(annotation[:, mask.shape[1] :])))


def scored_line(counts: Overlap, outside: int) -> tuple[dict[str, Any], str]:
    """Return scores as the record has them, and as a line; `outside` as in `scores_record`."""
    scores = scores_record(counts, outside)
    outside = scores["annotated_outside_y_crop"]
    more = f"; {outside:,} annotated voxels below the crop not counted {setting('y_crop')}" if outside else ""
    return scores, f"{score_line(counts)}{more}"


def _write_measures(job: Job, stem: str, mask: Volume, memory: Memory, files: dict[str, Path]) -> tuple[int, list[str]]:
    """Write the mesh and the tables, as far as memory suffices: how much they take only the mask tells.

    Returns
    -------
    needed : int
        Bytes of the process at its peak.
    refused : list of str
        A line for each that does not fit.
    """
    on_request = job.files_on_request(stem)
    needed, refused = memory.needed, []
    if job.mesh is not None:
        try:
            needed = max(needed, memory.check("mesh", mesh_bytes(mask.array)))
            files |= write_surface(on_request["mesh"], mask)
        except MemoryLimitError as error:
            refused.append(str(error))
    if job.measures:
        try:
            needed = max(needed, memory.check("measures", vessels_bytes(mask.array, mask.spacing_um or (1, 1, 1))))
            files |= write_vessels(job.output, stem, mask)
        except MemoryLimitError as error:
            refused.append(str(error))
    return needed, refused
