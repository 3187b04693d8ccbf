"""Segment a recording time point by time point: each may start from the mask of the last; a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.names import recording_of
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs, check_outputs
from micronet.core.provenance import versions
from micronet.core.volume import Volume, share_grid
from micronet.io import (
    Recording,
    Source,
    Sources,
    files_of,
    files_read_with,
    open_recording,
    opened,
    read_annotation,
    volume_stem,
    write_label_tiff,
)
from micronet.segment.job import segment_file
from micronet.segment.plan import Found, TimePoint, input_record
from micronet.segment.reading import read_job_volume
from micronet.segment.refine import Iteration
from micronet.segment.settings import MADE_BY, Job, Weights, check_stems, read_beside
from micronet.segment.time_plot import write_time_plot
from micronet.segment.time_table import Row, number_or_nan, write_time_table

__all__ = ["FIRST_ITERATIONS", "Start", "TimeLapse", "TimeLapseRun", "open_time_lapse"]

Start = Literal["previous", "blank"]

#: Refinements at least where a time point begins from a blank mask and the next ones start from what it finds.
FIRST_ITERATIONS = 10


@dataclass(frozen=True, eq=False)
class Loaded:
    """A time point as it was read: its volume, what a record says of the input, and the input's files."""

    volume: Volume
    source: dict[str, Any]
    files: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class TimeLapse:
    """The time points of a 4-D file, or of several files.

    Parameters
    ----------
    stem : str
        Begins the names of the table and the plot.
    paths, stems : sequence
        Of each time point: the file, and how the names of its results begin.
    interval_s : float or None
        Seconds from one time point to the next, where they are known.
    read : callable
        ``read(number)`` gives a time point, counted from 0.
    """

    stem: str
    paths: Sequence[Path]
    stems: Sequence[str]
    interval_s: float | None
    read: Callable[[int], Loaded]


@contextmanager
def open_time_lapse(inputs: Sequence[Path], job: Job, *, interval_s: float | None = None) -> Iterator[TimeLapse]:
    """Open one 4-D file, or several 3-D files in their order.

    Parameters
    ----------
    inputs : sequence of Path
        At least one file.
    job : Job
        Says how the files are read.
    interval_s : float, optional
        Stands above what the file states.

    Raises
    ------
    MicronetError
        If a single file has no axis of time, or two files would write the same names.
    """
    if len(inputs) > 1:
        check_stems(inputs)
        stems = [volume_stem(path) for path in inputs]
        common = recording_of(stems[0])  # beat_t0, beat_t1, .. are beat

        def read(number: int) -> Loaded:
            with opened(inputs[number]) as source:
                return Loaded(
                    read_job_volume(source, job), input_record(source, job.level), files_of(source, job.level)
                )

        yield TimeLapse(common, list(inputs), stems, interval_s, read)
        return
    path = inputs[0]
    stem = volume_stem(path)
    with Sources() as sources, _recording(sources.of(path), job) as recording:
        digits = max(3, len(str(recording.count - 1)))
        stems = [f"{stem}_t{number:0{digits}d}" for number in range(recording.count)]
        source = sources.of(path)
        whole, files = input_record(source, job.level), files_of(source, job.level)
        yield TimeLapse(
            stem,
            [path] * recording.count,
            stems,
            recording.interval_s if interval_s is None else interval_s,
            lambda number: Loaded(recording.read(number), whole | {"time_point": number}, files),
        )


def _recording(source: Source, job: Job) -> Recording:
    how: dict[str, Any] = {"axes": job.axes, "spacing_um": job.spacing_um, "shape": job.shape, "dtype": job.dtype}
    return open_recording(source, **how, level=job.level)


@dataclass(frozen=True, eq=False)
class _Last:
    """The last time point that did not fail."""

    number: int
    volume: Volume
    found: Found


