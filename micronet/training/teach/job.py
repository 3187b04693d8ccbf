"""One job of a person: a volume and what was painted on it in; weights, a mask and where to paint next out.

`teach_file` goes through it: plan, read, teach (`course`), look at the volume, measure, write and record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.provenance import sha256_of, versions
from micronet.core.volume import Volume
from micronet.io import read_labels, read_volume
from micronet.io.corrections import label_counts, read_corrections
from micronet.io.labels import LUMEN, Labels
from micronet.io.sidecar import refuse_second_log, stated_domain
from micronet.networks import engine
from micronet.networks.card import AS_STORED, Look, expected, write_card
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.networks.taught import Member, Taught
from micronet.networks.weights import save_state
from micronet.report.preview import Scene
from micronet.segment.outputs import above, measure, write_result
from micronet.training.teach.collection import Collection, collection_of
from micronet.training.teach.course import Course, Earlier, Progress, teach
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.look import uncertain_places, write_look
from micronet.training.teach.material import Edits, Material, Start, edits, gather, mask_beside
from micronet.training.teach.plan import (
    Plan,
    TeachJob,
    WouldReplaceError,
    check_room_for,
    earlier_outcome,
    plan_teaching,
)

__all__ = ["TeachJob", "WouldReplaceError", "teach_file"]

Array = NDArray[np.float32]
Say = Callable[[str], None]


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
    plan = plan_teaching(path, job)
    if not force and (done := earlier_outcome(plan)) is not None:
        return done
    check_room_for(plan)
    start = None if plan.start is None else Start.read(plan.start)
    volume, labels, spacing_um = _read(plan, say)
    material = _gathered(plan, volume, labels, start, say)
    if start is not None and not (material.changed or material.pending or force):
        return Outcome(path, "skipped", f"'{plan.start}' has learned all of this; nothing was written")
    try:
        lesson = material.lesson(normalize_image(volume.array), spacing_um)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    earlier, corrected = _before(plan, labels, start, lesson, material, say)
    course = _taught(plan, lesson, earlier, on_progress)
    course.network.logarithm = job.intensity == "log"
    _tell_course(plan, course, say)
    learned = time.perf_counter()
    probability, spread = _looked(course.network, lesson)
    mask = above(probability, job.threshold)
    if not job.free_labels:
        _impose(mask, lesson.labels)
    result, warnings = _measured(mask, volume, job, say)
    found = _Found(volume, labels, start, material, lesson, course, corrected, probability, spread, mask)
    seconds = {"learn": learned - began, "predict": time.perf_counter() - learned}
    _write(plan, found, {"result": result | {"warnings": warnings}, "seconds": seconds}, say)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    stays = f"; '{plan.start}' stays, as the new network is not better" if course.kept else ""
    return Outcome(path, "done", f"{result['voxels']:,} voxels{um3}{stays}")


@dataclass(frozen=True, eq=False)
class _Found:
    """All that is written."""

    volume: Volume
    labels: Labels
    start: Start | None
    material: Material
    lesson: Lesson
    course: Course
    corrected: Edits | None
    probability: Array
    spread: Array | None
    mask: NDArray[np.bool_]


def _gathered(plan: Plan, volume: Volume, labels: Labels, start: Start | None, say: Say) -> Material:
    """Put the labels at hand to the earlier ones, and tell what is learned from."""
    job = plan.job
    if start is not None and start.network.logarithm != (job.intensity == "log"):
        taken = (
            "the logarithm of intensities: take it too" if start.network.logarithm else "intensities as stored: drop"
        )
        raise InputError(f"'{plan.start}' was taught on {taken} {setting('intensity')}")
    material = gather(volume, labels.volume.array, plan.known.known, start, plan.asked["input"]["sha256"])
    if job.checked is not None:
        material.check(job.labels)
    if start is not None:
        say(f"  learns on   from '{plan.start}', {plan.words}, and from its {len(plan.known.known)} label files too")
        if not plan.known.known:
            say("              note: no labels are kept beside these weights; those at hand are all there is")
    elif job.checked is not None:
        say("  learns      anew: no weights were taught before that these corrections could be of")
    return material


def _before(
    plan: Plan, labels: Labels, start: Start | None, lesson: Lesson, material: Material, say: Say
) -> tuple[Earlier | None, Edits | None]:
    """Return what the earlier network says of the lesson's voxels, and what was edited in its mask, which is told."""
    job, earlier, before = plan.job, None, None
    if start is not None:
        found = start.look(lesson)
        earlier = Earlier(start.network, found[lesson.annotated], material.known[lesson.annotated] == 0)
        before = above(found, job.threshold), f"what '{start.path}' says"
        if not job.free_labels:
            _impose(before[0], material.known)
    elif job.checked is not None:
        before = mask_beside(plan.path, job.labels, lesson.image.shape)
    if job.checked is None or before is None:
        return earlier, None
    edited = edits(labels.volume.array, *before)
    say(f"  corrected   {edited.told()}")
    return earlier, edited


