"""One job of a person: a volume and what was painted on it in; weights, a mask and where to paint next out.

`teach_file` goes through it: plan, read, teach (`course`), look at the volume, measure, write and record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import file_part, valid, write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import REPLACE, Outputs, check_outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.ram import Allowance
from micronet.core.volume import Volume
from micronet.io import (
    Segment,
    claimed_bytes,
    files_of,
    open_stack,
    read_labels,
    read_volume,
    volume_stem,
    write_segmentation,
)
from micronet.io.labels import LUMEN, Labels
from micronet.io.sidecar import refuse_second_log, stated_domain
from micronet.networks import engine
from micronet.networks.card import AS_STORED, Look, card_path, expected, planned_weights, write_card
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.networks.taught import Member, Taught
from micronet.networks.weights import load_model, save_state
from micronet.segment.outputs import above, measure, write_result
from micronet.training.teach.course import Course, Progress, teach
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.look import uncertain_places, write_look

__all__ = ["Found", "TeachJob", "WouldReplaceError", "looked", "save_found", "teach_file"]

#: What the record of a result says that made it.
MADE_BY = "teach.py"
_BACKGROUND_COLOUR = (0.35, 0.55, 0.85)
Array = NDArray[np.float32]
Say = Callable[[str], None]


class WouldReplaceError(InputError):
    """What is to be written would take the place of what is read: labels saved over an earlier result."""


@dataclass(frozen=True)
class TeachJob:
    """What was painted, how to learn from it and where to write.

    `labels` is a file as `micronet.io.read_labels` takes it, `lumen` and `background` name its segments. `name` is that
    of the weights, by default the volume's. `start` are weights that were taught before. `free_labels` lets the mask
    differ from what was painted. The others are as in `micronet.segment.settings.Job`.
    """

    labels: Path
    output: Path = Path("taught")
    weights_folder: Path = Path("trained_models")
    name: str | None = None
    lumen: str | None = None
    background: str | None = None
    intensity: Literal["as stored", "log"] = "as stored"
    start: Path | None = None
    seed: int = 0
    threshold: float = 0.5
    free_labels: bool = False
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    max_ram: int | None = None

    def weights_path(self, stem: str) -> Path:
        """Return where the weights go."""
        return self.weights_folder / f"taught_{file_part(self.name or stem)}.pt"

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        settings = asdict(self)
        for name in ("output", "weights_folder", "max_ram", "labels", "start"):
            del settings[name]
        return {key: _plain(value) for key, value in settings.items()}


def _plain(value: Any) -> Any:
    return valid(value) if isinstance(value, str) else list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where everything goes, and how the record begins."""

    path: Path
    job: TeachJob
    results: Outputs
    weights: Outputs
    asked: dict[str, Any]
    #: The file of the volume, where it is not `path`: its sidecar says what the numbers are.
    source: Path | None = None

    @property
    def stem(self) -> str:
        return volume_stem(self.path)


def teach_file(
    path: Path, job: TeachJob, *, say: Say, on_progress: Progress | None = None, force: bool = False
) -> Outcome:
    """Learn from the labels of a volume, segment all of it, and write mask, weights and where to paint next.

    Parameters
    ----------
    path : Path
        The volume.
    job : TeachJob
    say : callable
        Receives what was read, chosen, found and written, a line at a time.
    on_progress : callable, optional
        As `micronet.training.teach.course.Progress`; may raise to stop, nothing has been written then.
    force : bool
        Do it again, and replace what is there.

    Returns
    -------
    Outcome
        ``<stem>.json`` is written last, so a result with it is whole.

    Raises
    ------
    MicronetError
        For bad input, or too little memory; nothing has been written then.
    """
    began = time.perf_counter()
    plan = _planned(path, job)
    if not force and (earlier := _earlier(plan)) is not None:
        return earlier
    for outputs in (plan.results, plan.weights):
        outputs.check_room()
    _check_memory(plan)
    start = None if job.start is None else _start(job.start)
    volume, labels, spacing_um = _read(plan, say)
    try:
        lesson = Lesson(normalize_image(volume.array), labels.volume.array, spacing_um)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    try:
        course = teach(lesson, job.seed, on_progress, earlier=start)
    except InputError as error:
        raise InputError(f"'{job.labels}': {error}") from error
    except MemoryError:
        raise InputError(f"'{path}': memory ran out; crop the volume, or annotate fewer voxels") from None
    course.network.logarithm = job.intensity == "log"
    say(f"  learned     {course.choice.told()}")
    learned = time.perf_counter()
    probability, spread = looked(course.network, lesson)
    mask = above(probability, job.threshold)
    if not job.free_labels:
        mask[labels.volume.array > 0] = labels.volume.array[labels.volume.array > 0] == LUMEN
    result, warnings = measure(mask, volume, job.threshold, None)
    _tell_result(result, warnings, say)
    found = Found(volume, labels, lesson, course, probability, spread, mask)
    seconds = {"learn": learned - began, "predict": time.perf_counter() - learned}
    _write(plan, found, {"result": result | {"warnings": warnings}, "seconds": seconds}, say)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    return Outcome(path, "done", f"{result['voxels']:,} voxels{um3}")


