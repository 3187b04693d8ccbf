"""The segments of one file: what each is called, which network finds it, and the files that are of it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from micronet.core.classes import check_classes, colour
from micronet.core.errors import InputError, setting
from micronet.core.names import file_part, folded, listed, same_name, write_name
from micronet.core.ownership import Outputs, check_outputs
from micronet.io import Source, files_read_with, volume_stem
from micronet.io.formats import suffix_of
from micronet.io.mesh import MESH_FORMATS
from micronet.io.seg_nrrd import segment_names
from micronet.measure.lumen_files import vessel_paths
from micronet.segment.settings import MADE_BY, Job, Weights, read_beside

__all__ = [
    "Members",
    "annotated_as",
    "check_members",
    "check_wishes",
    "labels_of",
    "member_outputs",
    "own_files",
    "probability_of",
]

# What a network of one class is asked with, and several segments cannot be.
_OF_ONE_MASK = ("initial_mask", "keep", "checked", "segment")


@dataclass(frozen=True)
class Members:
    """Segments and their networks.

    Parameters
    ----------
    names : tuple of str
        Of the segments, in the order of their numbers from 1.
    weights : tuple of Weights
        A network each; of `exclusive` segments all the same.
    exclusive : bool
        Whether one network tells them apart, so that a voxel is in one of them at most; else each segment is found as
        if it were alone, and they may overlap.
    """

    names: tuple[str, ...]
    weights: tuple[Weights, ...]
    exclusive: bool

    @classmethod
    def of(cls, weights: Sequence[Weights], names: Sequence[str]) -> Members:
        """Return a segment for each network; InputError where names or networks do not fit."""
        for name, one in zip(names, weights, strict=True):
            if one.exclusive:
                raise InputError(
                    f"'{one.path.name}' tells {listed(one.classes)} apart by itself, and cannot be the segment "
                    f"'{name}' alone: give it without a name {setting('model')}"
                )
        return cls(check_classes(names), tuple(weights), exclusive=False)

    @classmethod
    def told_apart_by(cls, weights: Weights) -> Members | None:
        """Return the classes that a network tells apart by itself; None where it finds a lumen."""
        if not weights.exclusive:
            return None
        return cls(check_classes(weights.classes), (weights,) * len(weights.classes), exclusive=True)

    def passes(self, job: Job) -> int:
        """Return how often networks look at a volume, at most."""
        return 1 if self.exclusive else sum(one.passes(job) for one in self.weights)

    def record(self) -> list[dict[str, Any]]:
        """Return what records say of them."""
        return [
            {
                "name": valid_name,
                "number": number,
                "colour": colour(number),
                "weights": {"path": write_name(one.path), "sha256": one.sha256, "network": one.network.name},
            }
            for number, (valid_name, one) in enumerate(zip(self.names, self.weights, strict=True), 1)
        ]


def check_wishes(job: Job, exclusive: bool) -> None:
    """Raise InputError where something is asked for that several segments cannot have."""
    for wish in _OF_ONE_MASK:
        if getattr(job, wish) is not None:
            raise InputError(f"what was asked for is of one mask, and there are several segments {setting(wish)}")
    if exclusive and job.threshold != Job.threshold:
        raise InputError(
            "of classes that exclude each other a voxel belongs to the most probable one, and no threshold applies "
            f"{setting('threshold')}"
        )
    if exclusive and job.clean is not None and job.clean.holes:
        raise InputError(
            f"of classes that exclude each other no holes can be filled: another class may lie there {setting('clean')}"
        )


def own_files(job: Job, stem: str, name: str) -> dict[str, Path]:
    """Return the files that are of one segment alone and were asked for, by kind."""
    part = f"{stem}_{file_part(name)}"
    files = {} if job.mesh is None else {"mesh": job.output / f"{part}.{job.mesh}"}
    return files | (vessel_paths(job.output, part) if job.measures else {})


def probability_of(folder: Path, stem: str, name: str) -> Path:
    """Return the file with the probability of one segment."""
    return folder / f"{stem}_{file_part(name)}_probability.nrrd"


def labels_of(folder: Path, stem: str, name: str | None = None) -> Path:
    """Return the label TIFF of all segments, or of one where they overlap."""
    return folder / (f"{stem}_labels.tif" if name is None else f"{stem}_{file_part(name)}_labels.tif")


def member_outputs(job: Job, stem: str, members: Members) -> Outputs:
    """Return the files that the segments of a volume consist of, and those that other settings would write too."""

    def named(wish: Job) -> list[str]:
        files = [job.output / f"{stem}{end}" for end in (".seg.nrrd", "_preview.png")]
        files += [wish.files_on_request(stem)["report"]] if wish.report else []
        files += [labels_of(job.output, stem)] if wish.label_tiff else []
        for name in members.names:
            files += [probability_of(job.output, stem, name), *own_files(wish, stem, name).values()]
            files += [labels_of(job.output, stem, name)] if wish.label_tiff and not members.exclusive else []
        return [file.name for file in files]

    names = [*named(job), *([] if job.figure is None else [job.figure.name])]
    everything = [replace(job, report=True, measures=True, label_tiff=True, mesh=mesh) for mesh in MESH_FORMATS]
    alone = replace(job, figure=None).outputs(stem)
    possible = {name for wish in everything for name in named(wish)} | {*(alone.names or ()), *alone.outdated}
    return Outputs(job.output, f"{stem}.json", MADE_BY, names, outdated=sorted(possible - set(names)))


def check_members(
    inputs: Sequence[Path],
    members: Members,
    job: Job,
    beside: Sequence[Outputs] = (),
    *,
    these: Sequence[Path] | None = None,
) -> None:
    """Raise MicronetError where results would take the place of anything but earlier ones; as `check_results`."""
    read = [file for path in inputs for file in files_read_with(path)]
    read += [file for one in members.weights for file in read_beside(job, one.path)]
    ours = [member_outputs(job, volume_stem(path), members) for path in (inputs if these is None else these)]
    check_outputs([*ours, *beside], read)


def annotated_as(source: Source | None, names: Sequence[str], say: Callable[[str], None]) -> dict[str, str]:
    """Return what the annotation calls each of the segments that it has; the person is told of the others.

    InputError where it has none of them.
    """
    if source is None:
        return {}
    there = segment_names(source) if suffix_of(source.path) in (".nrrd", ".nhdr") else []
    found = {}
    for name in names:
        same = [one for one in there if same_name(one, name)] or [one for one in there if folded(one) == folded(name)]
        if same:
            found[name] = same[0]
    if not found:
        has = f"segments {listed(there)}" if there else "no segments with names"
        raise InputError(
            f"'{source.path}' has {has}, expected a .seg.nrrd with {listed([*names])} {setting('annotation')}"
        )
    for name in names:
        if name not in found:
            say(f"              note: '{source.path.name}' has no segment '{name}', which is not scored")
    return found
