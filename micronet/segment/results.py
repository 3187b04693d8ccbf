"""What a task finds: measured, written, and told in a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import setting
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.planes import Planes
from micronet.core.provenance import versions
from micronet.core.ram import MemoryLimitError
from micronet.core.volume import Volume
from micronet.io import write_label_tiff
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.measure.footprint import mesh_bytes, vessels_bytes
from micronet.measure.lumen_files import write_surface, write_vessels
from micronet.measure.overlap import Overlap, overlap
from micronet.report.annotated import drawn_only_in
from micronet.report.preview import Scene, write_paper_figure
from micronet.segment.memory import Memory
from micronet.segment.outputs import above, levels, measure, score_line, scores_record, write_result
from micronet.segment.plan import Found, Plan, Task, volume_record
from micronet.segment.reading import Inputs
from micronet.segment.refine import Iteration, has_settled
from micronet.segment.settings import Job

if TYPE_CHECKING:
    from micronet.measure.pieces import Cleaned

__all__ = [
    "Measured",
    "Prediction",
    "Watch",
    "Written",
    "changes",
    "hand_over",
    "measure_found",
    "measure_mask",
    "measure_prediction",
    "record_of",
    "scene_of",
    "scored_line",
    "write_on_request",
    "write_results",
    "write_shapes",
]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What each pass did, and the probability: in memory or (in slabs) on the disk, its planes can be looped over."""

    probability: Planes
    iterations: list[Iteration]


@dataclass(frozen=True, eq=False)
class Measured:
    """The mask, and what it amounts to: as the record has it, as suspicions, as scores, and what cleaning changed."""

    mask: NDArray[np.bool_]
    result: dict[str, Any]
    warnings: list[str]
    scores: dict[str, Any] | None
    cleaned: Cleaned | None = None

    @property
    def um3(self) -> str:
        """The volume in words, after a comma; nothing where the spacing is not known."""
        return "" if self.result["um3"] is None else f", {self.result['um3']:,.0f} µm³"

    def outcome(self, path: Path, record: Mapping[str, Any], added: str = "") -> Outcome:
        """Return what the table of a batch says; `added` is what was put to an earlier result."""
        score = "" if self.scores is None else f", F {self.scores['f1']:.3f}"
        status = "not settled" if record.get("settled") is False else "done"
        words = f"{self.result['voxels']:,} voxels{self.um3}{score}"
        return Outcome(path, status, f"{words}{added}", record["result"])


@dataclass(frozen=True, eq=False)
class Written:
    """The files by kind, the most bytes of memory that were taken, a line for what did not fit, and other warnings.

    `vessels` sums up the tables of the vessels, where they were asked for.
    """

    files: dict[str, Path]
    needed: int
    refused: list[str]
    warnings: list[str]
    vessels: dict[str, Any]


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
    return measure_found(task, inputs, above(prediction.probability, task.job.threshold), say)


def measure_found(task: Task, inputs: Inputs, mask: NDArray[np.bool_], say: Callable[[str], None]) -> Measured:
    """Clean a mask in place where that is asked for, measure and score it, and tell the person."""
    cleaned = None
    if task.job.clean is not None:
        from micronet.measure.pieces import clean_mask  # it imports scikit-image, for cleaning only

        cleaned = clean_mask(mask, task.job.clean, inputs.volume.voxel_um3)
        say(f"  clean       {cleaned}")
        if inputs.keep is not None:
            mask[inputs.keep.array == LUMEN] = True
            mask[inputs.keep.array == BACKGROUND] = False
    return replace(measure_mask(task, inputs, mask, say), cleaned=cleaned)


def measure_mask(task: Task, inputs: Inputs, mask: NDArray[np.bool_], say: Callable[[str], None]) -> Measured:
    """Measure and score a mask, and tell the person."""
    job, volume = task.job, inputs.volume
    threshold = None if task.weights.exclusive else job.threshold
    result, warnings = measure(mask, volume, threshold, job.y_crop, task.segment)
    scores, line, drawn = None, "", ""
    if inputs.annotation is not None:
        scores, line = _scored(mask, inputs.annotation.array, job.y_crop)
        drawn = drawn_only_in(inputs.annotation.array[:, : job.y_crop])
    found = Measured(mask, result, warnings, scores)
    share = f"{100 * result['fraction']:.2f} % of what was looked at"
    say(f"  {task.segment:<11} {result['voxels']:,} voxels ({share}){found.um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")
    if line:
        say(f"  scores      {line}")
    if drawn:
        say(f"  note        {drawn}")
    return found