class TimeLapseRun:
    """Segments the time points of a recording one after the other, and tells them in a table and a plot.

    A time point that starts from the last one's mask starts from the 8-bit probability that was written, so that a
    run that goes on where another stopped finds the same to the bit. One that fails is left out: the next is
    compared with, and starts from, the last that did not.

    Parameters
    ----------
    lapse : TimeLapse
        What to segment.
    weights : Weights
        The network; a µ-Net looks once and starts from nothing.
    job : Job
        The settings. Its `initial_mask` is where the first time point starts; the first refines at least
        `FIRST_ITERATIONS` times when it starts from a blank mask and the next from its.
    start : {"previous", "blank"}
        Where the other time points start.
    say, on_iteration, force
        As `segment_file` takes them.

    Raises
    ------
    InputError
        If the job names an annotation, or a mask to keep whose name is that of no time point.
    """

    def __init__(
        self,
        lapse: TimeLapse,
        weights: Weights,
        job: Job,
        *,
        start: Start = "previous",
        say: Callable[[str], None],
        on_iteration: Callable[[Iteration], None] | None = None,
        force: bool = False,
    ) -> None:
        if job.annotation is not None:
            raise InputError(
                f"an annotation is one mask {setting('annotation')}: score the time points afterwards, one by one"
            )
        if job.keep is not None and volume_stem(job.keep) not in lapse.stems:
            raise InputError(
                f"'{job.keep.name}' is kept {setting('keep')} at the time point of its name, and there is none "
                f"'{volume_stem(job.keep)}'; they are {lapse.stems[0]} to {lapse.stems[-1]}"
            )
        self._lapse, self._weights, self._job = lapse, weights, job
        self._outputs = _summary_outputs(lapse, job)
        read = [file for path in dict.fromkeys(lapse.paths) for file in files_read_with(path)]
        planned = [replace(job, label_tiff=False).outputs(stem) for stem in lapse.stems]
        check_outputs([*planned, self._outputs], [*read, *read_beside(job, weights.path)])
        self._refines = weights.network.refines
        self._start: Start = start if self._refines else "blank"
        self._say, self._on_iteration, self._force = say, on_iteration, force
        self._rows: list[Row] = []
        self._last: _Last | None = None

    def segment(self, number: int) -> Outcome:
        """Segment a time point, counted from 0, in their order; its row is in ``<stem>_timelapse.csv`` then.

        MicronetError for bad input. The row then says that it failed, and the next time points can be segmented.
        """
        row = Row(number, self._lapse.stems[number])
        try:
            outcome = self._segment(row)
        except Exception:
            self._note(Row(number, row.name))
            raise
        self._note(row)
        return outcome

    def _segment(self, row: Row) -> Outcome:
        lapse, job, number, last = self._lapse, self._job, row.number, self._last
        loaded = lapse.read(number)
        volume = loaded.volume
        if last is not None:
            _, volume, _ = share_grid(last.volume, volume, lapse.stems[last.number], row.name)
        begin, mine = _settings(job, lapse, self._start, None if last is None else last.number)
        if self._refines and mine.passes != job.passes:
            self._say(f"  note: from a blank mask it takes {mine.passes} iterations; the next time points {job.passes}")
        if job.keep is not None and volume_stem(job.keep) != row.name:
            mine = replace(mine, keep=None, checked=None)
        here: list[Found] = []
        point = TimePoint(
            row.name,
            volume,
            loaded.source,
            loaded.files,
            start=begin,
            before=None if last is None or begin is None else last.found,
            beside=0 if last is None else last.volume.array.nbytes + last.found.mask.nbytes,
            on_found=here.append,
        )
        outcome = segment_file(
            lapse.paths[number],
            self._weights,
            mine,
            say=self._say,
            on_iteration=self._on_iteration,
            force=self._force,
            time_point=point,
        )
        # What was done before is in the files only.
        found = here[0] if here else Found(self._mask_of(row))
        if self._refines:
            row.start = "mask of a file" if mine.initial_mask else "blank" if begin is None else begin.name
            row.iterations = mine.passes
        row.status = outcome.status
        row.measure(found.mask, volume)
        if last is not None:
            row.compare(last.number, (last.volume, last.found.mask), (volume, found.mask))
            self._say(f"  moved       since {lapse.stems[last.number]}: {row.moved(volume)}")
        if self._start != "previous":
            found.take_levels()
        self._last = _Last(number, volume, found)
        return replace(outcome, path=Path(row.name))

    def _note(self, row: Row) -> None:
        """Append a row; the table is written with the first time point that is segmented, when its unit is known."""
        self._rows.append(row)
        if self._last is not None:
            with self._outputs.staged() as folder:
                write_time_table(folder / self._table, self._rows, self._lapse.interval_s, self._last.volume)

    def _mask_of(self, row: Row) -> NDArray[np.bool_]:
        return read_annotation(self._job.output / f"{row.name}.seg.nrrd").mask.array

    @property
    def _table(self) -> str:
        return f"{self._lapse.stem}_timelapse.csv"

    def finish(self) -> None:
        """Write the plot, and the labels where they are asked for; MicronetError if that cannot be done."""
        if self._last is None:
            return
        lapse, job, rows, grid = self._lapse, self._job, self._rows, self._last.volume
        in_um = grid.spacing_um is not None
        files = [self._table, f"{lapse.stem}_timelapse.png"]
        with self._outputs.staged() as folder:
            write_time_plot(
                folder / files[1],
                [row.number * (lapse.interval_s or 1.0) for row in rows],
                [number_or_nan(row.um3 if in_um else row.voxels) for row in rows],
                [number_or_nan(row.dice) for row in rows],
                [row.drift or (math.nan,) * 3 for row in rows],
                in_um=in_um,
                in_seconds=lapse.interval_s is not None,
                title=lapse.stem,
            )
            if job.label_tiff:
                found = [row for row in rows if row.voxels is not None]
                masks = (self._mask_of(row) for row in found)
                labels = folder / f"{lapse.stem}_timelapse_labels.tif"
                files.append(write_label_tiff(labels, masks, grid, count=len(found), interval_s=lapse.interval_s).name)
        self._outputs.finish({"time_points": [row.name for row in rows], "versions": versions()})
        self._say(f"wrote {job.output}/: {', '.join(files)}")


def _summary_outputs(lapse: TimeLapse, job: Job) -> Outputs:
    """Return the files of all time points together."""
    labels = f"{lapse.stem}_timelapse_labels.tif"
    return Outputs(
        job.output,
        f"{lapse.stem}_timelapse.json",
        MADE_BY,
        [f"{lapse.stem}_timelapse.csv", f"{lapse.stem}_timelapse.png", *([labels] if job.label_tiff else [])],
        outdated=[] if job.label_tiff else [labels],
    )


def _settings(job: Job, lapse: TimeLapse, start: Start, last: int | None) -> tuple[Path | None, Job]:
    """Return the probability that a time point starts from, and its settings."""
    mine = replace(job, label_tiff=False)  # there is one of all time points in the end
    if last is None:
        if start == "previous" and job.initial_mask is None and not job.until_stable:
            mine = replace(mine, iterations=max(job.passes, FIRST_ITERATIONS))
        return None, mine
    mine = replace(mine, initial_mask=None)
    return (job.output / f"{lapse.stems[last]}_probability.nrrd" if start == "previous" else None), mine
