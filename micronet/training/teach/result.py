"""What was taught and found is written: weights with the labels beside them, mask, where to paint next, the record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import MicronetError, setting
from micronet.core.names import write_name
from micronet.core.provenance import sha256_of, versions
from micronet.core.volume import Volume, share_grid
from micronet.io import Segment, open_stack, read_volume, write_label_planes
from micronet.io.corrections import label_counts
from micronet.io.labels import LUMEN, Labels
from micronet.io.labels_part import PartOfVolume
from micronet.io.sidecar import stated_domain
from micronet.networks import engine
from micronet.networks.card import AS_STORED, Look, expected, write_card
from micronet.networks.taught import Member, Taught
from micronet.networks.weights import save_state
from micronet.report.preview import Scene
from micronet.segment.outputs import measure, write_result
from micronet.segment.plan import volume_record
from micronet.training.teach.collection import Collection, collection_of
from micronet.training.teach.course import Course
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.look import uncertain_places, write_look
from micronet.training.teach.material import Edits, Material, Start
from micronet.training.teach.plan import Plan, TeachJob, plan_saving
from micronet.training.teach.reading import Say

__all__ = ["Found", "keep_weights", "looked", "record_in", "record_of", "save_found", "write_found"]

# What record and card both say, beside what was asked for.
_RECORDED = ("volume", "labelled", "corrected", "learned", "threads", "versions")
_BACKGROUND_COLOUR = (0.35, 0.55, 0.85)
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """All that is written: arrays are of the volume's shape; of the lesson's, `y_crop` rows alone were looked at.

    Where a part of the volume was learned from, `volume` is that, and `look` is of the whole.
    """

    volume: Volume
    labels: Labels
    material: Material
    lesson: Lesson
    course: Course
    probability: Array
    spread: Array | None
    mask: NDArray[np.bool_]
    start: Start | None = None
    corrected: Edits | None = None
    y_crop: int | None = None
    part: PartOfVolume | None = None
    look: Look | None = None


def looked(network: Taught, lesson: Lesson) -> tuple[Array, Array | None]:
    """Return the probability of every voxel, and the deviation between members where there are several."""
    weights = [member.weight for member in network.members if member.weight]
    if len(weights) == 1:
        return next(found for member, found in network.each(lesson.seen) if member.weight), None
    mean, squares = np.zeros(lesson.image.shape, np.float32), np.zeros(lesson.image.shape, np.float32)

    def add(member: Member, found: Array) -> None:
        share = np.float32(member.weight / sum(weights))
        for total, square, plane in zip(mean, squares, found, strict=True):
            total += share * plane
            square += share * plane * plane

    for member, found in network.each(lesson.seen):
        if member.weight:
            add(member, found)
    engine.forget_memory()
    for total, square in zip(mean, squares, strict=True):
        np.sqrt(np.maximum(square - total * total, 0), out=square)
    return mean, squares


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
        What the record says of the layer, under "input".
    made_by : str
        What the record says wrote it. What the same maker wrote there before is replaced, nothing else.
    source : Path, optional
        The file of the volume, where it has one; never replaced. Labels are kept beside the weights, to be learned from
        again, if it holds this volume.
    say : callable
        As `teach_file`.

    Returns
    -------
    list of Path
        What was written, the record last; without the labels beside the weights.

    Raises
    ------
    MicronetError
        If something else is in the way, or a file cannot be written; nothing has been replaced then.
    """
    keep = found.material.changed and _holds(source, found.volume)
    if not keep:
        found = replace(found, material=replace(found.material, changed=False))
    plan = plan_saving(job, stem, about, made_by, source, keep)
    with plan.results.staged() as folder:
        segments = [Segment(name="lumen"), Segment(name="background", color=_BACKGROUND_COLOUR)]
        write_label_planes(folder / job.labels, segments, iter(found.labels.volume.array), found.volume)
    painted = {"path": job.labels.as_posix(), "sha256": sha256_of(job.output / job.labels)}
    asked = {**plan.asked, "labels": painted, "parameters": job.parameters() | {"y_crop": found.y_crop}}
    result, warnings = measure(found.mask, found.volume, job.threshold, found.y_crop)
    write_found(replace(plan, asked=asked), found, {"result": result | {"warnings": warnings}}, say)
    return [*plan.results.paths[:-1], plan.weights_path, plan.results.record_path]