def changes(iterations: Sequence[Iteration], task: Task) -> str:
    """Return the line that says what each refinement changed."""
    if not task.settles:
        flips = " ".join(f"{iteration.flipped:,}" for iteration in iterations)
        return f"voxels that crossed 0.5, by iteration: {flips}"
    last = iterations[-1]
    part = f"{100 * last.flipped / max(last.foreground, 1):.2f} % of the lumen's voxels still flip in a pass"
    word = "settled" if has_settled(iterations) else "NOT settled"
    return f"{word} after {len(iterations)} iterations: {part}"


def write_results(
    plan: Plan, inputs: Inputs, prediction: Prediction, measured: Measured, memory: Memory, say: Callable[[str], None]
) -> Written:
    """Write the files of a result but for its page and its record; FileError when that cannot be done."""
    stem, volume, mask = plan.task.stem, inputs.volume, measured.mask
    with plan.outputs.staged() as folder:
        job = replace(plan.task.job, output=folder)
        scene = scene_of(inputs, mask, job)
        probability_name = f"{stem}_probability.nrrd"
        files = write_result(folder, stem, volume, prediction.probability, scene, probability_name=probability_name)
        if job.report:
            files["report"] = job.files_on_request(stem)["report"]
        return write_on_request(job, stem, scene, volume.with_array(mask), memory, files, say)


def scene_of(inputs: Inputs, mask: NDArray[np.bool_], job: Job) -> Scene:
    """Return what pictures of a result show."""
    volume = inputs.volume
    annotation = None if inputs.annotation is None else inputs.annotation.array
    return Scene(volume.array, mask, volume.spacing_um, annotation, y_crop=job.y_crop)


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
    warnings = [*([inputs.outside] if inputs.outside else []), *measured.warnings, *written.warnings, *written.refused]
    settled = {"settled": has_settled(prediction.iterations)} if plan.task.settles else {}
    return plan.asked | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "volume": volume_record(volume, inputs.notes),
        "result": measured.result | written.vessels | {"warnings": warnings},
        "iterations": [asdict(iteration) for iteration in prediction.iterations],
        **settled,
        **({} if measured.cleaned is None else {"cleaned": asdict(measured.cleaned)}),
        "scores": measured.scores,
        "files": {kind: write_name(file.name) for kind, file in written.files.items()},
        "seconds": {step: round(lasted, 3) for step, lasted in seconds.items()},
        "memory": {
            "slab_planes": memory.slab_planes,
            **({} if memory.windows is None else {"windows": memory.windows.record}),
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


def write_on_request(
    job: Job,
    stem: str,
    scene: Scene,
    mask: Volume,
    memory: Memory,
    files: dict[str, Path],
    say: Callable[[str], None],
) -> Written:
    """Write figure, mesh, tables and label TIFF where they are asked for, beside `files`.

    Mesh and tables are written as far as memory suffices: how much they take only the mask tells.
    """
    on_request = job.files_on_request(stem)
    if job.figure is not None:
        write_paper_figure(on_request["figure"], scene, job.figure)
        files["figure"] = on_request["figure"]
    written = write_shapes(job, stem, on_request.get("mesh"), mask, memory, say)
    files |= written.files
    if job.label_tiff:
        files["labels"] = write_label_tiff(on_request["labels"], [mask.array], mask)
    return replace(written, files=files)


def write_shapes(
    job: Job, stem: str, surface: Path | None, mask: Volume, memory: Memory, say: Callable[[str], None]
) -> Written:
    """Write the surface of a mask into a file, and tables of its vessels, where they are asked for and memory suffices.

    `stem` is how the names of the tables begin, in the job's folder.
    """
    files: dict[str, Path] = {}
    needed, refused, warnings = memory.needed, list[str](), list[str]()
    vessels: dict[str, Any] = {}
    if surface is not None:
        try:
            needed = max(needed, memory.check("mesh", mesh_bytes(mask.array)))
            files |= write_surface(surface, mask)
        except MemoryLimitError as error:
            refused.append(str(error))
    if job.measures:
        try:
            needed = max(needed, memory.check("measures", vessels_bytes(mask.array, mask.spacing_um or (1, 1, 1))))
            tables, vessels = write_vessels(job.output, stem, mask, warnings.append)
            files |= tables
        except MemoryLimitError as error:
            refused.append(str(error))
    for line in (*refused, *warnings):
        say(f"  WARNING     {line}")
    return Written(files, needed, refused, warnings, vessels)