def save_found(
    found: Found,
    job: TeachJob,
    stem: str,
    about: Mapping[str, Any],
    *,
    made_by: str,
    source: Path | None = None,
    say: Say,
) -> list[Path]:
    """Write what was taught elsewhere than by `teach_file`: the same files, and what was painted.

    Parameters
    ----------
    found : Found
    job : TeachJob
        `labels` is where what was painted goes, relative to the output: a .seg.nrrd that `teach_file` reads.
    stem : str
        Of the files.
    about : mapping of str to Any
        What the record says of the input.
    made_by : str
        What the record says wrote it. What the same maker wrote there before is replaced, nothing else.
    source : Path, optional
        The file of the volume, where it has one; never replaced.
    say : callable
        As `teach_file`.

    Returns
    -------
    list of Path
        What was written, the record last.

    Raises
    ------
    MicronetError
        If something else is in the way, or a file cannot be written; nothing has been replaced then.
    """
    results, weights = _outputs(job, stem, made_by, [job.labels.as_posix()])
    check_outputs([results, weights], [] if source is None else files_of(source))
    if results.read() is None and weights.owns(weights.paths[0].name):
        raise FileError(f"'{weights.paths[0]}' exists: give another name {setting('name')}")
    array, grid = found.labels.volume.array, found.volume
    with results.staged() as folder:
        segments = [Segment(name="lumen"), Segment(name="background", color=_BACKGROUND_COLOUR)]
        write_segmentation(folder / job.labels, list(zip(segments, (array == 1, array == 2), strict=True)), grid)
    painted = {"path": job.labels.as_posix(), "sha256": sha256_of(job.output / job.labels)}
    asked = {**about, "labels": painted, "parameters": job.parameters() | {"y_crop": found.y_crop}}
    plan = _Plan(job.output / f"{stem}.nrrd", job, results, weights, asked, source)
    result, warnings = measure(found.mask, grid, job.threshold, found.y_crop)
    _write(plan, found, {"result": result | {"warnings": warnings}}, say)
    return [*results.paths[:-1], weights.paths[0], results.record_path]


@dataclass(frozen=True, eq=False)
class Found:
    """All that is written; `y_crop` is how many voxels of Y were looked at, None for all."""

    volume: Volume
    labels: Labels
    lesson: Lesson
    course: Course
    probability: Array
    spread: Array | None
    mask: NDArray[np.bool_]
    y_crop: int | None = None


def _planned(path: Path, job: TeachJob) -> _Plan:
    """Check what would be written, before anything is read."""
    results, weights = _outputs(job, volume_stem(path), MADE_BY)
    inputs = {"input": path, "labels": job.labels}
    read = {role: files_of(file) for role, file in inputs.items()}
    every = [file for several in read.values() for file in several]
    if job.start is not None:
        inputs["start"], read["start"] = job.start, (job.start,)
        every += [job.start, card_path(job.start)]
    try:
        check_outputs([results, weights], every)
    except InputError as error:
        raise WouldReplaceError(str(error)) from error
    asked: dict[str, Any] = {
        role: {"path": write_name(file), "sha256": sha256_of(*read[role])} for role, file in inputs.items()
    }
    return _Plan(path, job, results, weights, asked | {"parameters": job.parameters()})


