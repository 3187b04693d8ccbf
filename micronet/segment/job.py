"""One job of a person: a volume file in; a probability, a segmentation, a preview and a record out.

`segment_file` goes through it in six steps: plan (`plan`), read (`reading`), predict (`refine`, `slabs`), measure,
write and record (`results`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import make_folder
from micronet.core.outcome import Outcome
from micronet.core.planes import Planes
from micronet.core.volume import Volume
from micronet.io import Sources
from micronet.networks import engine
from micronet.segment.adding import add_files
from micronet.segment.earlier import earlier_result
from micronet.segment.memory import Memory
from micronet.segment.plan import Plan, Task, TimePoint, plan_room, plan_task
from micronet.segment.reading import Inputs, read_inputs
from micronet.segment.refine import Iteration, Refinement, predict_whole
from micronet.segment.results import (
    Prediction,
    Watch,
    Written,
    changes,
    hand_over,
    measure_prediction,
    record_of,
    write_results,
)
from micronet.segment.settings import Job, Weights, check_results, check_stems
from micronet.segment.slabs import predict_in_slabs
from micronet.segment.store import forget_unfinished, segment_store
from micronet.segment.store_plan import refuse_wishes
from micronet.segment.tiles import OnTile
from micronet.segment.windows import predicted_in_windows

if TYPE_CHECKING:
    from micronet.segment.report import SegmentReport

__all__ = ["Job", "TimePoint", "Weights", "check_results", "check_stems", "predicted", "segment_file"]


def segment_file(
    path: Path,
    weights: Weights,
    job: Job,
    *,
    say: Callable[[str], None],
    on_iteration: Callable[[Iteration], None] | None = None,
    force: bool = False,
    time_point: TimePoint | None = None,
    on_tile: OnTile = lambda done, total, where="": None,
) -> Outcome:
    """Segment one volume and write what was found.

    Parameters
    ----------
    path : Path
        The volume.
    weights : Weights
    job : Job
    say : callable
        Receives what was read, chosen, found and written, a line at a time.
    on_iteration : callable, optional
        Receives an `Iteration` after each pass.
    force : bool
        Do it again, and replace the result that is there.
    time_point : TimePoint, optional
        What to segment of `path`, where that holds or belongs to a recording.
    on_tile : callable
        Receives how many windows, or tiles of an OME-Zarr, are done, and how many there are at most over all passes
        (of a cluster with a dashboard, its address too); then `on_iteration` is not called.

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
        with Sources() as sources:
            task = Task(path, weights, job, sources, time_point)
            if task.in_store:
                refuse_wishes(task)
            plan = plan_task(task)
            done, plan = (None, plan) if force else _joined(plan, say)
            if done is not None:
                return done
            plan.outputs.check_room()
            if task.in_store:
                return segment_store(plan, say, on_tile, force=force)
            return _segment(plan, say, on_iteration, on_tile)
    except MemoryError:
        raise InputError(f"'{path}': memory ran out; say how much may be taken {setting('max_ram')}") from None
    except torch.cuda.OutOfMemoryError:
        larger = weights.network.tiling == "windows"
        how = f"windows take less {setting('window')}, the CPU has more" if larger else "the CPU works in slabs"
        raise InputError(f"'{path}' does not fit into the memory of the GPU; {how} {setting('device')}") from None


def _joined(plan: Plan, say: Callable[[str], None]) -> tuple[Outcome | None, Plan]:
    """Return what comes of a result that is there, to which what it lacks is added; else None and what to do."""
    earlier = earlier_result(plan)
    if earlier is None:
        return None, plan
    if not earlier.lacks:
        if plan.task.in_store:
            forget_unfinished(plan)
        return earlier.outcome, plan
    if plan.task.in_store:
        raise FileError(
            f"'{plan.outputs.record_path}' is of a result in an OME-Zarr, which {', '.join(earlier.lacks)} cannot be "
            f"added to; replace it {setting('force')} or write elsewhere {setting('output')}"
        )
    if earlier.anew is None and (added := add_files(earlier, say)) is not None:
        return added, plan
    say(f"  anew        for {', '.join(earlier.lacks)}: {earlier.anew or 'its grid would be another'}")
    return None, plan_task(replace(plan.task, job=earlier.whole()))


