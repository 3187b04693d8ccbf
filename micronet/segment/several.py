"""One volume in, several segments out, in one file: a network each, or one network that tells classes apart.

Each network looks at the volume as `job` lets it look, so that a segment is what it would be alone, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from micronet.core.errors import InputError, setting
from micronet.core.exclusive import most_probable
from micronet.core.files import make_folder
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.planes import Planes
from micronet.core.volume import Volume
from micronet.io import Sources, files_of, volume_stem
from micronet.io.checks import is_store
from micronet.networks.card import card_path
from micronet.segment.job import predicted
from micronet.segment.members import Members, annotated_as, check_wishes, member_outputs
from micronet.segment.memory import Memory
from micronet.segment.outputs import levels
from micronet.segment.plan import Task, input_record, plan_room
from micronet.segment.reading import Inputs, read_inputs, read_mask
from micronet.segment.refine import Iteration, Refinement, has_settled, predict_classes
from micronet.segment.results import Measured, Prediction, Watch, changes, measure_found, measure_prediction
from micronet.segment.settings import Job
from micronet.segment.several_adding import pieces_there
from micronet.segment.several_earlier import Lacking, earlier_segments
from micronet.segment.several_files import Piece, Pieces, finish
from micronet.segment.several_page import SegmentsPage
from micronet.segment.windows import predicted_in_windows

__all__ = ["segment_several"]


def segment_several(
    path: Path,
    members: Members,
    job: Job,
    *,
    say: Callable[[str], None],
    on_iteration: Callable[[Iteration], None] | None = None,
    force: bool = False,
    on_tile: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Segment one volume into several segments and write what was found.

    Parameters
    ----------
    path : Path
        The volume.
    members : Members
        The segments and their networks.
    job : Job
        The settings; they hold for each network.
    say, on_iteration, force, on_tile
        As `micronet.segment.job.segment_file`.

    Returns
    -------
    Outcome
        Its result has ``segments``, by name.

    Raises
    ------
    MicronetError
        For bad input, or too little memory; nothing has been written then.
    """
    check_wishes(job, members.exclusive)
    if is_store(path):
        raise InputError(
            f"'{path}' is segmented tile by tile, by one network into one segment {setting('model')}; copy a part of "
            "it to NRRD or TIFF"
        )
    try:
        with Sources() as sources:
            plan = _plan(path, members, job, sources, say)
            if not force and (done := earlier_segments(plan.outputs, plan.asked, plan.job, path)) is not None:
                if isinstance(done, Outcome):
                    return done
                plan = _plan(path, members, done.job, sources, lambda _: None)
                plan.outputs.check_room()
                if not done.gone and (added := _added(plan, done, say)) is not None:
                    return added
                say(f"  anew        for {', '.join(done.lacks)}")
            plan.outputs.check_room()
            page = SegmentsPage(plan.members.names) if plan.job.report else None
            return _segment(plan, _Listeners(page, Watch(), say, on_iteration, on_tile))
    except MemoryError:
        raise InputError(f"'{path}': memory ran out; say how much may be taken {setting('max_ram')}") from None
    except torch.cuda.OutOfMemoryError:
        raise InputError(
            f"'{path}' does not fit into the memory of the GPU; larger networks take windows {setting('window')}, and "
            f"the CPU has more {setting('device')}"
        ) from None


@dataclass(frozen=True, eq=False)
class _Plan:
    """A volume with what is found in it: a task a segment, those that are scored, the files, how the record begins."""

    members: Members
    job: Job
    tasks: tuple[Task, ...]
    scored: frozenset[str]
    outputs: Outputs
    asked: dict[str, Any]


@dataclass(frozen=True)
class _Listeners:
    """Who is told of what is found: the page, the clock, the person, the bar."""

    page: SegmentsPage | None
    watch: Watch
    say: Callable[[str], None]
    on_iteration: Callable[[Iteration], None] | None
    on_tile: Callable[[int, int], None]


def _plan(path: Path, members: Members, job: Job, sources: Sources, say: Callable[[str], None]) -> _Plan:
    """Check what would be written, and note what it depends on; MicronetError where that cannot be."""
    source = sources.of(path)
    annotation = None if job.annotation is None else sources.of(job.annotation)
    outputs = member_outputs(job, volume_stem(path), members)
    beside = [] if annotation is None else files_of(annotation)
    weights = [file for one in members.weights for file in (one.path, card_path(one.path))]
    check_outputs([outputs], [*files_of(source, job.level), *beside, *weights])
    known = annotated_as(annotation, members.names, say)
    tasks = []
    for name, one in zip(members.names, members.weights, strict=True):
        # What is not annotated reads another segment of the annotation, which may settle the length unit of the volume.
        alone = replace(job, segment=known.get(name, next(iter(known.values()), None)))
        tasks.append(Task(path, one, alone, sources, segment=name))
    asked = {
        "input": input_record(source, job.level),
        "segments": members.record(),
        "exclusive": members.exclusive,
        "masks": {} if annotation is None else {"annotation": input_record(annotation)},
        "parameters": job.parameters(),
    }
    return _Plan(members, job, tuple(tasks), frozenset(known), outputs, asked)


def _segment(plan: _Plan, to: _Listeners) -> Outcome:
    for task in plan.tasks:
        task.weights.make_ready()
    pieces = (_apart if plan.members.exclusive else _one_by_one)(plan, to)
    return finish(plan.job, pieces, plan.outputs, plan.asked, to.page, to.watch, to.say)


