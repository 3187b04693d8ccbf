"""A volume and a yes or no for each of its blocks in; what is taught from that, and every step on a page, out.

`teach_blocks` goes through it: read, train the classifier of blocks, take from its map what is sure, and hand that over
as sparse labels to `micronet.training.teach.job.teach_file`, as if a person had painted them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs
from micronet.core.provenance import versions
from micronet.core.ram import Allowance, MemoryLimitError
from micronet.core.volume import Volume
from micronet.io import Segment, Sources, files_read_with, nrrd, open_stack, read_annotation, read_volume, volume_stem
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.io.seg_nrrd_write import write_label_planes
from micronet.io.sidecar import refuse_second_log
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.report.page.grid import Grid
from micronet.report.page.html import Section, note, table, write_page
from micronet.report.page.scroller import Movie, Shown
from micronet.segment.plan import input_record, is_done
from micronet.training.blocks.labels import Blocks, read_blocks
from micronet.training.blocks.learn import (
    STEPS,
    BlockMap,
    block_map,
    map_bytes,
    over_voxels,
    sparse_labels,
    train_block_net,
    train_bytes,
)
from micronet.training.teach.course import Progress
from micronet.training.teach.job import TeachJob, teach_file
from micronet.training.teach.plan import bytes_to_teach, check_ahead, needs_whole
from micronet.training.teach.reading import Say

__all__ = ["MADE_BY", "BlockWish", "labels_path", "teach_blocks"]

#: What the record says that made it.
MADE_BY = "teach.py blocks"


@dataclass(frozen=True)
class BlockWish:
    """The file that says which blocks hold lumen, their size (z, y, x) in voxels, and the steps of their classifier."""

    blocks: Path
    size: tuple[int, int, int]
    steps: int = STEPS


@dataclass(frozen=True, eq=False)
class _Found:
    """What was read, and what was found of it."""

    volume: Volume
    blocks: Blocks
    map: BlockMap
    labels: NDArray[np.uint8]


def labels_path(folder: Path, path: Path) -> Path:
    """Return where the sparse labels of a volume go."""
    return folder / f"{volume_stem(path)}_blocks.seg.nrrd"


def teach_blocks(
    path: Path, wish: BlockWish, job: TeachJob, *, say: Say, on_progress: Progress | None = None, force: bool = False
) -> Outcome:
    """Learn from which blocks of a volume hold lumen where it is, and teach from what is sure of that.

    Parameters
    ----------
    path : Path
        The volume.
    wish : BlockWish
    job : TeachJob
        Its `labels` is `labels_path` of its output.
    say : callable
        Receives what was read, chosen, found and written, a line at a time.
    on_progress : callable, optional
        As `micronet.training.teach.course.Progress`; may raise to stop.
    force : bool
        Do it again, and replace what is there.

    Returns
    -------
    Outcome
        Of teaching.

    Raises
    ------
    MicronetError
        For bad input, or too little memory.
    """
    job = replace(job, free_labels=True)  # what is sure is no annotation
    outputs = _outputs(path, job)
    with Sources() as sources:
        _refuse_earlier(job)
        asked = _asked(path, wish, job, sources)
        outputs.check()
        if not force and is_done(outputs, asked, path):
            return teach_file(path, job, say=say, on_progress=on_progress)
        check_ahead(path, job, outputs, [*files_read_with(path), wish.blocks], force)
        _check_memory(path, wish, job, sources)
        found = _found(_read(path, wish, job, sources, say), wish.steps, job, on_progress, path)
    counts = [int(np.count_nonzero(found.labels == value)) for value in (LUMEN, BACKGROUND)]
    say(f"  map         cut at {found.map.threshold:.3g}: {np.count_nonzero(found.map.mask):,} voxels lumen")
    say(f"  sure        {counts[0]:,} voxels lumen, {counts[1]:,} background; of the others teaching is to tell")
    record = asked | _record(found, counts)
    _write(outputs, path, found)
    try:
        outcome = teach_file(path, job, say=say, on_progress=on_progress, force=force)
        with outputs.staged() as folder:
            _write_page(folder / f"{volume_stem(path)}_blocks.html", path, job, found, record)
        outputs.finish(record)
    except BaseException:  # interrupted, too
        outputs.withdraw()
        raise
    say(f"  page        {outputs.folder}/{volume_stem(path)}_blocks.html shows every step")
    return outcome


def _outputs(path: Path, job: TeachJob) -> Outputs:
    stem = volume_stem(path)
    names = [labels_path(job.output, path).name, f"{stem}_blocks_map.nrrd", f"{stem}_blocks.html"]
    return Outputs(job.output, f"{stem}_blocks.json", MADE_BY, names)


def _asked(path: Path, wish: BlockWish, job: TeachJob, sources: Sources) -> dict[str, Any]:
    return {
        "input": input_record(sources.of(path)),
        "blocks": input_record(sources.of(wish.blocks)),
        "parameters": {
            "block": list(wish.size),
            "steps": wish.steps,
            "seed": job.seed,
            "intensity": job.intensity,
            "axes": job.axes,
            "spacing_um": None if job.spacing_um is None else list(job.spacing_um),
        },
    }


def _refuse_earlier(job: TeachJob) -> None:
    if job.checked is not None or job.start is not None:
        raise InputError(
            f"blocks are learned from anew: corrections and earlier weights go with labels {setting('labels')}"
        )


def _check_memory(path: Path, wish: BlockWish, job: TeachJob, sources: Sources) -> None:
    """Refuse by the header what does not fit into memory."""
    with open_stack(sources.of(path), axes=job.axes, spacing_um=job.spacing_um) as stack:
        shape, stored = stack.grid.shape, stack.grid.array.nbytes
    voxels = math.prod(shape)
    logarithm = 4 * voxels * (job.intensity == "log")
    learned = 4 * voxels + max(logarithm, train_bytes(shape, wish.size), map_bytes(shape))
    # The activation, what is sure and what is empty stay while it is taught.
    taught = 6 * voxels + sum(bytes_to_teach(job, stored, voxels, voxels))
    try:
        Allowance.of(job.max_ram).check(stored, max(learned, taught), f"'{path}'")
    except MemoryLimitError as error:
        raise needs_whole(error, "blocks") from error


def _read(
    path: Path, wish: BlockWish, job: TeachJob, sources: Sources, say: Say
) -> tuple[Volume, Blocks, NDArray[np.float32]]:
    volume = read_volume(sources.of(path), axes=job.axes, spacing_um=job.spacing_um)
    volume, blocks = read_blocks(sources.of(wish.blocks), volume, str(path), wish.size)
    say(f"  blocks      {blocks.description}")
    array = volume.array
    if job.intensity == "log":
        refuse_second_log(path)
        array = log_intensity(array)
    try:
        return volume, blocks, normalize_image(array)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error


def _found(
    read: tuple[Volume, Blocks, NDArray[np.float32]],
    steps: int,
    job: TeachJob,
    on_progress: Progress | None,
    path: Path,
) -> _Found:
    volume, blocks, image = read
    tell = on_progress or (lambda done, whole, what: None)
    try:
        network = train_block_net(
            image,
            blocks.labels,
            blocks.size,
            steps=steps,
            seed=job.seed,
            on_step=lambda done, whole, loss: tell(done, whole, f"blocks, loss {loss:.3f}"),
        )
        found = block_map(network, image, blocks.labels, blocks.size)
        labels = sparse_labels(found, blocks.labels, blocks.size)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    return _Found(volume, blocks, found, labels)


def _write(outputs: Outputs, path: Path, found: _Found) -> None:
    """Write the sparse labels, as a person paints them in 3D Slicer, and the map."""
    segments = [Segment(name="lumen"), Segment(name="background", color=(0.2, 0.4, 0.8))]
    with outputs.staged() as folder:
        write_label_planes(labels_path(folder, path), segments, iter(found.labels), found.volume)
        nrrd.write(folder / f"{volume_stem(path)}_blocks_map.nrrd", found.volume.with_array(found.map.activation))


def _record(found: _Found, counts: list[int]) -> dict[str, Any]:
    yes, no = (int(np.count_nonzero(found.blocks.labels == value)) for value in (LUMEN, BACKGROUND))
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "known": {"lumen": yes, "none": no, "not_known": found.blocks.labels.size - yes - no},
        "map": {"threshold": found.map.threshold, "voxels": int(np.count_nonzero(found.map.mask))},
        "sure": {"lumen": counts[0], "background": counts[1]},
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _write_page(page: Path, path: Path, job: TeachJob, found: _Found, record: Mapping[str, Any]) -> None:
    """Write the page: what was told of the blocks, where the classifier looked, what was sure, what was taught."""
    stem, shape = volume_stem(path), found.volume.shape
    movie = Movie(Grid(shape, found.volume.spacing_um))
    known = over_voxels(found.blocks.labels == LUMEN, found.blocks.size, shape)
    movie.add(known, "1 of 4: blocks that are told to hold lumen")
    movie.add(found.map.mask, "2 of 4: where the classifier of blocks looked, the map alone")
    movie.add(found.labels == LUMEN, "3 of 4: what is surely lumen, from which was taught")
    movie.add(read_annotation(job.output / f"{stem}.seg.nrrd").mask.array, "4 of 4: what was taught")
    looked = Movie(movie.grid)
    looked.add(found.map.mask, "cut so that 19 of 20 blocks without lumen stay empty")
    told, sure = record["known"], record["sure"]
    rows = [
        ("blocks", f"{told['lumen']:,} hold lumen, {told['none']:,} do not, {told['not_known']:,} not known"),
        ("map alone", f"{record['map']['voxels']:,} voxels"),
        ("surely", f"{sure['lumen']:,} voxels lumen, {sure['background']:,} background"),
    ]
    name = write_name(stem)
    write_page(
        page,
        f"{name}: from blocks to a mask",
        [found.blocks.description],
        [
            Shown(name, movie, found.volume.array, mask_name="step"),
            Shown(f"{name}: activation of the classifier", looked, found.map.activation, mask_name="map alone"),
        ],
        [
            Section("Steps", [table(("step", "what came of it"), rows)]),
            Section("Note", [note("What is sure is a guess of the classifier, not an annotation: check the mask.")]),
        ],
        record,
    )
