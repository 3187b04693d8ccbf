"""Several segments that are there already are taken from their files, so that no network need look again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.io import read_segmentation, read_volume
from micronet.segment.adding import on_the_grid
from micronet.segment.members import probability_of
from micronet.segment.memory import Memory
from micronet.segment.plan import Task, plan_addition
from micronet.segment.reading import Inputs, read_inputs
from micronet.segment.refine import Iteration
from micronet.segment.results import Measured, measure_mask
from micronet.segment.several_files import Piece, Pieces
from micronet.segment.several_page import SegmentsPage

__all__ = ["pieces_there"]


def pieces_there(
    tasks: Sequence[Task],
    scored: Collection[str],
    record: Mapping[str, Any],
    page: SegmentsPage | None,
    say: Callable[[str], None],
) -> Pieces | None:
    """Return the segments of a result that is there, measured and scored anew.

    Parameters
    ----------
    tasks : sequence of Task
        One a segment.
    scored : collection of str
        The segments that the annotation has.
    record : mapping
        What the record of the result says.
    page : SegmentsPage, optional
        Shows the masks, as what the passes before found is not kept.
    say : callable
        As `micronet.segment.job.segment_file`.

    Returns
    -------
    Pieces or None
        None where the volume would now lie on another grid, as its length unit is settled by the annotation.
    """
    first, told = tasks[0], zip(tasks, record["segments"], strict=True)
    folder, stem = first.job.output, first.stem
    source = first.sources.of(folder / f"{stem}.seg.nrrd")
    memory = plan_addition(replace(first, held=3 * len(tasks)), [source.path])
    say(f"  memory      {memory.description}")
    segmentation, found, shown = read_segmentation(source), list[Piece](), None
    for task, one in told:
        inputs = read_inputs(task, say)
        if not on_the_grid(record, inputs.volume):
            return None
        if one["name"] not in scored:
            inputs = replace(inputs, annotation=None)
        mask = segmentation.mask(segmentation.choose(one["name"])).array
        levels = read_volume(first.sources.of(probability_of(folder, stem, one["name"]))).array
        inputs.volume.with_array(mask), inputs.volume.with_array(levels)  # of its shape
        measured = measure_mask(task, inputs, mask, say)
        shown = inputs.volume if shown is None else shown
        if page is not None:
            page.kept(task.segment, inputs.volume, levels, mask)
        found.append(_piece(one, inputs, measured, levels, memory))
    if shown is None:
        raise AssertionError("there is at least one segment")
    return Pieces(first.path, stem, shown, tuple(found), record["device"], record["seconds"])


def _piece(
    told: Mapping[str, Any], inputs: Inputs, measured: Measured, levels: NDArray[np.uint8], memory: Memory
) -> Piece:
    return Piece(
        name=told["name"],
        measured=measured,
        levels=levels,
        annotation=None if inputs.annotation is None else inputs.annotation.array,
        iterations=tuple(Iteration(**passed) for passed in told["iterations"]),
        settled=told.get("settled"),
        cleaned=told.get("cleaned"),
        notes=tuple(inputs.notes),
        outside=inputs.outside,
        memory=memory,
    )