def _outputs(job: TeachJob, stem: str, made_by: str, more: Sequence[str] = ()) -> tuple[Outputs, Outputs]:
    """Return the files of a result, and those of the weights."""
    files = [f"{stem}_probability.nrrd", f"{stem}.seg.nrrd", f"{stem}_preview.png"]
    names = [*files, f"{stem}_look.csv", f"{stem}_look.seg.nrrd", *more]
    results = Outputs(job.output, f"{stem}.json", made_by, names)
    advice = f"give the weights another name {setting('name')}"
    return results, planned_weights(job.weights_path(stem), advice=advice)


def _earlier(plan: _Plan) -> Outcome | None:
    """Return the outcome where all is there already; FileError where something else is."""
    done = plan.results.read()
    if done is None:
        name = plan.weights.paths[0].name
        if plan.weights.owns(name):
            raise FileError(
                f"'{plan.weights.paths[0]}' exists: replace it {setting('force')}, or give another name "
                f"{setting('name')}"
            )
        return None
    record = plan.results.record_path
    try:
        same = done["parameters"] == plan.asked["parameters"] and all(
            done[role]["sha256"] == plan.asked[role]["sha256"] if role in plan.asked else role not in done
            for role in ("input", "labels", "start")
        )
    except (KeyError, TypeError):
        same = False
    if not same:
        raise FileError(
            f"'{record}' holds a result of other labels, settings or input for '{plan.path.name}'; {REPLACE}"
        )
    return Outcome(plan.path, "skipped", f"done before ({record}); it can be done again {setting('force')}")


def _check_memory(plan: _Plan) -> None:
    """Raise MemoryLimitError where the volume is too large, by the headers alone."""
    job = plan.job
    with open_stack(plan.path, axes=job.axes, spacing_um=job.spacing_um) as stack:
        stored, voxels = stack.grid.array.nbytes, stack.grid.array.size
    labels = claimed_bytes(job.labels, axes=job.axes)
    logarithm = 4 * voxels * (job.intensity == "log")
    # Normalised image, mean, squares and one member's probability; µ-Nets resample what they look at.
    work = max(stored, labels, 16 * voxels + 24 * voxels)
    Allowance.of(job.max_ram).check(stored + labels + logarithm, work, f"'{plan.path}'")


def _start(path: Path) -> Taught:
    """Read what was taught before; a µ-Net is taken as it is, in steps of its card."""
    model = load_model(path)
    if not isinstance(model, Taught):
        raise InputError(f"'{path}' was not taught; teaching starts from what teach.py wrote {setting('start')}")
    return model


def _read(plan: _Plan, say: Say) -> tuple[Volume, Labels, tuple[float, float, float]]:
    """Return the volume as the network is to see it, the labels, and the voxel size to work with."""
    job, path = plan.job, plan.path
    volume = read_volume(path, axes=job.axes, spacing_um=job.spacing_um)
    volume, labels = read_labels(
        job.labels,
        volume,
        str(path),
        lumen=job.lumen,
        background=job.background,
        axes=job.axes,
        spacing_um=job.spacing_um,
    )
    spacing_um = volume.spacing_um or (1.0, 1.0, 1.0)
    size = " x ".join(f"{length:.4g}" for length in spacing_um)
    where = "spacing unknown" if volume.spacing_um is None else f"spacing {size} µm"
    shape = " x ".join(str(n) for n in volume.shape)
    say(f"  volume      {shape} (Z, Y, X), {volume.array.dtype}, {where}")
    say(f"  labels      {labels.description}")
    notes = [*volume.notes, *labels.notes]
    if volume.spacing_um is None:
        notes.append(f"voxel size not stated: voxels are taken for cubes of 1 µm {setting('spacing_um')}")
    for note in dict.fromkeys(notes):
        say(f"              note: {note}")
    if job.intensity == "log":
        refuse_second_log(path)
        volume = volume.with_array(log_intensity(volume.array))
        say("  intensity   the logarithm of what is stored")
    return volume, labels, spacing_um