def _segment(
    plan: Plan,
    say: Callable[[str], None],
    on_iteration: Callable[[Iteration], None] | None,
    on_tile: OnTile,
) -> Outcome:
    task, watch = plan.task, Watch()
    task.weights.make_ready()
    memory = plan_room(task)
    say(f"  memory      {memory.description}")
    inputs = read_inputs(task, say)
    watch.note("read")
    page = _new_page(task.job, inputs)
    on_pass = None if page is None else page.add
    with predicted(task, inputs, memory, on_pass, on_iteration, on_tile) as prediction:
        watch.note("predict")
        if task.weights.network.refines:
            say(f"  changes     {changes(prediction.iterations, task)}")
        measured = measure_prediction(task, inputs, prediction, say)
        written = write_results(plan, inputs, prediction, measured, memory, say)
        watch.note("write")
        if page is not None and measured.cleaned is not None:
            page.cleaned(measured.mask)
        record = record_of(plan, memory, inputs, prediction, measured, written, watch.seconds)
        if page is not None:
            _write_page(page, plan, inputs, prediction, record)
        _finish(plan, record, written, say)
        if task.time_point is not None and task.time_point.on_found is not None:
            task.time_point.on_found(hand_over(prediction, measured))
    return measured.outcome(task.path, record)


@contextmanager
def predicted(
    task: Task,
    inputs: Inputs,
    memory: Memory,
    on_pass: Callable[[Planes, Iteration], None] | None,
    on_iteration: Callable[[Iteration], None] | None,
    on_tile: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Prediction]:
    """Give what the network finds; what lies on the disk is gone after the block.

    `on_pass` receives the probability after each pass, on the volume's grid.
    """
    job, iterations = task.job, list[Iteration]()

    def note_iteration(iteration: Iteration) -> None:
        iterations.append(iteration)
        if on_iteration is not None and memory.windows is None:
            on_iteration(iteration)

    keep = None if inputs.keep is None else inputs.keep.array

    def on_input(found: Planes) -> Planes:
        return found if inputs.grid is None else inputs.grid.back(found, job.y_crop, keep)

    def note_probability(now: Planes) -> None:
        if on_pass is not None:
            on_pass(on_input(now), iterations[-1])

    start: Volume | NDArray[Any] | None = inputs.start
    if inputs.grid is not None and inputs.start is not None:
        start = inputs.grid.start(inputs.start.array)
    how = Refinement(
        job.passes,
        start,
        note_iteration,
        y_crop=job.y_crop if inputs.grid is None else inputs.grid.depth(job.y_crop),
        until_stable=job.until_stable,
        on_probability=note_probability,
        keep=keep if keep is None or inputs.grid is None else inputs.grid.kept(keep),
    )
    with ExitStack() as files:
        try:
            probability = files.enter_context(_looked(task, inputs, memory, how, on_tile))
        except InputError as error:
            raise InputError(f"'{task.path}': {error}") from error
        engine.forget_memory()  # what follows needs some itself
        yield Prediction(on_input(probability), iterations)


@contextmanager
def _looked(
    task: Task, inputs: Inputs, memory: Memory, how: Refinement, on_tile: Callable[[int, int], None]
) -> Iterator[Planes]:
    """Give the probability on the network's grid, computed as the memory allows."""
    model, folder = task.weights.model, task.job.output
    if memory.windows is not None:
        make_folder(folder)
        with predicted_in_windows(inputs.seen, model, memory.windows, folder, how, on_tile) as (every, _):
            yield every[0]
    elif memory.slab_planes is not None:
        make_folder(folder)
        with predict_in_slabs(inputs.seen, model, folder, memory.slab_planes, how) as found:
            yield found
    else:
        yield predict_whole(inputs.seen, model, how)


def _new_page(job: Job, inputs: Inputs) -> SegmentReport | None:
    """Return the page that collects what is found, where one is asked for."""
    if not job.report:
        return None
    from micronet.segment.report import SegmentReport  # imports what takes 0.3 s, and few ask for it

    page = SegmentReport(inputs.volume, job.threshold, job.y_crop)
    if inputs.start is not None:
        page.start(inputs.start.array)
    return page


def _write_page(
    page: SegmentReport, plan: Plan, inputs: Inputs, prediction: Prediction, record: Mapping[str, Any]
) -> None:
    annotation = None if inputs.annotation is None else inputs.annotation.array
    with plan.outputs.staged() as folder:
        path = replace(plan.task.job, output=folder).files_on_request(plan.task.stem)["report"]
        page.write(path, prediction.probability, record, annotation=annotation)


def _finish(plan: Plan, record: Mapping[str, Any], written: Written, say: Callable[[str], None]) -> None:
    """Write the record, and tell what is there; InputError where something that was asked for is not."""
    plan.outputs.finish(record)
    names = [*(file.name for file in written.files.values()), plan.outputs.record_path.name]
    say(f"  wrote       {plan.task.job.output}/: {', '.join(names)}")
    if written.refused:
        raise InputError(f"'{plan.task.path}': {written.refused[0]} (all else is written)")