def _taught(plan: Plan, lesson: Lesson, earlier: Earlier | None, on_progress: Progress | None) -> Course:
    """Teach; errors name the file at fault."""
    try:
        return teach(lesson, plan.job.seed, on_progress, earlier=earlier)
    except InputError as error:
        raise InputError(f"'{plan.job.labels}': {error}") from error
    except MemoryError:
        raise InputError(f"'{plan.path}': memory ran out; crop the volume, or annotate fewer voxels") from None


def _impose(mask: NDArray[np.bool_], labels: NDArray[np.uint8]) -> None:
    """Let a mask hold what is annotated."""
    for plane, said in zip(mask, labels, strict=True):
        np.copyto(plane, said == LUMEN, where=said > 0)


def _tell_course(plan: Plan, course: Course, say: Say) -> None:
    say(f"  learned     {course.choice.told()}")
    if course.comparison is not None:
        say(f"  compared    {course.comparison.told()}")
    elif plan.start is not None:
        say("  compared    nothing of what is new could be held out: the new network is taken")
    if course.kept:
        say(f"              '{plan.start}' stays; the labels are kept in {plan.known.folder}/ for the next time")


def _keep_labels(plan: Plan, collection: Collection, volume: Volume, labels: Labels, material: Material) -> Collection:
    """Put the labels at hand to those that are kept, and return all of them; nothing that is there changes."""
    files = []
    if collection.folder != plan.known.folder:
        for source, copy in zip(plan.known.known, collection.known, strict=True):
            found = read_volume(source.entry.annotation)
            files.append((copy.entry.name, found.array, found))
    if plan.start is None:
        digest, painted = plan.asked["input"]["sha256"], labels.volume.array
        for one in collection_of(plan.weights_path).known:
            if one.image_sha256 == digest and np.array_equal(one.labels_on(volume), painted):
                return _written(plan, Collection(collection.folder, (one,)), files)
    if material.changed:
        collection = plan.grown(collection)
        files.append((collection.known[-1].entry.name, labels.volume.array, volume))
    return _written(plan, collection, files) if files else collection


def _written(plan: Plan, collection: Collection, files: list[tuple[str, NDArray[np.uint8], Volume]]) -> Collection:
    collection.write(write_name(plan.job.name or plan.stem), files)
    return collection


