"""Several segments of a volume that are there already: whether they are those asked for, and what they lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from micronet.core.errors import FileError, setting
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs
from micronet.io import volume_stem
from micronet.io.mesh import MESH_FORMATS
from micronet.segment.earlier import other_input, other_settings, other_weights, scored_otherwise
from micronet.segment.members import labels_of, own_files, probability_of
from micronet.segment.settings import Job
from micronet.segment.several_files import outcome_of

__all__ = ["Lacking", "earlier_segments"]

_GONE = "the segmentation or a probability"


@dataclass(frozen=True)
class Lacking:
    """What is asked for and not there, in words, and the settings that make it with all that is there.

    `record` is what is told of that; `gone` whether the segmentation or a probability is, from which it could be made.
    """

    lacks: list[str]
    job: Job
    record: Mapping[str, Any]
    gone: bool


def earlier_segments(outputs: Outputs, asked: Mapping[str, Any], job: Job, path: Path) -> Outcome | Lacking | None:
    """Return what is there of a volume's segments.

    Returns
    -------
    Outcome, Lacking or None
        The outcome where nothing is lacking, None where nothing is there.

    Raises
    ------
    FileError
        If it is a result of other settings, which it names.
    """
    record = outputs.read()
    if record is None:
        return None
    if different := list(_differences(record, asked)):
        raise FileError(
            f"'{outputs.record_path}' holds a result of other settings for '{path.name}': {'; '.join(different)}; "
            f"replace it {setting('force')} or write elsewhere {setting('output')}"
        )
    names, stem = [one["name"] for one in record["segments"]], volume_stem(path)
    empty = {one["name"] for one in record["segments"] if one["result"]["voxels"] == 0}
    lacks = [*_lacking(job, stem, names, empty)]
    if scored_otherwise(record, asked):
        lacks.insert(0, "scores")
    if not lacks:
        again = f"done before ({outputs.record_path}); it can be done again {setting('force')}"
        return outcome_of(path, record, again)
    if "annotation" in record["masks"] and job.annotation is None:
        raise FileError(
            f"'{outputs.record_path}' is of a result that is scored: give its annotation {setting('annotation')}, or "
            f"replace it {setting('force')}"
        )
    return Lacking(lacks, _whole(job, stem, names), record, _GONE in lacks)


def _differences(record: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    there = record.get("segments")
    if not isinstance(there, list):
        yield "one mask there, several segments asked"
        return
    yield from other_input(record, asked)
    old, new = ([one["name"] for one in several] for several in (there, asked["segments"]))
    if old != new:
        yield f"segments {', '.join(old)} there, {', '.join(new)} asked"
        return
    if record["exclusive"] != asked["exclusive"]:
        yield "segments of one network and segments of a network each"
        return
    for one, other in zip(there, asked["segments"], strict=True):
        yield from (f"{one['name']}: {words}" for words in other_weights(one["weights"], other["weights"]))
    yield from other_settings(record, asked)


def _lacking(job: Job, stem: str, names: list[str], empty: set[str]) -> Iterator[str]:
    """Yield what is asked for and not there, in words."""
    usual = [job.output / f"{stem}.seg.nrrd", *(probability_of(job.output, stem, name) for name in names)]
    if not all(file.exists() for file in usual):
        yield _GONE
    if job.figure is not None:  # its details are not in the record
        yield "figure"
    if job.report and not job.files_on_request(stem)["report"].exists():
        yield "report"
    if job.label_tiff and not (
        labels_of(job.output, stem).exists() or all(labels_of(job.output, stem, name).exists() for name in names)
    ):
        yield "labels"
    for name in names:
        for kind, file in own_files(job, stem, name).items():
            if not file.exists() and not (kind == "mesh" and name in empty):  # there is no surface of nothing
                yield f"{kind} of {name}"


def _whole(job: Job, stem: str, names: list[str]) -> Job:
    """Return the settings with which all that is there is made again."""
    every = replace(job, report=True, measures=True, label_tiff=True, figure=None)

    def there(kind: str, wish: Job) -> bool:
        return any(own_files(wish, stem, name)[kind].exists() for name in names)

    meshes = [kind for kind in MESH_FORMATS if there("mesh", replace(every, mesh=kind))]
    labels = [labels_of(job.output, stem), *(labels_of(job.output, stem, name) for name in names)]
    return replace(
        job,
        report=job.report or every.files_on_request(stem)["report"].exists(),
        measures=job.measures or there("vessels", every),
        label_tiff=job.label_tiff or any(file.exists() for file in labels),
        mesh=job.mesh or next(iter(meshes), None),
    )
