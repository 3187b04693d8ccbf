"""One job of a person whose volume is an OME-Zarr: as `job`, but part by part, so that it may be larger than memory.

What comes out is an OME-Zarr too, ``<stem>_probability.ome.zarr`` with the mask as its labels, a preview and a record.
This process does all of it, or the workers of a cluster do the steps (`store_work`), which are the same; but for larger
networks, of which one process does in memory what several do on the disk.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.files import make_folder
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ram import Allowance
from micronet.io.labels import LUMEN
from micronet.io.zarr_write import LabelColour, Version, Writer, write_labels
from micronet.networks import engine
from micronet.networks.card import card_line
from micronet.report.preview import Scene, write_preview
from micronet.segment.boxes import look_in_boxes
from micronet.segment.checkpoint import Checkpoint
from micronet.segment.cluster import Crew, crew_of
from micronet.segment.memory import program_bytes
from micronet.segment.outputs import measure_counts
from micronet.segment.plan import Plan, Task
from micronet.segment.plane_work import Runner
from micronet.segment.reading import Inputs
from micronet.segment.refine import Refinement, initial_probability
from micronet.segment.results import Measured, Prediction, Watch, Written, changes, record_of, scored_line
from micronet.segment.shelf import LocalShelf, SharedShelf, Shelf
from micronet.segment.store_plan import Opened, check_network, naming, open_store
from micronet.segment.store_work import BoxStore, Counts, StoreWork, WindowStore, sample_step, store_work
from micronet.segment.tile_plan import TilePlan
from micronet.segment.tiles import OnTile, Progress, refine_in_tiles, run_here, tile_passes
from micronet.segment.window_work import look_in_windows
from micronet.segment.windows import predicted_in_windows

__all__ = ["forget_unfinished", "sampled", "segment_store"]


@dataclass(frozen=True, eq=False)
class _Shop:
    """Where the steps are done: by this process, or by others.

    `find` gives the number of the pass after which the probability lies on the shelf, while its block lasts; `place` a
    folder for the files of the result, which are outputs when its block ends well.
    """

    work: StoreWork
    run: Runner
    progress: Progress
    find: Callable[[Refinement], AbstractContextManager[int]]
    place: Callable[[], AbstractContextManager[Path]]


def segment_store(plan: Plan, say: Callable[[str], None], on_tile: OnTile, *, force: bool = False) -> Outcome:
    """Segment an OME-Zarr.

    Parameters
    ----------
    plan, say
        As in `micronet.segment.job`.
    on_tile : callable
        Receives how many tiles are done, and how many there are at most over all passes.
    force : bool
        An unfinished segmentation of other settings gives way.

    Raises
    ------
    MicronetError
        For bad input, too little memory or room; nothing has been written then.
    """
    task = plan.task
    check_network(task)
    task.weights.make_ready()
    program = program_bytes(task.weights.model)
    if task.job.cluster is None:
        allowance = Allowance.of(task.job.max_ram, program)
        store = open_store(task, allowance, 0, None, say)
        with _alone(plan, store, on_tile) as shop:
            return _segment(plan, store, shop, None, say)
    checkpoint = Checkpoint(plan)
    with crew_of(task.job.cluster, say) as crew, checkpoint.locked():
        kept = checkpoint.kept(force)
        try:
            allowance = crew.allowance(task.job.max_ram, program)
            store = open_store(task, allowance, crew.processes, kept, say)
            if kept is not None and store.plan != kept.plan:
                say("              note: less memory than before asks for other parts: what is finished is done again")
                checkpoint.forget_progress()
            with _together(plan, store, crew, checkpoint, on_tile) as shop:
                how_far = shop.progress.words
                if how_far:
                    say(f"  resumes     {how_far}")
                outcome = _segment(plan, store, shop, crew, say)
        except BaseException:
            if how_far := checkpoint.progress().words:
                say(f"  kept        {checkpoint.folder}/: the same call goes on {how_far}")
            else:
                checkpoint.remove()
            raise
        checkpoint.remove()
        return outcome


def forget_unfinished(plan: Plan) -> None:
    """Remove what a finished result left to be gone on with: its process was killed before it could."""
    checkpoint = Checkpoint(plan)
    if checkpoint.folder.exists():
        with checkpoint.locked():
            if checkpoint.kept(False) is not None:
                checkpoint.remove()


def _segment(plan: Plan, store: Opened, shop: _Shop, crew: Crew | None, say: Callable[[str], None]) -> Outcome:
    task, watch, work = plan.task, Watch(), shop.work
    job, progress = task.job, shop.progress
    if not progress.copied:
        work.make_image()
        shop.run("copy", work.copies, ticks=True)
        progress.copied = True
        progress.note()
    shown = sampled(work.shelf["image"])
    outside = _outside(task, store, shown)
    if outside is not None:
        say(f"  WARNING     {outside}")
    watch.note("read")
    start = store.masks.get("initial_mask")
    how = Refinement(job.passes, start, y_crop=job.y_crop, until_stable=job.until_stable)
    with ExitStack() as files:
        with naming(task.path):
            last = files.enter_context(shop.find(how))
        engine.forget_memory()
        watch.note("predict")
        if task.weights.network.refines:
            say(f"  changes     {changes(progress.iterations, task)}")
        counts, written = _write(plan, store, shop, last, shown)
    measured = _measured(task, store, counts, say)
    watch.note("write")
    grid, annotation = store.grid, store.masks.get("annotation")
    inputs = Inputs(grid, grid, None, start, annotation, None, list(grid.notes), outside)
    told = Prediction(np.empty(0, np.float32), progress.iterations)
    record = record_of(plan, store.memory, inputs, told, measured, written, watch.seconds)
    record["memory"] |= store.plan.record
    if crew is not None:
        record["cluster"] = crew.record
    plan.outputs.finish(record)
    names = [*(file.name for file in written.files.values()), plan.outputs.record_path.name]
    say(f"  wrote       {job.output}/: {', '.join(names)}")
    return measured.outcome(task.path, record)


@contextmanager
def _alone(plan: Plan, store: Opened, on_tile: OnTile) -> Iterator[_Shop]:
    """Give the shop of this process; what is between two steps vanishes with it."""
    task, model, progress = plan.task, plan.task.weights.model, Progress()
    make_folder(task.job.output)
    with LocalShelf(task.job.output, store.plan.in_memory) as shelf:
        _put_masks(shelf, store)
        work = store_work(shelf, store.spec, model, store.level, alone=True)
        if task.beside is not None:
            work.impose = task.beside.impose
        tick = _ticking(task, store, work, progress, on_tile)
        run = run_here(work, tick)
        if isinstance(work, WindowStore):
            find = _in_windows(task, work, progress, tick)
        else:
            find = _by_steps(task, work, run, progress)
        yield _Shop(work, run, progress, find, plan.outputs.staged)


def _by_steps(
    task: Task, work: StoreWork, run: Runner, progress: Progress
) -> Callable[[Refinement], AbstractContextManager[int]]:
    """Return what finds the probability by the steps of a work."""

    @contextmanager
    def find(how: Refinement) -> Iterator[int]:
        if isinstance(work, BoxStore):
            yield look_in_boxes(work, run, progress)
        elif isinstance(work, WindowStore):
            yield look_in_windows(work, run, progress)
        else:
            yield refine_in_tiles(work, run, task.weights.network.passes(how.iterations), how, progress)

    return find


def _in_windows(
    task: Task, work: WindowStore, progress: Progress, tick: Callable[[], None]
) -> Callable[[Refinement], AbstractContextManager[int]]:
    """Return what finds the probability in windows in one process, which sums up what they say in memory."""
    shelf, windows = work.shelf, work.plan.windows

    @contextmanager
    def find(how: Refinement) -> Iterator[int]:
        image, model, folder = shelf["image"], task.weights.model, task.job.output
        with predicted_in_windows(image, model, windows, folder, how, lambda *_: tick()) as (every, passes):
            progress.iterations.extend(passes)
            shelf.put("probability.1", every[0])
            yield 1

    return find


@contextmanager
def _together(plan: Plan, store: Opened, crew: Crew, checkpoint: Checkpoint, on_tile: OnTile) -> Iterator[_Shop]:
    """Give the shop of a cluster; what is between two steps lies in the folder of the checkpoint."""
    model, shelf = plan.task.weights.model, SharedShelf(checkpoint.folder)
    call = checkpoint.begin(store.spec, model.state_dict())
    _put_masks(shelf, store)
    crew.check(checkpoint.folder)
    work, progress = store_work(shelf, store.spec, model, store.level), checkpoint.progress()

    @contextmanager
    def place() -> Iterator[Path]:
        made = checkpoint.folder / "result"
        shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
        make_folder(made)
        yield made
        with plan.outputs.staged() as folder:
            for file in list(made.iterdir()):
                os.rename(file, folder / file.name)

    tick = _ticking(plan.task, store, work, progress, on_tile, crew.dashboard)
    run = crew.runner(checkpoint.folder, call, tick)
    yield _Shop(work, run, progress, _by_steps(plan.task, work, run, progress), place)


def _put_masks(shelf: Shelf, store: Opened) -> None:
    start, annotation = store.masks.get("initial_mask"), store.masks.get("annotation")
    if start is not None:
        shelf.put("start", initial_probability(store.grid, start))
    if annotation is not None:
        shelf.put("annotation", annotation.array)


def _ticking(
    task: Task, store: Opened, work: StoreWork, progress: Progress, on_tile: OnTile, where: str = ""
) -> Callable[[], None]:
    """Return what is called after each tile, box or window; what was done before counts as done."""
    plan, passes = store.plan, store.plan.count
    if isinstance(plan, TilePlan):
        passes = tile_passes(plan, task.weights.model, Refinement(task.job.passes))
        done_before = plan.count * (progress.encoded + len(progress.iterations))
    else:
        done_before = passes if progress.iterations else plan.done(progress.stages)
    total = work.copies + passes + work.results
    before = work.copies * progress.copied + done_before
    done = itertools.count(before + 1)
    more = (where,) if where else ()
    return lambda: on_tile(next(done), total, *more)


def _outside(task: Task, store: Opened, shown: NDArray[Any]) -> str | None:
    """Return where the volume lies outside of what the network was trained on, by a sample of its voxels."""
    weights, sample = task.weights, replace(store.grid, array=shown)
    return card_line(weights.path, weights.sha256, task.path, sample, log_taken=store.spec.logarithm)


def sampled(image: Any) -> NDArray[Any]:
    """Return every so many voxels of a volume along each axis, as the preview shows them."""
    step = sample_step(image.shape)
    return np.stack([image[z : z + 1][0][::step, ::step] for z in range(0, image.shape[0], step)])


def _write(plan: Plan, store: Opened, shop: _Shop, last: int, shown: NDArray[Any]) -> tuple[Counts, Written]:
    """Write probability and mask of the last pass, their coarser levels, and the preview."""
    task, grid, stem = plan.task, store.grid, plan.task.stem
    version: Version = "0.4" if store.level.image.version == "0.4" else "0.5"
    counts, step, mask_shown = Counts(), sample_step(grid.shape), np.zeros(shown.shape, bool)
    with shop.place() as folder:
        files = {
            "probability": folder / f"{stem}_probability.ome.zarr",
            "preview": folder / f"{stem}_preview.png",
        }
        target = files["probability"]
        Writer.of(target, grid, np.dtype(np.uint8), version=version)
        write_labels(target, grid, LabelColour(), version)
        for level, count in enumerate(shop.work.writes(target)):
            if level:
                shop.run("halve", count, level, target)
                continue
            for one in shop.run("write", count, last, target, ticks=True):
                counts.join(one)
                mask_shown[one.place] = one.shown
        title = write_name(stem) if step == 1 else f"{write_name(stem)} (1 of {step} voxels along each axis)"
        scene = _scene(store, shown, mask_shown, step, task.job.y_crop)
        if task.beside is not None:
            files |= task.beside.write(folder)
            if (painted := task.beside.sampled(step, shown.shape)).any():
                scene = replace(scene, annotation=painted == LUMEN, known=painted > 0)
        write_preview(files["preview"], scene, title)
    return counts, Written(files, store.memory.needed, [], [], {})


def _scene(store: Opened, image: NDArray[Any], mask: NDArray[np.bool_], step: int, y_crop: int | None) -> Scene:
    """Return every so many voxels along each axis as the preview shows them."""
    spacing, annotation = store.grid.spacing_um, store.masks.get("annotation")
    return Scene(
        image,
        mask,
        None if spacing is None else (step * spacing[0], step * spacing[1], step * spacing[2]),
        None if annotation is None else annotation.array[::step, ::step, ::step],
        y_crop=None if y_crop is None else -(-y_crop // step),
    )


def _measured(task: Task, store: Opened, counts: Counts, say: Callable[[str], None]) -> Measured:
    job, grid = task.job, store.grid
    looked_at = math.prod(grid.shape) // grid.shape[1] * min(job.y_crop or grid.shape[1], grid.shape[1])
    result, warnings = measure_counts(counts.inside, looked_at, grid, job.threshold)
    scores, line = None, ""
    if "annotation" in store.masks:
        scores, line = scored_line(counts.agreement, counts.outside)
    found = Measured(np.zeros((0, 0, 0), bool), result, warnings, scores)
    share = f"{100 * result['fraction']:.2f} % of what was looked at"
    say(f"  lumen       {result['voxels']:,} voxels ({share}){found.um3}")
    for warning in warnings:
        say(f"  WARNING     {warning}")
    if line:
        say(f"  scores      {line}")
    return found
