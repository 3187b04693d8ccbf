"""One job of a person: a volume file in; a probability, a segmentation, a preview and a record out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from micronet.core.errors import FileError, InputError
from micronet.core.files import make_folder
from micronet.core.names import check_apart, valid, write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.ram import MemoryLimitError
from micronet.core.volume import Volume, share_grid
from micronet.io import (
    claimed_bytes,
    files_of,
    files_read_with,
    open_stack,
    read_annotation,
    read_volume,
    volume_stem,
    write_label_tiff,
)
from micronet.io.mesh import MESH_FORMATS
from micronet.io.scratch import Scratch
from micronet.io.sidecar import refuse_second_log
from micronet.measure.footprint import least_bytes, mesh_bytes, vessels_bytes
from micronet.measure.lumen_files import surface_path, vessel_paths, write_surface, write_vessels
from micronet.measure.overlap import overlap
from micronet.networks import engine
from micronet.networks.card import card_line, card_path
from micronet.networks.normalize import log_intensity
from micronet.networks.padding import Padding
from micronet.networks.registry import Network, network_of
from micronet.networks.weights import load_model
from micronet.segment.memory import Memory, Need, plan_memory
from micronet.segment.outputs import above, measure, score_line, scores_record, write_result
from micronet.segment.refine import Iteration, predict, predict_in_slabs

__all__ = [
    "MADE_BY",
    "Job",
    "TimePoint",
    "Weights",
    "check_results",
    "check_stems",
    "input_record",
    "read_beside",
    "segment_file",
]

#: What the record of a result says that made it.
MADE_BY = "infer.py"
#: Most refinements when asked to go on until the output is stable.
MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Weights:
    """A network with where it came from."""

    path: Path
    sha256: str
    model: nn.Module

    @classmethod
    def load(cls, path: Path, device: str = "cpu", say: Callable[[str], None] | None = None) -> Weights:
        """Read the network onto a device; `say` and FileError as `micronet.networks.weights.load_model`."""
        return cls(path, sha256_of(path), load_model(path, say).to(device))

    @property
    def network(self) -> Network:
        """What the registry knows of it."""
        return network_of(self.model)

    def passes(self, job: Job) -> int:
        """Return how often this network looks at a volume, at most."""
        return self.network.passes(job.passes)


@dataclass(frozen=True)
class Job:
    """How volumes are to be read and segmented; None stands for "as the file says" or the network's default.

    `intensity` ``"log"`` takes the logarithm of linear intensities first, as a data set's key of that name does.
    `axes`, `spacing_um`, `shape` and `dtype` describe files that do not describe themselves; `segment` names
    the segment of `initial_mask` and `annotation` where these are .seg.nrrd files with several. `report` asks for
    an HTML page too, `mesh` for the lumen's surface in that format, `measures` for tables of the vessels, `label_tiff`
    for the mask as a TIFF that Fiji opens. `max_ram` is how many bytes of memory may be taken; no number of a result
    depends on it.
    """

    output: Path = Path("predictions")
    iterations: int | None = None
    until_stable: bool = False
    threshold: float = 0.5
    y_crop: int | None = None
    intensity: Literal["as stored", "log"] = "as stored"
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    segment: str | None = None
    initial_mask: Path | None = None
    annotation: Path | None = None
    report: bool = False
    max_ram: int | None = None
    mesh: str | None = None
    measures: bool = False
    label_tiff: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InputError(f"--threshold must lie in [0, 1), found {self.threshold}")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"--iterations must be at least 1, found {self.iterations}")

    @property
    def passes(self) -> int:
        """Refinements at most."""
        return self.iterations or (MOST_ITERATIONS if self.until_stable else 10)

    @property
    def options(self) -> set[str]:
        """What is asked for beside the usual files."""
        wished = {"--report": self.report, "--mesh": self.mesh, "--measures": self.measures}
        return {name for name, value in wished.items() if value}

    def files_on_request(self, stem: str) -> dict[str, Path]:
        """Return the files, by kind, that are written only when asked for, and are."""
        files = {"report": self.output / f"{stem}_report.html"} if self.report else {}
        if self.mesh is not None:
            files["mesh"] = surface_path(self.output, stem, self.mesh)
        if self.label_tiff:
            files["labels"] = self.output / f"{stem}_labels.tif"
        return files | (vessel_paths(self.output, stem) if self.measures else {})

    def outputs(self, stem: str) -> Outputs:
        """Return the files that the results of a volume consist of, and those that other settings would write too."""
        everything = [replace(self, report=True, measures=True, label_tiff=True, mesh=mesh) for mesh in MESH_FORMATS]
        possible = {file.name for job in everything for file in job.files_on_request(stem).values()}
        names = [f"{stem}_probability.nrrd", f"{stem}.seg.nrrd", f"{stem}_preview.png"]
        names += [file.name for file in self.files_on_request(stem).values()]
        return Outputs(self.output, f"{stem}.json", MADE_BY, names, outdated=sorted(possible - set(names)))

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        settings = asdict(self)
        for name in ("output", "report", "max_ram", "mesh", "measures", "label_tiff"):
            del settings[name]
        return {key: _plain(value) for key, value in settings.items()} | {"iterations": self.passes}


@dataclass(frozen=True, eq=False)
class TimePoint:
    """One time point of a recording, read already.

    `stem` names its files, `source` is what the record says of the input, and `start` the file with the probability
    (0 to 255) that the refinement starts from, instead of the job's initial mask. `beside` is how many bytes the caller
    holds meanwhile.
    """

    stem: str
    volume: Volume
    source: dict[str, Any]
    start: Path | None = None
    beside: int = 0


def check_stems(inputs: Sequence[Path]) -> list[str]:
    """Raise InputError when two inputs would write the same files; return what is nearly so, for the person."""
    return check_apart((volume_stem(path), path) for path in inputs)


def read_beside(job: Job, weights: Path) -> list[Path]:
    """Return the files that are read for every volume: masks, weights, the card of these."""
    masks = [mask for mask in (job.initial_mask, job.annotation) if mask is not None]
    return [*(file for mask in masks for file in files_read_with(mask)), weights, card_path(weights)]


def check_results(inputs: Sequence[Path], weights: Path, job: Job) -> None:
    """Raise MicronetError where results would take the place of anything but earlier ones, before any is computed."""
    read = [file for path in inputs for file in files_read_with(path)]
    check_outputs([job.outputs(volume_stem(path)) for path in inputs], [*read, *read_beside(job, weights)])


def segment_file(
    path: Path,
    weights: Weights,
    job: Job,
    *,
    say: Callable[[str], None],
    on_iteration: Callable[[Iteration], None] | None = None,
    force: bool = False,
    time_point: TimePoint | None = None,
) -> Outcome:
    """Segment one volume and write what was found.

    Parameters
    ----------
    path : Path
        The volume.
    weights : Weights
        The network.
    job : Job
        The settings.
    say : callable
        Receives what was read, chosen, found and written, a line at a time.
    on_iteration : callable, optional
        Receives an `Iteration` after each pass.
    force : bool
        Do it again, and replace what is there, even when the result exists.
    time_point : TimePoint, optional
        What to segment of `path`, where that holds or belongs to a recording.

    Returns
    -------
    Outcome
        ``<stem>.json`` is written last, so a result with it is whole.

    Raises
    ------
    MicronetError
        For bad input, or too little memory; nothing has been written then.
    """
    try:
        with ExitStack() as scratches:
            return _segment_file(path, weights, job, say, on_iteration, force, time_point, scratches)
    except MemoryError:
        raise InputError(f"'{path}': memory ran out; say how much may be taken, --max-ram SIZE") from None
    except torch.cuda.OutOfMemoryError:
        raise InputError(f"'{path}' does not fit into the memory of the GPU; --device cpu works in slabs") from None


def _segment_file(
    path: Path,
    weights: Weights,
    job: Job,
    say: Callable[[str], None],
    on_iteration: Callable[[Iteration], None] | None,
    force: bool,
    time_point: TimePoint | None,
    scratches: ExitStack,
) -> Outcome:
    stem = volume_stem(path) if time_point is None else time_point.stem
    roles = {"initial_mask": (time_point and time_point.start) or job.initial_mask, "annotation": job.annotation}
    masks = {role: mask for role, mask in roles.items() if mask is not None}
    outputs = job.outputs(stem)
    began = time.perf_counter()
    check_outputs([outputs], [*files_read_with(path), *read_beside(job, weights.path)])
    done = outputs.read()
    asked = {
        "input": input_record(path) if time_point is None else time_point.source,
        "weights": {"path": write_name(weights.path), "sha256": weights.sha256, "network": weights.network.name},
        "masks": {role: input_record(mask) for role, mask in masks.items()},
        "parameters": job.parameters(),
    }
    on_request = job.files_on_request(stem)
    if done is not None and not force:
        outcome = _already_done(path, outputs.record_path, done, asked)
        missing = [kind for kind, file in on_request.items() if not file.exists()]
        if not missing:
            return outcome
        say(f"  {missing[0]:<12}not written before; segmented again for it")
    outputs.check_room()
    memory = _plan(path, weights, job, time_point, tuple(masks.values()))
    say(f"  memory      {memory.description}")
    if time_point is None:
        volume = read_volume(path, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape, dtype=job.dtype)
    else:
        volume = time_point.volume
    say(f"  volume      {_describe(volume)}")
    padding = Padding((volume.shape[0], min(job.y_crop or volume.shape[1], volume.shape[1]), volume.shape[2]))
    notes = [*volume.notes, *([] if padding.note is None else [padding.note])]
    for note in notes:
        say(f"              note: {note}")
    if job.measures and volume.spacing_um is None:
        raise InputError(f"'{path}' does not state its voxel size, which --measures needs: give --spacing")
    if job.intensity == "log":
        refuse_second_log(path)
        volume = volume.with_array(log_intensity(volume.array))
        say("  intensity   the logarithm of what is stored")
    if time_point is None or time_point.start is None:
        volume, start = _read_mask(job.initial_mask, job, volume, path, "start from", say)
    else:
        volume, start = _read_probability(time_point.start, volume, path, say)
    volume, truth = _read_mask(job.annotation, job, volume, path, "annotation", say)
    outside = card_line(weights.path, weights.sha256, path, volume, log_taken=job.intensity == "log")
    if outside is not None:
        say(f"  WARNING     {outside}")
    read_seconds = time.perf_counter() - began

    report = None
    if job.report:
        from micronet.segment.report import SegmentReport  # imports what takes 0.3 s, and few ask for it

        report = SegmentReport(volume, job.threshold)
        if start is not None:
            report.start(start.array)
    iterations: list[Iteration] = []

    def note_iteration(iteration: Iteration) -> None:
        iterations.append(iteration)
        if on_iteration is not None:
            on_iteration(iteration)

    def note_probability(now: NDArray[np.float32] | Scratch) -> None:
        if report is not None:
            report.add(now, iterations[-1])

    # In slabs the probability is never in memory as a whole; its planes can be looped over and sliced in both cases.
    probability: NDArray[np.float32] | Scratch
    how: dict[str, Any] = {
        "iterations": job.passes,
        "initial_mask": start,
        "on_iteration": note_iteration,
        "y_crop": job.y_crop,
        "until_stable": job.until_stable,
        "on_probability": note_probability,
    }
    try:
        if memory.slab_planes is None:
            probability = predict(volume, weights.model, **how)
        else:
            make_folder(job.output)
            in_slabs = predict_in_slabs(volume, weights.model, folder=job.output, planes=memory.slab_planes, **how)
            probability = scratches.enter_context(in_slabs)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    predict_seconds = time.perf_counter() - began - read_seconds
    engine.forget_memory()  # what follows needs some itself
    if weights.network.refines:
        say(f"  changes     {_changes(iterations, job)}")

    mask = above(probability, job.threshold)
    result, warnings = measure(mask, volume, job.threshold, job.y_crop)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    say(f"  lumen       {result['voxels']:,} voxels ({100 * result['fraction']:.2f} % of what was looked at){um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")
    scores = None
    if truth is not None:
        counts = overlap(mask[:, : job.y_crop], truth.array[:, : job.y_crop])
        scores = scores_record(counts, outside=int(np.count_nonzero(truth.array[:, mask[:, : job.y_crop].shape[1] :])))
        more = f"; {scores['annotated_outside_y_crop']:,} annotated voxels below --y-crop not counted"
        say(f"  scores      {score_line(counts)}{more if scores['annotated_outside_y_crop'] else ''}")

    with outputs.staged() as folder:
        files = write_result(
            folder,
            stem,
            volume,
            probability,
            mask,
            annotation=None if truth is None else truth.array,
            probability_name=f"{stem}_probability.nrrd",
        )
        here = replace(job, output=folder)
        on_request = here.files_on_request(stem)
        if job.report:
            files["report"] = on_request["report"]
        needed, refused = _write_measures(here, stem, volume.with_array(mask), memory, files)
        for line in refused:
            say(f"  WARNING     {line}")
        if job.label_tiff:
            files["labels"] = write_label_tiff(on_request["labels"], [mask], volume)
    record = asked | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "volume": {
            "shape_zyx": list(volume.shape),
            "dtype": str(volume.array.dtype),
            "spacing_um_zyx": None if volume.spacing_um is None else list(volume.spacing_um),
            "space": volume.space,
            "units": volume.units,
            "notes": notes,
        },
        "result": result | {"warnings": [*([outside] if outside else []), *warnings, *refused]},
        "iterations": [asdict(iteration) for iteration in iterations],
        "scores": scores,
        "files": {kind: write_name(file.name) for kind, file in files.items()},
        "seconds": {
            "read": round(read_seconds, 3),
            "predict": round(predict_seconds, 3),
            "write": round(time.perf_counter() - began - read_seconds - predict_seconds, 3),
        },
        "memory": {
            "slab_planes": memory.slab_planes,
            "estimated_bytes": needed,
            "allowed_bytes": memory.allowed,
        },
        "device": str(next(weights.model.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    if report is not None:
        with outputs.staged() as folder:
            page = replace(job, output=folder).files_on_request(stem)["report"]
            report.write(page, probability, record, annotation=None if truth is None else truth.array)
    outputs.finish(record)
    names = [*(file.name for file in files.values()), outputs.record_path.name]
    say(f"  wrote       {job.output}/: {', '.join(names)}")
    if refused:
        raise InputError(f"'{path}': {refused[0]} (all else is written)")
    score = "" if scores is None else f", F {scores['f1']:.3f}"
    return Outcome(path, "done", f"{result['voxels']:,} voxels{um3}{score}")


def _write_measures(job: Job, stem: str, mask: Volume, memory: Memory, files: dict[str, Path]) -> tuple[int, list[str]]:
    """Write the mesh and the tables, as far as memory suffices: how much they take only the mask tells.

    Returns
    -------
    needed : int
        Bytes of the process at its peak.
    refused : list of str
        A line for each option that does not fit.
    """
    on_request = job.files_on_request(stem)
    needed, refused = memory.needed, []
    if job.mesh is not None:
        try:
            needed = max(needed, memory.check("--mesh", mesh_bytes(mask.array)))
            files |= write_surface(on_request["mesh"], mask)
        except MemoryLimitError as error:
            refused.append(str(error))
    if job.measures:
        try:
            needed = max(needed, memory.check("--measures", vessels_bytes(mask.array, mask.spacing_um or (1, 1, 1))))
            files |= write_vessels(job.output, stem, mask)
        except MemoryLimitError as error:
            refused.append(str(error))
    return needed, refused


def input_record(path: Path) -> dict[str, Any]:
    """Return what a record says of an input: its path and its hash."""
    return {"path": write_name(path), "sha256": sha256_of(*files_of(path))}


def _plan(path: Path, weights: Weights, job: Job, time_point: TimePoint | None, masks: tuple[Path, ...]) -> Memory:
    """Decide, by the headers alone, whether the volume is segmented whole or in slabs."""
    if time_point is None:
        with open_stack(path, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape, dtype=job.dtype) as stack:
            grid = stack.grid
    else:
        grid = time_point.volume
    need = Need(
        grid.shape,
        grid.shape[1] if job.y_crop is None else min(max(job.y_crop, 1), grid.shape[1]),
        grid.array.dtype,
        logarithm=job.intensity == "log",
        masks=tuple(claimed_bytes(mask, axes=job.axes, shape=job.shape) for mask in masks),
        soft_start=time_point is not None and time_point.start is not None,
        beside=0 if time_point is None else time_point.beside,
        options={name: least for name, least in least_bytes(math.prod(grid.shape)).items() if name in job.options},
    )
    try:
        return plan_memory(need, weights.model, job.max_ram, job.output)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error


def _already_done(path: Path, record_path: Path, recorded: dict[str, Any], asked: dict[str, Any]) -> Outcome:
    try:
        same = all(recorded[key] == asked[key] for key in ("parameters", "masks")) and all(
            recorded[key]["sha256"] == asked[key]["sha256"] for key in ("input", "weights")
        )
    except (KeyError, TypeError):
        same = False
    if not same:
        raise FileError(
            f"'{record_path}' holds a result of other settings, weights or input for '{path.name}'; "
            "--force replaces it, -o DIR writes elsewhere"
        )
    return Outcome(path, "skipped", f"done before ({record_path}); --force repeats it")


def _read_mask(
    mask_path: Path | None, job: Job, volume: Volume, path: Path, role: str, say: Callable[[str], None]
) -> tuple[Volume, Volume | None]:
    """Return the volume, whose length unit may be settled by the mask, and the mask."""
    if mask_path is None:
        return volume, None
    annotation = read_annotation(
        mask_path,
        segment=job.segment,
        axes=job.axes,
        spacing_um=job.spacing_um,
        shape=job.shape,
    )
    volume, mask, note = share_grid(volume, annotation.mask, str(path), str(mask_path))
    say(f"  {role:<12}{annotation.description}")
    for one in dict.fromkeys((*mask.notes, *([note] if note else []))):
        say(f"              note: {one}")
    return volume, mask


def _read_probability(
    probability_path: Path, volume: Volume, path: Path, say: Callable[[str], None]
) -> tuple[Volume, Volume]:
    """Return the volume, whose length unit may be settled by the probability, and that."""
    volume, found, _ = share_grid(volume, read_volume(probability_path), str(path), str(probability_path))
    say(f"  start from  {probability_path.name}")
    probability = found.array.astype(np.float32)
    probability /= 255
    return volume, found.with_array(probability)


def _changes(iterations: Sequence[Iteration], job: Job) -> str:
    flips = " ".join(f"{iteration.flipped:,}" for iteration in iterations)
    end = ""
    if job.until_stable:
        end = "; stable" if iterations[-1].stable else f"; NOT stable after {len(iterations)} iterations"
    return f"voxels that crossed 0.5, by iteration: {flips}{end}"


def _describe(volume: Volume) -> str:
    spacing = volume.spacing_um
    where = "spacing unknown" if spacing is None else "spacing " + " x ".join(f"{s:.4g}" for s in spacing) + " µm"
    shape = " x ".join(str(n) for n in volume.shape)
    return f"{shape} (Z, Y, X), {volume.array.dtype}, {where}, {volume.space or 'space not stated'}"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return valid(value)
    return write_name(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
