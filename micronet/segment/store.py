"""One job of a person whose volume is an OME-Zarr: as `job`, but tile by tile, so that it may be larger than memory.

What comes out is an OME-Zarr too, ``<stem>_probability.ome.zarr`` with the mask as its labels, a preview and a record.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
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
from micronet.io.scratch_array import ScratchArray
from micronet.io.sidecar import refuse_second_log
from micronet.io.zarr import Level, open_level
from micronet.io.zarr_write import LabelColour, Version, Writer, boxes_of, write_labels
from micronet.measure.overlap import Overlap, overlap
from micronet.networks import engine
from micronet.networks.card import card_line
from micronet.networks.normalize import log_intensity
from micronet.networks.padding import Padding
from micronet.report.preview import Scene, write_preview
from micronet.segment.memory import Memory
from micronet.segment.outputs import measure_counts
from micronet.segment.plan import Plan, Task
from micronet.segment.reading import Inputs, described, notes_on
from micronet.segment.refine import Iteration, Refinement
from micronet.segment.results import Measured, Prediction, Watch, Written, changes, record_of, scored_line
from micronet.segment.slabs import works_in_slabs
from micronet.segment.tile_plan import TilePlan, plan_tiles
from micronet.segment.tiles import predict_in_tiles, tile_passes

__all__ = ["refuse_wishes", "segment_store"]

_COPIED_BYTES = 32 << 20
# The preview shows every so many voxels, so that no axis has more.
_SHOWN = 300
# A plane in float64, its squares, and what is made of it.
_PLANE_BYTES = 24


@dataclass(frozen=True, eq=False)
class _Store:
    """What is known before a voxel is read."""

    level: Level
    grid: Volume
    masks: dict[str, Volume]
    tiles: TilePlan
    memory: Memory


@dataclass(eq=False)
class _Counts:
    """What is counted while the result is written."""

    inside: int = 0
    agreement: Overlap = field(default_factory=lambda: Overlap(0, 0, 0))
    outside: int = 0
    shown: list[NDArray[Any]] = field(default_factory=list)


def segment_store(
    plan: Plan,
    say: Callable[[str], None],
    on_tile: Callable[[int, int], None],
) -> Outcome:
    """Segment an OME-Zarr.

    Parameters
    ----------
    plan, say
        As in `micronet.segment.job`.
    on_tile : callable
        Receives how many tiles are done, and how many there are at most over all passes.

    Raises
    ------
    MicronetError
        For bad input, too little memory or room; nothing has been written then.
    """
    task, watch = plan.task, Watch()
    _check_network(task)
    task.weights.make_ready()
    store = _planned(task, say)
    job, model = task.job, task.weights.model
    make_folder(job.output)
    iterations: list[Iteration] = []
    start = store.masks.get("initial_mask")
    how = Refinement(job.passes, start, iterations.append, y_crop=job.y_crop, until_stable=job.until_stable)
    total, done = tile_passes(store.tiles, model, how), itertools.count(1)
    with ExitStack() as files:
        image = files.enter_context(_copied(store.level, job.intensity == "log", job.output))
        shown = _sampled(image)
        outside = _outside(task, store.grid, shown)
        if outside is not None:
            say(f"  WARNING     {outside}")
        watch.note("read")
        with _named(task.path):
            found = predict_in_tiles(
                image, store.grid, model, job.output, store.tiles, how, lambda: on_tile(next(done), total)
            )
        probability = files.enter_context(found)
        engine.forget_memory()
        watch.note("predict")
        if task.weights.network.refines:
            say(f"  changes     {changes(iterations, task)}")
        counts, written = _write(plan, store, probability, shown)
        measured = _measured(task, store, counts, say)
        watch.note("write")
        grid, annotation = store.grid, store.masks.get("annotation")
        inputs = Inputs(grid, grid, None, start, annotation, None, list(grid.notes), outside)
        told = Prediction(np.empty(0, np.float32), iterations)
        record = record_of(plan, store.memory, inputs, told, measured, written, watch.seconds)
        record["memory"] |= {"tiles_zyx": list(store.tiles.sides), "coarse_on_disk": store.tiles.coarse_on_disk}
    plan.outputs.finish(record)
    names = [*(file.name for file in written.files.values()), plan.outputs.record_path.name]
    say(f"  wrote       {job.output}/: {', '.join(names)}")
    return measured.outcome(task.path, record)


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


def _planned(task: Task, say: Callable[[str], None]) -> _Store:
    """Open the level, read the masks, and decide on the tiles."""
    job, path = task.job, task.path
    level = open_level(path, job.level)
    grid = level.grid if job.spacing_um is None else level.grid.with_spacing(job.spacing_um)
    allowance = Allowance.of(job.max_ram)
    depth = grid.shape[1] if job.y_crop is None else min(max(job.y_crop, 1), grid.shape[1])
    refines = task.weights.network.refines
    voxels = math.prod(grid.shape)
    masks = [claimed_bytes(task.sources.of(mask), axes=job.axes, shape=job.shape) for mask in task.masks.values()]
    itemsize = 4 if job.intensity == "log" else level.dtype.itemsize
    try:
        tiles = plan_tiles(
            Padding((grid.shape[0], depth, grid.shape[2])).shape,
            refines=refines,
            held=voxels * len(masks),
            least=max(
                _PLANE_BYTES * grid.shape[1] * grid.shape[2], 3 * _copied_bytes(level), *(2 * m for m in masks), 0
            ),
            itemsize=itemsize,
            allowance=allowance,
        )
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    words = f"{tiles.words}: about {size(tiles.needed)} needed, {allowance.words}"
    words += f"; {size(tiles.scratch_bytes)} of intermediate files in {job.output}/"
    say(f"  memory      {words}")
    room = tiles.scratch_bytes + 3 * voxels
    if free_bytes(job.output) < room:
        raise FileError(
            f"'{path}': intermediate files and result take {size(room)} in '{job.output}', "
            f"{size(free_bytes(job.output))} are free; choose another disk {setting('output')}"
        )
    levels = f"level {job.level} of {level.image.levels}"
    say(f"  volume      {described(grid)}, {levels}, OME-Zarr {level.image.version}")
    for one in (*grid.notes, *notes_on(grid, None, task)):
        say(f"              note: {one}")
    if job.intensity == "log":
        refuse_second_log(path)
        say("  intensity   the logarithm of what is stored")
    grid, read = _masks(task, grid, say)
    memory = Memory(tiles.needed, allowance.bytes, None, words, voxels * len(masks), allowance)
    return _Store(level, grid, read, tiles, memory)


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


@contextmanager
def _copied(level: Level, logarithm: bool, folder: Path) -> Iterator[ScratchArray]:
    """Give the voxels in a file from which they come faster than out of packed chunks; each chunk is read once."""
    with ScratchArray(folder, level.shape, np.float32 if logarithm else level.dtype) as image:
        for box in boxes_of(level.shape, _copied_sides(level)):
            voxels = level[box]
            image[box] = log_intensity(voxels) if logarithm else voxels
        yield image


def _copied_sides(level: Level) -> tuple[int, int, int]:
    """Return the sides of what is copied at once: whole chunks, along X and then Y as many as the bytes allow."""
    z, y, x = (min(piece, length) for piece, length in zip(level.pieces, level.shape, strict=True))
    fits = max(1, _COPIED_BYTES // (z * y * x * max(level.dtype.itemsize, 4)))
    wide = min(level.shape[2], x * fits)
    high = min(level.shape[1], y * max(1, fits // -(-wide // x)))
    return z, high, wide


def _copied_bytes(level: Level) -> int:
    return math.prod(_copied_sides(level)) * max(level.dtype.itemsize, 4)


def _sampled(image: ScratchArray) -> NDArray[Any]:
    """Return every so many voxels of a volume along each axis, as the preview shows them."""
    step = _step(image.shape)
    return np.stack([image[z : z + 1][0][::step, ::step] for z in range(0, image.shape[0], step)])


def _step(shape: Sequence[int]) -> int:
    return -(-max(shape) // _SHOWN)


def _write(plan: Plan, store: _Store, probability: ScratchArray, shown: NDArray[Any]) -> tuple[_Counts, Written]:
    """Write the probability as uint8 (255·p, rounded), the mask as its labels, and the preview."""
    task, grid, stem = plan.task, store.grid, plan.task.stem
    counts = _Counts()
    version: Version = "0.4" if store.level.image.version == "0.4" else "0.5"
    step = _step(grid.shape)
    mask_shown = np.zeros(shown.shape, bool)
    with plan.outputs.staged() as folder:
        files = {
            "probability": folder / f"{stem}_probability.ome.zarr",
            "preview": folder / f"{stem}_preview.png",
        }
        label = LabelColour()
        image = Writer(files["probability"], grid, np.dtype(np.uint8), version=version)
        labels = write_labels(files["probability"], grid, label, version)
        for box in boxes_of(grid.shape, image.chunk):
            found = _deeper(probability, box)
            mask = found > task.job.threshold
            image[box] = np.rint(found * 255).astype(np.uint8)
            labels[box] = mask.astype(np.uint8)
            _count(counts, mask, box, store.masks.get("annotation"), probability.shape[1])
            first = [-part.start % step for part in box]
            place = tuple(slice(-(-part.start // step), -(-part.stop // step)) for part in box)
            mask_shown[place] = mask[first[0] :: step, first[1] :: step, first[2] :: step]
        image.finish()
        labels.finish()
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


def _deeper(probability: ScratchArray, box: tuple[slice, slice, slice]) -> NDArray[np.float32]:
    """Return a box of the probability, 0 where nothing was looked at."""
    z, y, x = box
    found: NDArray[np.float32] = probability[z, slice(min(y.start, probability.shape[1]), y.stop), x]
    lacking = y.stop - y.start - found.shape[1]
    return np.pad(found, ((0, 0), (0, lacking), (0, 0))) if lacking else found


def _count(counts: _Counts, mask: NDArray[np.bool_], box: Any, annotation: Volume | None, depth: int) -> None:
    counts.inside += int(np.count_nonzero(mask))
    if annotation is not None:
        true = annotation.array[box]
        seen = max(0, min(depth - box[1].start, mask.shape[1]))
        counts.agreement += overlap(mask[:, :seen], true[:, :seen])
        counts.outside += int(np.count_nonzero(true[:, seen:]))


def _measured(task: Task, store: _Store, counts: _Counts, say: Callable[[str], None]) -> Measured:
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