def _holds(source: Path | None, volume: Volume) -> bool:
    """Return whether a file is there and its grid is that of a volume, by its header."""
    if source is None:
        return False
    try:
        with open_stack(source) as stack:
            share_grid(stack.grid, volume, "file", "layer")
    except MicronetError:
        return False
    return True


def write_found(plan: Plan, found: Found, measured: Mapping[str, Any], say: Say) -> None:
    """Write everything; labels and weights take their place first, the record of the result is the last.

    Nothing takes its place before all of it has been written elsewhere.
    """
    job, stem, stays = plan.job, plan.stem, found.course.kept
    labels = found.material.labels
    places, slices = uncertain_places(found.probability, found.spread, labels, found.lesson.spacing_um)
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
        kept = _keep_labels(plan, plan.known if stays else plan.kept, found.volume, found.labels, found.material)
    record = record_of(plan, found) | {"created": datetime.now(UTC).isoformat(timespec="seconds")}
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


def keep_weights(plan: Plan, found: Found, created: str) -> None:
    """Write weights that were taught anew, the labels beside them, and their card."""
    kept = _keep_labels(plan, plan.kept, found.volume, found.labels, found.material)
    with plan.weights.staged() as folder:
        save_state(folder / plan.weights_path.name, found.course.network.state_dict())
    _write_card(plan, found, kept, record_of(plan, found) | {"created": created})


def _keep_labels(plan: Plan, collection: Collection, volume: Volume, labels: Labels, material: Material) -> Collection:
    """Put the labels at hand to those that are kept, and return all of them; nothing that is there changes."""
    files = []
    if collection.folder != plan.known.folder:
        for source, copy in zip(plan.known.known, collection.known, strict=True):
            found = read_volume(source.entry.annotation)
            files.append((copy.entry.name, found.array, found))
    if plan.start is None and material.changed:
        digest, painted = plan.asked["input"]["sha256"], labels.volume.array
        for one in collection_of(plan.weights_path).known:
            if one.image_sha256 == digest and one.holds(painted, volume):
                return _written(plan, Collection(collection.folder, (one,)), files)
    if material.changed:
        collection = plan.grown(collection)
        files.append((collection.known[-1].entry.name, labels.volume.array, volume))
    return _written(plan, collection, files) if files else collection


def _written(plan: Plan, collection: Collection, files: list[tuple[str, NDArray[np.uint8], Volume]]) -> Collection:
    collection.write(write_name(plan.job.name or plan.stem), files)
    return collection


def _write_card(plan: Plan, found: Found, kept: Collection, record: Mapping[str, Any]) -> None:
    """Write what the weights were taught, by the names that the labels have in the list beside them, and on what."""
    network = found.course.network
    write_card(
        plan.weights,
        spacing_um=list(found.lesson.spacing_um),
        intensity_domain="log" if network.logarithm else stated_domain(plan.image)[0] or AS_STORED,
        dtype=found.volume.array.dtype.name,
        look=expected([found.look or Look.of(found.volume.array)]),
        more={
            "network": "taught",
            "log": network.logarithm,
            "volumes": [one.entry.name for one in kept.known],
            **record,
        },
    )


def record_of(plan: Plan, found: Found) -> dict[str, Any]:
    """Return what record and card both say."""
    choice, volume = found.course.choice, found.volume
    _, lumen, background = label_counts(found.material.labels)
    members = [f"{member.kind} {member.weight:.3g}" for member in found.course.network.members]
    whole = volume if found.part is None else found.part.whole
    box = {} if found.part is None else {"box_zyx": [[one.start, one.stop] for one in found.part.box]}
    return plan.asked | {
        "volume": volume_record(whole, [*whole.notes, *found.labels.notes]),
        "labelled": {"lumen": lumen, "background": background},
        "corrected": None if found.corrected is None else asdict(found.corrected),
        "learned": {
            "chosen": list(choice.names),
            "held_out": choice.held_out,
            "not_held_out": list(choice.joined),
            "dice": choice.scores,
            "members": members,
            "on_from": None
            if found.start is None
            else {"path": write_name(found.start.path), "sha256": found.start.sha256},
            "compared": None if found.course.comparison is None else asdict(found.course.comparison),
            **box,
        },
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def record_in(card: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return what `record_of` said of the same plan when the card was written."""
    return plan.asked | {key: card[key] for key in _RECORDED}
