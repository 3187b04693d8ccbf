"""What joins a result that is there, without segmenting anew: scores, pages, figures, meshes, tables, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.names import write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import RECORD_KEYS, Outputs
from micronet.core.volume import Volume
from micronet.io import Source, read_annotation
from micronet.io.checks import ReadOptions
from micronet.io.formats import read_with
from micronet.report.preview import write_preview
from micronet.segment.earlier import Earlier
from micronet.segment.plan import plan_addition
from micronet.segment.reading import Inputs, read_inputs
from micronet.segment.results import Measured, Written, measure_mask, scene_of, write_on_request
from micronet.segment.settings import MADE_BY, Job

__all__ = ["add_files", "on_the_grid"]


def add_files(earlier: Earlier, say: Callable[[str], None]) -> Outcome | None:
    """Make what a result lacks from its files: the same bits as if it had been asked for at once.

    But for a page, which then shows the last mask alone: what the passes before found is not kept.

    Parameters
    ----------
    earlier : Earlier
        What is there; its segmentation is.
    say : callable
        As `micronet.segment.job.segment_file`.

    Returns
    -------
    Outcome or None
        None where the volume would now lie on another grid than the files that are there, as its length unit is settled
        by the annotation; nothing has been written then.

    Raises
    ------
    MicronetError
        For bad input, too little memory, or where files cannot be written; what is there stays a whole result.
    """
    plan = earlier.plan
    task = replace(plan.task, job=_added(plan.task.job, earlier))
    segmentation, probability = (task.job.output / earlier.files[name] for name in ("segmentation", "probability"))
    memory = plan_addition(task, [segmentation, *([probability] if earlier.page else [])])
    inputs = read_inputs(task, say)
    if not on_the_grid(earlier.record, inputs.volume):
        return None
    say(f"  from        {segmentation.name}, which is there: {', '.join(earlier.lacks)}")
    measured = measure_mask(task, inputs, _mask_in(task.sources.of(segmentation), inputs), say)
    names = [file.name for file in task.job.files_on_request(task.stem).values()]
    preview = f"{task.stem}_preview.png"
    outputs = Outputs(
        task.job.output,
        plan.outputs.record_path.name,
        MADE_BY,
        [*names, *([preview] if earlier.rescored else [])],
        lasting=True,
    )
    with outputs.staged() as folder:
        scene = scene_of(inputs, measured.mask, task.job)
        if earlier.rescored:
            write_preview(folder / preview, scene, write_name(task.stem))
        grid = inputs.volume.with_array(measured.mask)
        written = write_on_request(replace(task.job, output=folder), task.stem, scene, grid, memory, {}, say)
    if earlier.page:
        written.files["report"] = task.job.files_on_request(task.stem)["report"]
    record = _record(earlier, inputs, measured, written)
    if earlier.page:
        with outputs.staged() as folder:
            page = replace(task.job, output=folder).files_on_request(task.stem)["report"]
            _write_page(page, record, inputs, measured.mask, _Probability(task.sources.of(probability)))
    outputs.finish(record)
    made = [*([preview] if earlier.rescored else []), *(file.name for file in written.files.values())]
    say(f"  added       {task.job.output}/: {', '.join([*made, outputs.record_path.name])}")
    if written.refused:
        raise InputError(f"'{task.path}': {written.refused[0]} (all else is written)")
    return measured.outcome(task.path, record, f"; {', '.join(earlier.lacks)} added")


def _added(job: Job, earlier: Earlier) -> Job:
    """Return the settings that ask for what is lacking and no more."""
    missing = earlier.missing
    return replace(
        job,
        report=earlier.page,
        mesh=job.mesh if "mesh" in missing else None,
        measures="vessels" in missing or "centrelines" in missing,
        label_tiff="labels" in missing,
        annotation=job.annotation if earlier.rescored or earlier.page or job.figure is not None else None,
    )


def on_the_grid(record: Mapping[str, Any], volume: Volume) -> bool:
    """Whether what is read lies where the result of a record lies."""
    told = record.get("volume")
    spacing = None if volume.spacing_um is None else list(volume.spacing_um)
    wanted = {"shape_zyx": list(volume.shape), "spacing_um_zyx": spacing, "units": volume.units}
    return isinstance(told, dict) and all(told.get(key) == value for key, value in wanted.items())


def _mask_in(segmentation: Source, inputs: Inputs) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = read_annotation(segmentation).mask.array
    inputs.volume.with_array(mask)  # of its shape
    return mask


class _Probability:
    """A probability as our files have it, told as numbers from 0 to 1."""

    def __init__(self, source: Source) -> None:
        self._levels: NDArray[np.uint8] = read_with(source, ReadOptions()).array

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        return self._levels.shape

    def __getitem__(self, planes: slice) -> NDArray[np.float32]:
        found = self._levels[planes].astype(np.float32)
        found /= 255
        return found

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[z : z + 1][0] for z in range(len(self._levels)))


def _write_page(
    path: Path, record: Mapping[str, Any], inputs: Inputs, mask: NDArray[np.bool_], probability: _Probability
) -> None:
    from micronet.segment.report import SegmentReport  # imports what takes 0.3 s, and few ask for it

    page = SegmentReport(inputs.volume, record["parameters"]["threshold"], record["parameters"]["y_crop"])
    if inputs.start is not None:
        page.start(inputs.start.array)
    page.found(mask)
    annotation = None if inputs.annotation is None else inputs.annotation.array
    page.write(path, probability, record, annotation=annotation)


def _record(earlier: Earlier, inputs: Inputs, measured: Measured, written: Written) -> dict[str, Any]:
    """Return the record of the whole result: what was asked for at once would have it so."""
    record = {key: value for key, value in earlier.record.items() if key not in RECORD_KEYS}
    asked = earlier.plan.asked
    if earlier.rescored:
        record["masks"] = record["masks"] | {"annotation": asked["masks"]["annotation"]}
        scored = {name: asked["parameters"][name] for name in ("annotation", "segment")}
        record["parameters"] = record["parameters"] | scored
        record["scores"] = measured.scores
    warnings = [*([inputs.outside] if inputs.outside else []), *measured.warnings, *written.warnings, *written.refused]
    record["result"] = record["result"] | written.vessels | {"warnings": warnings}
    record["files"] = record["files"] | {kind: write_name(file.name) for kind, file in written.files.items()}
    return record
