"""One job of a person: a volume and what was painted on it in; weights, a mask and where to paint next out.

`teach_file` goes through it: plan, read, teach (`course`), look at the volume, measure, write and record.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.outcome import Outcome
from micronet.core.ram import Allowance, MemoryLimitError
from micronet.core.volume import Volume
from micronet.io import Sources
from micronet.io.checks import is_store
from micronet.io.labels import Labels
from micronet.networks.normalize import normalize_image
from micronet.segment.outputs import above, measure
from micronet.training.teach.course import Course, Earlier, Progress, teach
from micronet.training.teach.in_store import teach_in_store
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.material import Edits, Material, Start, edits, gather, mask_beside
from micronet.training.teach.plan import (
    Plan,
    TeachJob,
    WouldReplaceError,
    check_learning,
    check_room_for,
    earlier_outcome,
    needs_whole,
    plan_teaching,
    taught_before,
)
from micronet.training.teach.reading import Say, impose, read_taught
from micronet.training.teach.result import Found, looked, write_found
from micronet.training.teach.several import teach_classes

__all__ = ["TeachJob", "WouldReplaceError", "teach_file"]


def teach_file(
    path: Path, job: TeachJob, *, say: Say, on_progress: Progress | None = None, force: bool = False
) -> Outcome:
    """Learn from the labels of a volume, segment all of it, and write mask, weights and where to paint next.

    Of an OME-Zarr that does not fit into memory a box is learned from (`in_store`).

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
    if job.classes is not None:
        return teach_classes(path, job, say=say, on_progress=on_progress, force=force)
    began = time.perf_counter()
    with Sources() as sources:
        plan = plan_teaching(path, job, sources)
        if not force and (done := earlier_outcome(plan)) is not None:
            return done
        card = None if force else taught_before(plan)
        if card is not None or (allowance := _allowance(plan, sources)) is None:
            return teach_in_store(plan, sources, say, on_progress, card=card)
        start = None if plan.start is None else Start.read(plan.start)
        volume, labels, spacing_um = read_taught(plan, sources, say)
    material = _gathered(plan, allowance, volume, labels, start, say)
    if start is not None and not (material.changed or material.pending or force):
        return Outcome(path, "skipped", f"'{plan.start}' has learned all of this; nothing was written")
    lesson = _lesson(plan, material, volume, spacing_um)
    earlier, corrected = _before(plan, labels, start, lesson, material, say)
    course = _taught(plan, lesson, earlier, on_progress)
    _tell_course(plan, course, say)
    learned = time.perf_counter()
    probability, spread = looked(course.network, lesson)
    mask = above(probability, job.threshold)
    if not job.free_labels:
        impose(mask, lesson.labels)
    result, warnings = _measured(mask, volume, job, say)
    found = Found(volume, labels, material, lesson, course, probability, spread, mask, start, corrected)
    seconds = {"learn": learned - began, "predict": time.perf_counter() - learned}
    write_found(plan, found, {"result": result | {"warnings": warnings}, "seconds": seconds}, say)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    stays = f"; '{plan.start}' stays, as the new network is not better" if course.kept else ""
    return Outcome(path, "done", f"{result['voxels']:,} voxels{um3}{stays}")


def _allowance(plan: Plan, sources: Sources) -> Allowance | None:
    """Return how much memory there is, None where the volume does not fit into it and a box of it is learned from.

    MemoryLimitError where that cannot be.
    """
    try:
        return check_room_for(plan, sources)
    except MemoryLimitError as error:
        if not is_store(plan.path):
            raise
        for wish in ("checked", "start"):
            if getattr(plan.job, wish) is not None:
                raise needs_whole(error, wish) from error
        return None


def _gathered(
    plan: Plan, allowance: Allowance, volume: Volume, labels: Labels, start: Start | None, say: Say
) -> Material:
    """Put the labels at hand to the earlier ones, and tell what is learned from; what is too much is refused."""
    job = plan.job
    if start is not None and start.network.logarithm != (job.intensity == "log"):
        taken = (
            "the logarithm of intensities: take it too" if start.network.logarithm else "intensities as stored: drop"
        )
        raise InputError(f"'{plan.start}' was taught on {taken} {setting('intensity')}")
    material = gather(volume, labels.volume.array, plan.known.known, start, plan.asked["input"]["sha256"])
    check_learning(plan, allowance, volume, material.labels, [other.labels for other in material.others])
    if job.checked is not None:
        material.check(job.labels)
    if start is not None:
        say(f"  learns on   from '{plan.start}', {plan.words}, and from its {len(plan.known.known)} label files too")
        if not plan.known.known:
            say("              note: no labels are kept beside these weights; those at hand are all there is")
    elif job.checked is not None:
        say("  learns      anew: no weights were taught before that these corrections could be of")
    return material


def _lesson(plan: Plan, material: Material, volume: Volume, spacing_um: tuple[float, float, float]) -> Lesson:
    try:
        return material.lesson(normalize_image(volume.array), spacing_um)
    except InputError as error:
        raise InputError(f"'{plan.path}': {error}") from error


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
            impose(before[0], material.known)
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
        course = teach(lesson, plan.job.seed, on_progress, earlier=earlier)
    except InputError as error:
        raise InputError(f"'{plan.job.labels}': {error}") from error
    except MemoryError:
        raise InputError(f"'{plan.path}': memory ran out; crop the volume, or annotate fewer voxels") from None
    course.network.logarithm = plan.job.intensity == "log"
    return course


def _tell_course(plan: Plan, course: Course, say: Say) -> None:
    say(f"  learned     {course.choice.told()}")
    if course.comparison is not None:
        say(f"  compared    {course.comparison.told()}")
    elif plan.start is not None:
        say("  compared    nothing of what is new could be held out: the new network is taken")
    if course.kept:
        say(f"              '{plan.start}' stays; the labels are kept in {plan.known.folder}/ for the next time")


def _measured(mask: NDArray[np.bool_], volume: Volume, job: TeachJob, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Return what a mask amounts to, and what is suspicious about it, as the person is told."""
    result, warnings = measure(mask, volume, job.threshold, None)
    um3 = "" if result["um3"] is None else f", {result['um3']:,.0f} µm³"
    say(f"  lumen       {result['voxels']:,} voxels ({100 * result['fraction']:.2f} % of the volume){um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")
    return result, warnings