def _read(plan: Plan, say: Say) -> tuple[Volume, Labels, tuple[float, float, float]]:
    """Return the volume as the network is to see it, the labels, and the voxel size to work with."""
    job, path = plan.job, plan.path
    volume = read_volume(path, axes=job.axes, spacing_um=job.spacing_um)
    if job.checked is None:
        volume, labels = read_labels(
            job.labels,
            volume,
            str(path),
            lumen=job.lumen,
            background=job.background,
            axes=job.axes,
            spacing_um=job.spacing_um,
        )
    else:
        volume, labels = read_corrections(
            job.labels, volume, str(path), checked=job.checked, lumen=job.lumen, spacing_um=job.spacing_um
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


def _looked(network: Taught, lesson: Lesson) -> tuple[Array, Array | None]:
    """Return the probability of every voxel, and the deviation between members where there are several."""
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


def _measured(mask: NDArray[np.bool_], volume: Volume, job: TeachJob, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Return what a mask amounts to, and what is suspicious about it, as the person is told."""
    result, warnings = measure(mask, volume, job.threshold, None)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    say(f"  lumen       {result['voxels']:,} voxels ({100 * result['fraction']:.2f} % of the volume){um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")
    return result, warnings


def _write(plan: Plan, found: _Found, measured: Mapping[str, Any], say: Say) -> None:
    """Write everything; labels and weights take their place first, the record of the result is the last."""
    job, stem, stays = plan.job, plan.stem, found.course.kept
    labels = found.lesson.labels
    places, slices = uncertain_places(found.probability, found.spread, labels, found.lesson.spacing_um)
    kept = _keep_labels(plan, plan.known if stays else plan.kept, found.volume, found.labels, found.material)
    with ExitStack() as staged:
        folder = staged.enter_context(plan.results.staged())
        files = write_result(
            folder,
            stem,
            found.volume,
            found.probability,
            Scene(found.volume.array, found.mask, found.volume.spacing_um, labels == LUMEN, labels > 0),
            probability_name=f"{stem}_probability.nrrd",
        )
        files |= write_look(folder, stem, places, slices, found.volume, found.lesson.spacing_um)
        if not stays:
            name = plan.weights_path.name
            save_state(staged.enter_context(plan.weights.staged()) / name, found.course.network.state_dict())
    record = _record(plan, found) | {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    if not stays:
        _write_card(plan, found, kept, record)
    weights = plan.start if stays and plan.start is not None else plan.weights_path
    record |= {"weights": {"path": write_name(weights), "sha256": sha256_of(weights), "network": "taught"}, **measured}
    plan.results.finish(record | {"files": {kind: write_name(file.name) for kind, file in files.items()}})
    say(f"  wrote       {job.output}/: {', '.join(file.name for file in files.values())}, {stem}.json")
    if not stays:
        say(f"              {weights}; on other volumes: infer.py with this name as its model {setting('model')}")
    if places:
        z, y, x = places[0].voxel
        where = f"z {z}, y {y}, x {x} ({places[0].why})"
        say(f"  look        a further stroke helps most at {where}; more in {stem}_look.csv")


def _write_card(plan: Plan, found: _Found, kept: Collection, record: Mapping[str, Any]) -> None:
    """Write what the weights were taught, by the names that the labels have in the list beside them, and on what."""
    network = found.course.network
    write_card(
        plan.weights,
        spacing_um=list(found.lesson.spacing_um),
        intensity_domain="log" if network.logarithm else stated_domain(plan.path)[0] or AS_STORED,
        dtype=found.volume.array.dtype.name,
        look=expected([Look.of(found.volume.array)]),
        more={
            "network": "taught",
            "log": network.logarithm,
            "volumes": [one.entry.name for one in kept.known],
            **record,
        },
    )


def _record(plan: Plan, found: _Found) -> dict[str, Any]:
    """Return what record and card both say."""
    choice, volume = found.course.choice, found.volume
    _, lumen, background = label_counts(found.lesson.labels)
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
        "labelled": {"lumen": lumen, "background": background},
        "corrected": None if found.corrected is None else asdict(found.corrected),
        "learned": {
            "chosen": list(choice.names),
            "held_out": choice.held_out,
            "dice": choice.scores,
            "members": members,
            "on_from": None
            if found.start is None
            else {"path": write_name(found.start.path), "sha256": found.start.sha256},
            "compared": None if found.course.comparison is None else asdict(found.course.comparison),
        },
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
