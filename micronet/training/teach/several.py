"""Several classes are taught from the labels of a volume: a network each, to which the others are background.

In the volume itself a voxel belongs to the class that is most probable, where that is more so than the threshold.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.classes import colour, rgb
from micronet.core.errors import InputError, setting
from micronet.core.names import file_part, write_name
from micronet.core.outcome import Outcome
from micronet.core.provenance import sha256_of
from micronet.core.ram import MemoryLimitError
from micronet.core.volume import Volume
from micronet.io import Segment, Sources, nrrd, write_label_planes
from micronet.io.labels import BACKGROUND, LUMEN, Labels
from micronet.networks.normalize import normalize_image
from micronet.report.preview import Further, Scene, write_preview
from micronet.segment.outputs import levels, measure
from micronet.training.teach.course import Progress, teach
from micronet.training.teach.look import uncertain_places, write_look
from micronet.training.teach.material import gather
from micronet.training.teach.plan import (
    Plan,
    TeachJob,
    check_learning,
    check_room_for,
    earlier_outcome,
    needs_whole,
    plan_classes,
)
from micronet.training.teach.reading import Say, read_taught
from micronet.training.teach.result import Found, keep_weights, looked, record_of

__all__ = ["teach_classes"]

Array = NDArray[np.float32]
Numbers = NDArray[np.uint8]


def teach_classes(path: Path, job: TeachJob, *, say: Say, on_progress: Progress | None, force: bool) -> Outcome:
    """Learn several classes from the labels of a volume, and write what `job.teach_file` writes, of each.

    Parameters and errors as there.
    """
    began, names = time.perf_counter(), job.classes or ()
    with Sources() as sources:
        plans = plan_classes(path, job, sources)
        if not force:
            done = [outcome for plan in plans if (outcome := earlier_outcome(plan)) is not None]
            if done:
                return done[0]
        try:
            allowance = check_room_for(plans[0], sources, len(plans))
        except MemoryLimitError as error:
            raise needs_whole(error, "classes") from error
        volume, labels, _ = read_taught(replace(plans[0], job=job), sources, say)
    check_learning(plans[0], allowance, volume, labels.volume.array, networks=len(plans))
    image = _normalized(plans[0], volume)
    found: list[Found] = []
    spread: Array | None = None
    for number, (name, plan) in enumerate(zip(names, plans, strict=True), 1):
        progress = None if on_progress is None else _part_of(on_progress, number, len(names), name)
        one = _taught(plan, volume, image, labels, number, progress)
        say(f"  learned     {name}: {one.course.choice.told()}")
        if one.spread is not None:
            spread = one.spread if spread is None else np.maximum(spread, one.spread, out=spread)
        found.append(replace(one, spread=None))
    numbers = _most_probable([one.probability for one in found], job.threshold)
    if not job.free_labels:
        for plane, said in zip(numbers, labels.volume.array, strict=True):
            np.copyto(plane, np.where(said > len(names), 0, said), where=said > 0)
    results = [_measured(name, numbers == number, volume, job, say) for number, name in enumerate(names, 1)]
    seconds = {"all": time.perf_counter() - began}
    _write(plans, names, found, numbers, spread, labels, {"results": results, "seconds": seconds}, say)
    words = [
        f"{name} {result['voxels']:,} voxels" + ("" if result["um3"] is None else f", {result['um3']:,.0f} µm³")
        for name, result in zip(names, results, strict=True)
    ]
    return Outcome(path, "done", "; ".join(words))


def _part_of(whole: Progress, number: int, count: int, name: str) -> Progress:
    """Return what tells of the steps of one class, of all."""
    return lambda done, of, what: whole((number - 1) * of + done, count * of, f"{name}: {what}")


def _normalized(plan: Plan, volume: Volume) -> Array:
    """Return the image that all classes are learned from."""
    try:
        return normalize_image(volume.array)
    except InputError as error:
        raise InputError(f"'{plan.path}': {error}") from error


def _taught(
    plan: Plan, volume: Volume, image: Array, labels: Labels, number: int, on_progress: Progress | None
) -> Found:
    """Teach one class; all other labels are its background."""
    job, painted = plan.job, labels.volume.array
    own = np.zeros(painted.shape, np.uint8)
    own[painted > 0] = BACKGROUND
    own[painted == number] = LUMEN
    material = gather(volume, own, (), None, plan.asked["input"]["sha256"])
    lesson = material.lesson(image, volume.spacing_um or (1.0, 1.0, 1.0))
    try:
        course = teach(lesson, job.seed, on_progress)
    except InputError as error:
        raise InputError(f"'{job.labels}': {error}") from error
    except MemoryError:
        raise InputError(f"'{plan.path}': memory ran out; crop the volume, or annotate fewer voxels") from None
    course.network.logarithm = job.intensity == "log"
    probability, spread = looked(course.network, lesson)
    told = replace(labels, volume=labels.volume.with_array(own))
    return Found(volume, told, material, lesson, course, probability, spread, own == LUMEN)


def _most_probable(probabilities: Sequence[Array], threshold: float) -> Numbers:
    """Return the number of the most probable class of each voxel; 0 where none is above the threshold."""
    numbers = np.zeros(probabilities[0].shape, np.uint8)
    for plane, classes in zip(numbers, zip(*probabilities, strict=True), strict=True):
        stacked = np.stack(classes)
        plane[...] = np.where(stacked.max(0) > threshold, stacked.argmax(0) + 1, 0)
    return numbers


def _measured(name: str, mask: NDArray[np.bool_], volume: Volume, job: TeachJob, say: Say) -> dict[str, Any]:
    result, warnings = measure(mask, volume, job.threshold, None, name)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    say(f"  {name:<11} {result['voxels']:,} voxels ({100 * result['fraction']:.2f} % of the volume){um3}")
    for warning in warnings:
        say(f"  WARNING     {name}: {warning}")
    return result | {"warnings": warnings}


def _write(
    plans: Sequence[Plan],
    names: Sequence[str],
    found: Sequence[Found],
    numbers: Numbers,
    spread: Array | None,
    labels: Labels,
    told: Mapping[str, Any],
    say: Say,
) -> None:
    """Write everything; labels and weights take their place first, the record of the result is the last."""
    first, volume, painted = plans[0], found[0].volume, labels.volume.array
    stem, spacing_um = first.stem, found[0].lesson.spacing_um
    places, slices = uncertain_places(_least_sure(found), spread, painted, spacing_um)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    probability_names = [f"{stem}_{file_part(name)}_probability.nrrd" for name in names]
    with first.results.staged() as folder:
        files = _write_masks(folder, stem, volume, names, numbers, painted)
        files |= write_look(folder, stem, places, slices, volume, spacing_um)
        blank = volume.with_array(np.broadcast_to(np.uint8(0), volume.shape))
        for file, one in zip(probability_names, found, strict=True):
            nrrd.write(folder / file, blank, levels(one.probability))
        for plan, one in zip(plans, found, strict=True):
            keep_weights(plan, one, created)
    classes = [
        _told(name, number, plan, one, result) | {"files": {"probability": write_name(file)}}
        for number, (name, plan, one, result, file) in enumerate(
            zip(names, plans, found, told["results"], probability_names, strict=True), 1
        )
    ]
    whole = {key: value for key, value in record_of(first, found[0]).items() if key not in ("labelled", "learned")}
    del whole["corrected"]
    record = whole | {"created": created, "segments": classes, "exclusive": True, "seconds": told["seconds"]}
    first.results.finish(record | {"files": {kind: write_name(file.name) for kind, file in files.items()}})
    written = [*(file.name for file in files.values()), *probability_names, f"{stem}.json"]
    say(f"  wrote       {first.job.output}/: {', '.join(written)}")
    for name, plan in zip(names, plans, strict=True):
        say(f"              {plan.weights_path}: {name}")
    asked = ", ".join(f"{name}={plan.weights_path.stem}" for name, plan in zip(names, plans, strict=True))
    say(f"              on other volumes: infer.py with these as its models {setting('model')}: {asked}")
    if places:
        z, y, x = places[0].voxel
        where = f"z {z}, y {y}, x {x} ({places[0].why})"
        say(f"  look        a further stroke helps most at {where}; more in {stem}_look.csv")


def _write_masks(
    folder: Path, stem: str, volume: Volume, names: Sequence[str], numbers: Numbers, painted: Numbers
) -> dict[str, Path]:
    """Write the segmentation and its preview; return both by kind."""
    files = {"segmentation": folder / f"{stem}.seg.nrrd", "preview": folder / f"{stem}_preview.png"}
    segments = [Segment(name=name, color=rgb(colour(number))) for number, name in enumerate(names, 1)]
    write_label_planes(files["segmentation"], segments, iter(numbers), volume)
    first, *others = [Further(name, numbers == k, painted == k) for k, name in enumerate(names, 1)]
    scene = Scene(
        volume.array,
        first.mask,
        volume.spacing_um,
        first.annotation,
        painted > 0,
        mask_name=first.name,
        further=others,
    )
    write_preview(files["preview"], scene, write_name(stem))
    return files


def _least_sure(found: Sequence[Found]) -> Array:
    """Return the probability of each voxel that is nearest to one half, of all classes."""
    nearest = found[0].probability.copy()
    for one in found[1:]:
        for into, plane in zip(nearest, one.probability, strict=True):
            np.copyto(into, plane, where=np.abs(plane - 0.5) < np.abs(into - 0.5))
    return nearest


def _told(name: str, number: int, plan: Plan, found: Found, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record says of one class."""
    record = record_of(plan, found)
    path = plan.weights_path
    return {
        "name": name,
        "number": number,
        "colour": colour(number),
        "weights": {"path": write_name(path), "sha256": sha256_of(path), "network": "taught"},
        "labelled": {"class": record["labelled"]["lumen"], "others": record["labelled"]["background"]},
        "learned": record["learned"],
        "result": dict(result),
    }
