"""One job of a person whose volume is an OME-Zarr: as `job`, but tile by tile, so that it may be larger than memory.

What comes out is an OME-Zarr too, ``<stem>_probability.ome.zarr`` with the mask as its labels, a preview and a record.
This process does all of it, or the workers of a cluster do the steps (`store_work`), which are the same.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import free_bytes, make_folder
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ram import Allowance, size
from micronet.core.volume import Volume, share_grid
from micronet.io import claimed_bytes, read_annotation
from micronet.io.checks import ReadOptions, check_axes
from micronet.io.sidecar import refuse_second_log
from micronet.io.zarr import Level, open_level
from micronet.io.zarr_write import LabelColour, Version, Writer, write_labels
from micronet.networks import engine
from micronet.networks.card import card_line
from micronet.networks.padding import Padding
from micronet.networks.registry import engine_parameters
from micronet.report.preview import Scene, write_preview
from micronet.segment.checkpoint import Checkpoint
from micronet.segment.cluster import Crew, crew_of
from micronet.segment.memory import Memory
from micronet.segment.outputs import measure_counts
from micronet.segment.plan import Plan, Task
from micronet.segment.reading import Inputs, described, notes_on
from micronet.segment.refine import Refinement, checked_depth, initial_probability
from micronet.segment.results import Measured, Prediction, Watch, Written, changes, record_of, scored_line
from micronet.segment.shelf import LocalShelf, SharedShelf, Shelf
from micronet.segment.slabs import works_in_slabs
from micronet.segment.store_work import Counts, StoreSpec, StoreWork, copied_bytes, sample_step, written_bytes
from micronet.segment.tile_plan import TilePlan, plan_tiles
from micronet.segment.tiles import Progress, Runner, refine_in_tiles, run_here, tile_passes

__all__ = ["forget_unfinished", "refuse_wishes", "segment_store"]

# A plane in float64, its squares, and what is made of it.
_PLANE_BYTES = 24


@dataclass(frozen=True, eq=False)
class _Store:
    """What is known before a voxel is read."""

    level: Level
    grid: Volume
    masks: dict[str, Volume]
    spec: StoreSpec
    memory: Memory


@dataclass(frozen=True, eq=False)
class _Shop:
    """Where the steps are done: by this process, or by others.

    `place` gives a folder for the files of the result, which are outputs when its block ends well.
    """

    work: StoreWork
    run: Runner
    progress: Progress
    place: Callable[[], AbstractContextManager[Path]]


def segment_store(
    plan: Plan, say: Callable[[str], None], on_tile: Callable[[int, int], None], *, force: bool = False
) -> Outcome:
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
    _check_network(task)
    task.weights.make_ready()
    if task.job.cluster is None:
        store = _planned(task, Allowance.of(task.job.max_ram), 0, None, say)
        with _alone(plan, store, on_tile) as shop:
            return _segment(plan, store, shop, {}, say)
    checkpoint = Checkpoint(plan)
    with crew_of(task.job.cluster, say) as crew, checkpoint.locked():
        kept = checkpoint.kept(force)
        try:
            store = _planned(task, crew.allowance(task.job.max_ram), crew.processes, kept, say)
            with _together(plan, store, crew, checkpoint, on_tile) as shop:
                how_far = shop.progress.words
                if how_far:
                    say(f"  resumes     {how_far}")
                outcome = _segment(plan, store, shop, {"processes": crew.processes, "lost": crew.lost}, say)
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


def _segment(plan: Plan, store: _Store, shop: _Shop, cluster: dict[str, Any], say: Callable[[str], None]) -> Outcome:
    task, watch, work = plan.task, Watch(), shop.work
    job, progress = task.job, shop.progress
    if not progress.copied:
        work.make_image()
        shop.run("copy", work.copies, ticks=True)
        progress.copied = True
        progress.note()
    shown = _sampled(work.shelf["image"])
    outside = _outside(task, store.grid, shown)
    if outside is not None:
        say(f"  WARNING     {outside}")
    watch.note("read")
    start = store.masks.get("initial_mask")
    how = Refinement(job.passes, start, y_crop=job.y_crop, until_stable=job.until_stable)
    with _named(task.path):
        last = refine_in_tiles(work, shop.run, task.weights.network.passes(job.passes), how, progress)
    engine.forget_memory()
    watch.note("predict")
    iterations = progress.iterations
    if task.weights.network.refines:
        say(f"  changes     {changes(iterations, task)}")
    counts, written = _write(plan, store, shop, last, shown)
    measured = _measured(task, store, counts, say)
    watch.note("write")
    grid, annotation = store.grid, store.masks.get("annotation")
    inputs = Inputs(grid, grid, None, start, annotation, None, list(grid.notes), outside)
    told = Prediction(np.empty(0, np.float32), iterations)
    record = record_of(plan, store.memory, inputs, told, measured, written, watch.seconds)
    record["memory"] |= {"tiles_zyx": list(store.spec.plan.sides), "coarse_on_disk": store.spec.plan.coarse_on_disk}
    if cluster:
        record["cluster"] = cluster
    plan.outputs.finish(record)
    names = [*(file.name for file in written.files.values()), plan.outputs.record_path.name]
    say(f"  wrote       {job.output}/: {', '.join(names)}")
    return measured.outcome(task.path, record)


@contextmanager
def _alone(plan: Plan, store: _Store, on_tile: Callable[[int, int], None]) -> Iterator[_Shop]:
    """Give the shop of this process; what is between two steps vanishes with it."""
    task = plan.task
    make_folder(task.job.output)
    with LocalShelf(task.job.output, store.spec.plan.in_memory) as shelf:
        _put_masks(shelf, store)
        work = StoreWork(shelf, store.spec, engine_parameters(task.weights.model), store.level, alone=True)
        progress = Progress()
        yield _Shop(work, run_here(work, _ticking(task, work, progress, on_tile)), progress, plan.outputs.staged)


@contextmanager
def _together(
    plan: Plan, store: _Store, crew: Crew, checkpoint: Checkpoint, on_tile: Callable[[int, int], None]
) -> Iterator[_Shop]:
    """Give the shop of a cluster; what is between two steps lies in the folder of the checkpoint."""
    parameters, shelf = engine_parameters(plan.task.weights.model), SharedShelf(checkpoint.folder)
    checkpoint.begin(store.spec, parameters)
    _put_masks(shelf, store)
    crew.check(checkpoint.folder)
    work, progress = StoreWork(shelf, store.spec, parameters, store.level), checkpoint.progress()

    @contextmanager
    def place() -> Iterator[Path]:
        made = checkpoint.folder / "result"
        shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
        make_folder(made)
        yield made
        with plan.outputs.staged() as folder:
            for file in list(made.iterdir()):
                os.rename(file, folder / file.name)

    yield _Shop(work, crew.runner(checkpoint.folder, _ticking(plan.task, work, progress, on_tile)), progress, place)


def _put_masks(shelf: Shelf, store: _Store) -> None:
    start, annotation = store.masks.get("initial_mask"), store.masks.get("annotation")
    if start is not None:
        shelf.put("start", initial_probability(store.grid, start))
    if annotation is not None:
        shelf.put("annotation", annotation.array)


def _ticking(
    task: Task, work: StoreWork, progress: Progress, on_tile: Callable[[int, int], None]
) -> Callable[[], None]:
    """Return what is called after each tile; tiles that were done before count as done."""
    how = Refinement(task.job.passes)
    total = work.copies + tile_passes(work.plan, task.weights.model, how) + work.results
    before = work.copies * progress.copied + work.fine * (progress.encoded + len(progress.iterations))
    done = itertools.count(before + 1)
    return lambda: on_tile(next(done), total)


def _outside(task: Task, grid: Volume, shown: NDArray[Any]) -> str | None:
    """Return where the volume lies outside of what the network was trained on, by a sample of its voxels."""
    weights, sample = task.weights, replace(grid, array=shown)
    return card_line(weights.path, weights.sha256, task.path, sample, log_taken=task.job.intensity == "log")


def refuse_wishes(task: Task) -> None:
    """Raise InputError where something is asked for that needs the whole volume in memory."""
    job, path = task.job, task.path
    more = [name for name in ("figure", "keep", "label_tiff", "resample_um") if getattr(job, name)]
    for wish in sorted(job.wishes.union(more)):
        raise InputError(
            f"'{path}' is segmented tile by tile, and what was asked for needs it whole {setting(wish)}; leave it "
            "out, or copy a part of the volume to NRRD or TIFF"
        )


def _check_network(task: Task) -> None:
    """Raise InputError where the network cannot go through a volume tile by tile."""
    weights = task.weights
    if weights.network.tiling != "slabs":
        raise InputError(
            f"'{task.path}' is segmented tile by tile, and '{weights.path.name}' ({weights.network.title}) takes "
            "volumes whole; copy a part of it to NRRD or TIFF, or take a µ-Net or µr-Net"
        )
    if not works_in_slabs(weights.model):
        raise InputError(
            f"'{task.path}': only the numba engine on the CPU segments an OME-Zarr {setting('engine', 'device')}"
        )


def _planned(
    task: Task, allowance: Allowance, processes: int, kept: StoreSpec | None, say: Callable[[str], None]
) -> _Store:
    """Open the level, read the masks, and decide on the tiles: as before, where there is what to go on with."""
    job, path = task.job, task.path
    level = open_level(path, job.level)
    check_axes(ReadOptions(axes=job.axes), level.image.axes, path)
    grid = level.grid if job.spacing_um is None else level.grid.with_spacing(job.spacing_um)
    depth = grid.shape[1] if job.y_crop is None else min(max(job.y_crop, 1), grid.shape[1])
    masks = [claimed_bytes(task.sources.of(mask), axes=job.axes, shape=job.shape) for mask in task.masks.values()]
    voxels = math.prod(grid.shape)
    tiles = None if kept is None or not allowance.fits(kept.plan.needed) else kept.plan
    if tiles is None:
        try:
            tiles = plan_tiles(
                Padding((grid.shape[0], depth, grid.shape[2])).shape,
                refines=task.weights.network.refines,
                held=voxels * len(masks),
                least=max(
                    _PLANE_BYTES * grid.shape[1] * grid.shape[2],
                    copied_bytes(level),
                    min(written_bytes(), 14 * voxels),
                    *(2 * m for m in masks),
                ),
                itemsize=4 if job.intensity == "log" else level.dtype.itemsize,
                allowance=allowance,
                processes=processes,
            )
        except InputError as error:
            raise InputError(f"'{path}': {error}") from error
    words = f"{tiles.words}: about {size(tiles.needed)} needed{' in each process' if processes else ''}, "
    words += f"{allowance.words}; {size(tiles.scratch_bytes)} of intermediate files in {job.output}/"
    say(f"  memory      {words}")
    if kept is None:
        _check_room(task, tiles.scratch_bytes + 3 * voxels)
    levels = f"level {job.level} of {level.image.levels}"
    say(f"  volume      {described(grid)}, {levels}, OME-Zarr {level.image.version}")
    for one in (*grid.notes, *notes_on(grid, None, task)):
        say(f"              note: {one}")
    if job.intensity == "log":
        refuse_second_log(path)
        say("  intensity   the logarithm of what is stored")
    grid, read = _masks(task, grid, say)
    memory = Memory(tiles.needed, allowance.bytes, None, words, voxels * len(masks), allowance)
    return _Store(level, grid, read, _spec(task, grid, read, tiles), memory)


def _check_room(task: Task, room: int) -> None:
    free = free_bytes(task.job.output)
    if free < room:
        raise FileError(
            f"'{task.path}': intermediate files and result take {size(room)} in '{task.job.output}', "
            f"{size(free)} are free; choose another disk {setting('output')}"
        )


def _spec(task: Task, grid: Volume, masks: dict[str, Volume], tiles: TilePlan) -> StoreSpec:
    """Return what a process has to know; InputError where a setting does not fit the volume."""
    job, start = task.job, masks.get("initial_mask")
    with _named(task.path):
        depth = checked_depth(grid.array, task.weights.model, Refinement(job.passes, start, y_crop=job.y_crop))
    return StoreSpec(
        str(task.path.absolute()),
        job.level,
        job.intensity == "log",
        job.threshold,
        depth,
        task.weights.network.refines,
        start is not None,
        "annotation" in masks,
        tiles,
    )


def _masks(task: Task, grid: Volume, say: Callable[[str], None]) -> tuple[Volume, dict[str, Volume]]:
    """Return the grid, whose unit a mask may settle, and the masks by their role."""
    job, found = task.job, {}
    for role, path in task.masks.items():
        annotation = read_annotation(
            task.sources.of(path), segment=job.segment, axes=job.axes, spacing_um=job.spacing_um, shape=job.shape
        )
        grid, mask, note = share_grid(grid, annotation.mask, str(task.path), str(path))
        say(f"  {role.replace('initial_mask', 'start from'):<12}{annotation.description}")
        for one in dict.fromkeys((*mask.notes, *([note] if note else []))):
            say(f"              note: {one}")
        found[role] = mask
    return grid, found


def _sampled(image: Any) -> NDArray[Any]:
    """Return every so many voxels of a volume along each axis, as the preview shows them."""
    step = sample_step(image.shape)
    return np.stack([image[z : z + 1][0][::step, ::step] for z in range(0, image.shape[0], step)])


def _write(plan: Plan, store: _Store, shop: _Shop, last: int, shown: NDArray[Any]) -> tuple[Counts, Written]:
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
        write_preview(files["preview"], _scene(store, shown, mask_shown, step, task.job.y_crop), title)
    return counts, Written(files, store.memory.needed, [], [], {})


def _scene(store: _Store, image: NDArray[Any], mask: NDArray[np.bool_], step: int, y_crop: int | None) -> Scene:
    """Return every so many voxels along each axis as the preview shows them."""
    spacing, annotation = store.grid.spacing_um, store.masks.get("annotation")
    return Scene(
        image,
        mask,
        None if spacing is None else (step * spacing[0], step * spacing[1], step * spacing[2]),
        None if annotation is None else annotation.array[::step, ::step, ::step],
        y_crop=None if y_crop is None else -(-y_crop // step),
    )


def _measured(task: Task, store: _Store, counts: Counts, say: Callable[[str], None]) -> Measured:
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


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