def _added(plan: _Plan, done: Lacking, say: Callable[[str], None]) -> Outcome | None:
    """Make what is lacking from the files that are there; None where that cannot be."""
    page, watch = SegmentsPage(plan.members.names) if plan.job.report else None, Watch()
    say(f"  from        what is there: {', '.join(done.lacks)}")
    pieces = pieces_there(plan.tasks, plan.scored, done.record, page, _once(say))
    return None if pieces is None else finish(plan.job, pieces, plan.outputs, plan.asked, page, watch, say)


def _one_by_one(plan: _Plan, to: _Listeners) -> Pieces:
    """Find each segment by the network of its own, as if it were alone."""
    found: list[Piece] = []
    shown: Volume | None = None
    told = _once(to.say)
    for task in plan.tasks:
        weights = task.weights
        to.say(f"  segment     {task.segment}: {weights.path} ({weights.network.name})")
        held = 0 if shown is None else shown.array.itemsize + sum(piece.voxel_bytes for piece in found)
        task = replace(task, held=held)
        memory = plan_room(task)
        told(f"  memory      {memory.description}")
        inputs = read_inputs(task, told)
        if task.segment not in plan.scored:
            inputs = replace(inputs, annotation=None)
        on_pass = None if to.page is None else to.page.listener(task.segment, inputs.volume, plan.job.threshold)
        with predicted(task, inputs, memory, on_pass, to.on_iteration, to.on_tile) as prediction:
            if weights.network.refines:
                to.say(f"  changes     {changes(prediction.iterations, task)}")
            measured = measure_prediction(task, inputs, prediction, to.say)
            found.append(_piece(task, inputs, prediction, measured, memory, to.page))
        shown = inputs.volume if shown is None else shown
        to.watch.note(f"predict {task.segment}")
    if shown is None:
        raise AssertionError("there is at least one segment")
    return _pieces(plan, shown, found)


def _apart(plan: _Plan, to: _Listeners) -> Pieces:
    """Let one network tell the classes apart: a voxel belongs to the most probable, background among them."""
    first, found = plan.tasks[0], list[Piece]()
    memory = plan_room(replace(first, held=3 * len(plan.tasks)))  # a mask, levels and an annotation each
    to.say(f"  memory      {memory.description}")
    inputs = read_inputs(first, to.say)
    annotations = {first.segment: inputs.annotation}
    annotations |= {
        task.segment: read_mask(task.job.annotation, task, inputs.volume, "annotation", to.say)[1]
        for task in plan.tasks[1:]
        if task.segment in plan.scored
    }
    to.watch.note("read")
    job = plan.job
    with _classes(first, inputs, memory, to) as (probability, passes):
        planes: list[Planes] = [
            one if inputs.grid is None else inputs.grid.back(one, job.y_crop) for one in probability
        ]
        to.watch.note("predict")
        labels = most_probable(planes)
        for number, task in enumerate(plan.tasks, 1):
            alone = replace(inputs, annotation=annotations[task.segment] if task.segment in plan.scored else None)
            prediction = Prediction(planes[number - 1], [passes[number - 1]])
            mask = labels == number
            if to.page is not None:
                to.page.listener(task.segment, inputs.volume, 0.5)(mask, passes[number - 1])
            measured = measure_found(task, alone, mask, to.say)
            found.append(_piece(task, alone, prediction, measured, memory, to.page))
    return _pieces(plan, inputs.volume, found)


@contextmanager
def _classes(
    task: Task, inputs: Inputs, memory: Memory, to: _Listeners
) -> Iterator[tuple[Sequence[Planes], list[Iteration]]]:
    """Give the probability of each class and what the pass did; what lies on the disk is gone after the block."""
    job, model = task.job, task.weights.model
    crop = job.y_crop if inputs.grid is None else inputs.grid.depth(job.y_crop)
    how = Refinement(1, None, to.on_iteration, y_crop=crop)
    with ExitStack() as files:
        try:
            if memory.windows is None:
                probability, passes = predict_classes(inputs.seen, model, how)
                found: tuple[Sequence[Planes], list[Iteration]] = list(probability), passes
            else:
                make_folder(job.output)
                how = replace(how, on_iteration=None)
                windows = predicted_in_windows(inputs.seen, model, memory.windows, job.output, how, to.on_tile)
                found = files.enter_context(windows)
        except InputError as error:
            raise InputError(f"'{task.path}': {error}") from error
        yield found


def _pieces(plan: _Plan, volume: Volume, found: Sequence[Piece]) -> Pieces:
    first = plan.tasks[0]
    device = str(next(first.weights.model.parameters()).device)
    return Pieces(first.path, first.stem, volume, tuple(found), device)


def _piece(
    task: Task,
    inputs: Inputs,
    prediction: Prediction,
    measured: Measured,
    memory: Memory,
    page: SegmentsPage | None,
) -> Piece:
    if page is not None:
        page.found(task.segment, prediction.probability, measured)
    found = np.empty(prediction.probability.shape, np.uint8)
    for plane, level in zip(found, levels(prediction.probability), strict=True):
        plane[...] = level
    return Piece(
        name=task.segment,
        measured=measured,
        levels=found,
        annotation=None if inputs.annotation is None else inputs.annotation.array,
        iterations=tuple(prediction.iterations),
        settled=has_settled(prediction.iterations) if task.settles else None,
        cleaned=None if measured.cleaned is None else asdict(measured.cleaned),
        notes=tuple(inputs.notes),
        outside=inputs.outside,
        memory=memory,
    )


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what says each line once: all networks are told of the same volume."""
    said = set[str]()

    def tell(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return tell