def looked(network: Taught, lesson: Lesson) -> tuple[Array, Array | None]:
    """Return the probability of every voxel (Z, Y, X), and the deviation between members where there are several."""
    weights = [member.weight for member in network.members if member.weight]
    if len(weights) == 1:
        return network.predict(lesson.image, lesson.spacing_um), None
    mean, squares = np.zeros(lesson.image.shape, np.float32), np.zeros(lesson.image.shape, np.float32)

    def add(member: Member, found: Array) -> None:
        share = np.float32(member.weight / sum(weights))
        for total, square, plane in zip(mean, squares, found, strict=True):
            total += share * plane
            square += share * plane * plane

    for member, found in network.each(lesson.image, lesson.spacing_um):
        if member.weight:
            add(member, found)
    engine.forget_memory()
    for total, square in zip(mean, squares, strict=True):
        np.sqrt(np.maximum(square - total * total, 0), out=square)
    return mean, squares


def _tell_result(result: Mapping[str, Any], warnings: list[str], say: Say) -> None:
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    say(f"  lumen       {result['voxels']:,} voxels ({100 * result['fraction']:.2f} % of the volume){um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")


def _write(plan: _Plan, found: Found, measured: Mapping[str, Any], say: Say) -> None:
    """Write everything; the weights take their place first, the record of the result is the last."""
    job, stem, network = plan.job, plan.stem, found.course.network
    labels = found.labels.volume.array
    places, slices = uncertain_places(found.probability, found.spread, labels, found.lesson.spacing_um)
    weights_path = job.weights_path(stem)
    with ExitStack() as staged:
        folder = staged.enter_context(plan.results.staged())
        files = write_result(
            folder,
            stem,
            found.volume,
            found.probability,
            found.mask,
            annotation=labels == LUMEN,
            probability_name=f"{stem}_probability.nrrd",
        )
        files |= write_look(folder, stem, places, slices, found.volume, found.lesson.spacing_um)
        save_state(staged.enter_context(plan.weights.staged()) / weights_path.name, network.state_dict())
    digest = sha256_of(weights_path)
    record = _record(plan, found) | {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    domain = "log" if network.logarithm else stated_domain(plan.source or plan.path)[0] or AS_STORED
    write_card(
        plan.weights,
        spacing_um=list(found.lesson.spacing_um),
        intensity_domain=domain,
        dtype=found.volume.array.dtype.name,
        look=expected([Look.of(found.volume.array)]),
        more={"network": "taught", "log": network.logarithm, **record},
    )
    record |= {"weights": {"path": write_name(weights_path), "sha256": digest, "network": "taught"}, **measured}
    plan.results.finish(record | {"files": {kind: write_name(file.name) for kind, file in files.items()}})
    say(f"  wrote       {job.output}/: {', '.join(file.name for file in files.values())}, {stem}.json")
    say(f"              {weights_path}; on other volumes: infer.py with this name as its model {setting('model')}")
    if places:
        z, y, x = places[0].voxel
        where = f"z {z}, y {y}, x {x} ({places[0].why})"
        say(f"  look        a further stroke helps most at {where}; more in {stem}_look.csv")


def _record(plan: _Plan, found: Found) -> dict[str, Any]:
    """Return what record and card both say."""
    choice, volume = found.course.choice, found.volume
    counts = np.bincount(found.labels.volume.array.ravel(), minlength=3)
    members = [f"{member.kind} {member.weight:.3g}" for member in found.course.network.members]
    return plan.asked | {
        "volume": {
            "shape_zyx": list(volume.shape),
            "dtype": str(volume.array.dtype),
            "spacing_um_zyx": None if volume.spacing_um is None else list(volume.spacing_um),
            "space": volume.space,
            "units": volume.units,
            "notes": [*volume.notes, *found.labels.notes],
        },
        "labelled": {"lumen": int(counts[1]), "background": int(counts[2])},
        "learned": {
            "chosen": list(choice.names),
            "held_out": choice.held_out,
            "dice": choice.scores,
            "members": members,
        },
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
