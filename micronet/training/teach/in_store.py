"""Teaching on an OME-Zarr that is too large for memory: a box of it around the labels is learned from.

All else is as `job` does it in memory. The box is as bright, and evened, as the whole volume tells, so that what is
annotated is learned as it is seen in the volume. Then all of the volume is segmented part by part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import free_bytes, make_folder
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.provenance import sha256_of
from micronet.core.ram import MARGIN, Allowance, MemoryLimitError, size
from micronet.core.volume import Volume
from micronet.io import Sources
from micronet.io.checks import ReadOptions, check_axes
from micronet.io.labels_part import PartOfVolume, read_labels_part, reading_bytes
from micronet.io.sidecar import refuse_second_log
from micronet.io.zarr import Level, open_level
from micronet.networks.card import Look
from micronet.networks.evening import EvenedPart, planes_are_thick
from micronet.networks.kernels.scale_space import default_scales, reach
from micronet.networks.taught import Taught
from micronet.networks.weights import load_model
from micronet.segment.boxes import light_of
from micronet.segment.light_work import LightWork, averaged_rows, light_bytes
from micronet.segment.outputs import above
from micronet.segment.plan import Beside, Task
from micronet.segment.plan import Plan as SegmentPlan
from micronet.segment.plane_work import Runner
from micronet.segment.settings import Job, Weights
from micronet.segment.shelf import LocalShelf
from micronet.segment.store import sampled, segment_store
from micronet.segment.store_spec import FilesSpec
from micronet.segment.store_work import StoreFiles, copied_bytes
from micronet.segment.tiles import Progress as Stages
from micronet.segment.tiles import run_here
from micronet.training.teach.course import AROUND, Progress, learning_bytes, teach
from micronet.training.teach.lesson import Lesson
from micronet.training.teach.look import Place, uncertain_places, write_look
from micronet.training.teach.material import Material, gather
from micronet.training.teach.plan import Plan, TeachJob, bytes_to_teach, in_store
from micronet.training.teach.reading import Say, tell_read
from micronet.training.teach.result import Found, keep_weights, looked, record_in, record_of

__all__ = ["teach_in_store"]


@dataclass(frozen=True, eq=False)
class _Box:
    """A store, and the box of it that is learned from."""

    level: Level
    part: PartOfVolume

    @property
    def spacing_um(self) -> tuple[float, float, float]:
        """Of its voxels, as they are worked with."""
        return self.part.whole.spacing_um or (1.0, 1.0, 1.0)

    @property
    def first(self) -> tuple[int, ...]:
        """Its first voxel in the volume."""
        return tuple(one.start for one in self.part.box)

    @property
    def words(self) -> str:
        """Where it is, for a person."""
        return _words(self.part.box)


@dataclass(frozen=True, eq=False)
class _Taught:
    """What was taught, how its record begins, and where a further stroke would help most in the box."""

    network: Taught
    record: dict[str, Any]
    places: list[Place]
    slices: list[Place]


def teach_in_store(
    plan: Plan,
    sources: Sources,
    say: Say,
    on_progress: Progress | None = None,
    *,
    card: dict[str, Any] | None = None,
) -> Outcome:
    """Learn from the box of the labels, and segment the volume part by part.

    Parameters
    ----------
    plan : Plan
        Of a volume that does not fit into memory, or did not when the same call was interrupted.
    sources, say, on_progress
        As in `micronet.training.teach.job`.
    card : dict, optional
        Of the weights that the same call had taught when it was interrupted (`plan.taught_before`): they are taken.

    Raises
    ------
    MicronetError
        As `micronet.training.teach.job.teach_file`. Once they are taught the weights are there, whatever follows.
    """
    plan = in_store(plan, sources)
    box = _read(plan, sources, say)
    if card is None:
        say(f"  memory      too large for memory: learns from {box.words}; all of it is segmented part by part then")
    taught = _taught(plan, box, card, say, on_progress)
    try:
        outcome = _segmented(plan, sources, box, taught, say, on_progress)
    except BaseException:  # interrupted, too
        other = f"infer.py takes it as its model too {setting('model')}"
        say(f"  kept        {plan.weights_path}: the same call goes on with it; {other}")
        raise
    if taught.places:
        z, y, x = taught.places[0].moved(box.first).voxel
        where = f"z {z}, y {y}, x {x} ({taught.places[0].why})"
        say(f"  look        of what was learned from a stroke helps most at {where}; more in {plan.stem}_look.csv")
    return outcome


def _words(box: Sequence[slice]) -> str:
    return ", ".join(f"{axis} {one.start}:{one.stop}" for axis, one in zip("zyx", box, strict=True))


def _read(plan: Plan, sources: Sources, say: Say) -> _Box:
    """Read the labels, piece by piece; InputError where there is too little memory for that, or for their box."""
    job, path = plan.job, plan.path
    level = open_level(path)
    check_axes(ReadOptions(axes=job.axes), level.image.axes, path)
    grid = level.grid if job.spacing_um is None else level.grid.with_spacing(job.spacing_um)
    spacing_um, labels = grid.spacing_um or (1.0, 1.0, 1.0), sources.of(job.labels)
    allowance, options = Allowance.of(job.max_ram), ReadOptions(job.axes, job.spacing_um, yield_to_file=True)

    def check(work: int, box: Sequence[slice]) -> None:
        what = f"'{path}' does not fit into memory, nor does what lies around its labels ({_words(box)}): it"
        _check(allowance, work, what, "paint closer together, crop the volume,")

    def check_box(box: Sequence[slice]) -> None:
        voxels = math.prod(one.stop - one.start for one in box)
        check(sum(bytes_to_teach(job, 0, voxels, voxels)), box)

    reading = f"'{job.labels}' does not fit into memory: to read it"
    _check(allowance, reading_bytes(labels, options), reading, "give the labels as OME-Zarr in smaller chunks,")
    # So far do the features of a voxel look: those of annotated voxels are what they are in the whole volume.
    around = reach(default_scales(spacing_um), spacing_um)
    names = {"lumen": job.lumen, "background": job.background}
    part = read_labels_part(labels, grid, str(path), around, check_box, options=options, **names)
    tell_read(part.whole, part.labels, say)
    if job.intensity == "log":
        refuse_second_log(path)
    box = _Box(level, part)
    check(_bytes(job, box), part.box)
    room = math.prod(level.shape) * (level.dtype.itemsize + 8)
    if (free := free_bytes(job.output)) < room:
        raise FileError(
            f"'{path}': intermediate files take {size(room)} in '{job.output}', {size(free)} are free; choose another "
            f"disk {setting('output')}"
        )
    return box


def _check(allowance: Allowance, work: int, what: str, advice: str) -> None:
    """Raise MemoryLimitError where something takes more than is allowed."""
    needed = int(allowance.program + MARGIN * work)
    if not allowance.fits(needed):
        raise MemoryLimitError(
            f"{what} takes about {size(needed)}, {allowance.words}; {advice} or allow more {setting('max_ram')}"
        )


def _bytes(job: TeachJob, box: _Box) -> int:
    """Return about how many bytes it takes to look at the volume, and to learn from the box."""
    labels = box.part.labels.volume.array
    held, work = bytes_to_teach(job, 0, labels.size, labels.size)
    learning = held + 4 * labels.size + max(work, learning_bytes(labels, box.spacing_um))  # with the evened image
    return max(learning, labels.size + max(light_bytes(box.level.shape, evened=True), copied_bytes(box.level)))


def _taught(plan: Plan, box: _Box, card: dict[str, Any] | None, say: Say, on_progress: Progress | None) -> _Taught:
    """Teach on the box, and write the weights with the labels and their card; errors name the file at fault.

    With a card, its weights are those.
    """
    job = plan.job
    with _naming(plan.path):
        lesson, material, look = _lesson(plan, box, on_progress)
    if card is not None:
        say(f"  goes on     with '{plan.weights_path}', which the same call taught; anew {setting('force')}")
        network, record = cast(Taught, load_model(plan.weights_path)), record_in(card, plan)
        probability, spread = looked(network, lesson)
    else:
        with _naming(job.labels):
            course = teach(lesson, job.seed, on_progress)
        network = course.network
        network.logarithm = job.intensity == "log"
        say(f"  learned     {course.choice.told()}")
        probability, spread = looked(network, lesson)
        found = Found(
            volume=_grid(job, box),
            labels=box.part.labels,
            material=material,
            lesson=lesson,
            course=course,
            probability=probability,
            spread=spread,
            mask=above(probability, job.threshold),
            part=box.part,
            look=look,
        )
        keep_weights(plan, found, datetime.now(UTC).isoformat(timespec="seconds"))
        record = record_of(plan, found)
        other = f"on other volumes: infer.py with this name as its model {setting('model')}"
        say(f"  wrote       {plan.weights_path}; {other}")
    places, slices = uncertain_places(probability, spread, material.labels, box.spacing_um)
    weights = {"path": write_name(plan.weights_path), "sha256": sha256_of(plan.weights_path), "network": "taught"}
    return _Taught(network, record | {"weights": weights}, places, slices)


def _grid(job: TeachJob, box: _Box) -> Volume:
    """Return the grid of the box, of voxels as they are learned from."""
    dtype = np.dtype(np.float32) if job.intensity == "log" else box.level.dtype
    grid = box.part.labels.volume
    return grid.with_array(np.broadcast_to(np.zeros((), dtype), grid.shape))


def _lesson(plan: Plan, box: _Box, on_progress: Progress | None) -> tuple[Lesson, Material, Look]:
    """Return the lesson on the box, as bright as the whole volume tells, and what the volume looks like."""
    job, level, log = plan.job, box.level, plan.job.intensity == "log"
    around_um = float(np.float32(AROUND * min(box.spacing_um)))  # as learners have it
    again = [around_um] if planes_are_thick(box.spacing_um) else []
    make_folder(job.output)
    with LocalShelf(job.output, ()) as shelf:
        files = FilesSpec(str(plan.path), 0, log, job.threshold, level.shape[1], False)
        store = StoreFiles(shelf, files, level)
        store.make_image()
        work = LightWork(shelf, level.shape, box.spacing_um, (around_um,), averaged_rows(level.shape))
        done, total = itertools.count(1), store.copies + (4 + 2 * len(again)) * work.planes + work.columns

        def tick() -> None:
            if on_progress is not None:
                on_progress(next(done), total, "looking at the whole volume")

        run_here(store, tick)("copy", store.copies, ticks=True)
        light = light_of(work, _ticking(work, tick), Stages(), again)
        image, evened = work.seen(box.part.box, light, None), work.seen(box.part.box, light, 0)
        look = Look.of(sampled(shelf["image"]), (light.mean, light.sd))
    material = gather(box.part.labels.volume, box.part.labels.volume.array, (), None, plan.asked["input"]["sha256"])
    lesson = material.lesson(image, box.spacing_um)
    return replace(lesson, evened={around_um: EvenedPart(evened, light.evened[0])}), material, look


def _ticking(work: LightWork, tick: Callable[[], None]) -> Runner:
    """Return a runner every step of which ticks."""
    run = run_here(work, tick)
    return lambda step, count, *arguments, ticks=True: run(step, count, *arguments, ticks=True)


def _segmented(
    plan: Plan, sources: Sources, box: _Box, taught: _Taught, say: Say, on_progress: Progress | None
) -> Outcome:
    """Segment the store; what was annotated is kept in its mask."""
    job, part = plan.job, box.part
    grid = _grid(job, box)

    def write(folder: Path) -> dict[str, Path]:
        return write_look(folder, plan.stem, taught.places, taught.slices, grid, box.spacing_um, box.first)

    def on_tile(done: int, total: int, where: str = "") -> None:
        if on_progress is not None:
            on_progress(done, total, "segmenting")

    how = Job(
        job.output,
        threshold=job.threshold,
        intensity=job.intensity,
        axes=job.axes,
        spacing_um=part.whole.spacing_um,
        max_ram=job.max_ram,
    )
    beside = Beside(part.labels.volume.array, part.box, write, job.free_labels)
    weights = Weights(plan.weights_path, taught.record["weights"]["sha256"], taught.network)
    task = Task(plan.path, weights, how, sources, beside=beside)
    with _naming(plan.path):
        return segment_store(SegmentPlan(task, plan.results, taught.record, None), say, on_tile)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have what is wrong begin with the name of a file, unless it does."""
    try:
        yield
    except MemoryError:
        raise InputError(f"'{path}': memory ran out; say how much may be taken {setting('max_ram')}") from None
    except InputError as error:
        raise error if str(error).startswith("'") else InputError(f"'{path}': {error}") from error
