"""What several segments of a volume are written as: one segmentation, and what is of each by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.classes import colour, rgb
from micronet.core.errors import InputError
from micronet.core.names import file_part, read_name, write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import Outputs
from micronet.core.provenance import versions
from micronet.core.volume import Volume
from micronet.io import Segment, nrrd, write_label_tiff, write_segmentation
from micronet.report.preview import Further, Scene, write_paper_figure, write_preview
from micronet.segment.members import labels_of, own_files, probability_of
from micronet.segment.memory import Memory
from micronet.segment.plan import volume_record
from micronet.segment.refine import Iteration
from micronet.segment.results import Measured, Watch, Written, write_shapes
from micronet.segment.settings import Job
from micronet.segment.several_page import SegmentsPage

__all__ = ["Piece", "Pieces", "finish", "outcome_of"]


@dataclass(frozen=True, eq=False)
class Piece:
    """One segment as it was found: its mask with what it amounts to, and its probability as the file has it (0 to 255).

    `settled` is None where it was not refined until it settles; `cleaned` is what the record says of that; `notes` say
    what the network did to the volume, and `outside` where that lies outside of what the network was trained on.
    """

    name: str
    measured: Measured
    levels: NDArray[np.uint8]
    annotation: NDArray[np.bool_] | None
    iterations: tuple[Iteration, ...]
    settled: bool | None
    cleaned: Mapping[str, Any] | None
    notes: tuple[str, ...]
    outside: str | None
    memory: Memory

    @property
    def voxel_bytes(self) -> int:
        """How many bytes a voxel it holds."""
        return 2 + (self.annotation is not None)


@dataclass(frozen=True, eq=False)
class Pieces:
    """All segments of a volume, on its grid.

    `path` is its file, `stem` how the names of the results begin, `device` where the networks were computed, and
    `seconds` what an earlier call took.
    """

    path: Path
    stem: str
    volume: Volume
    each: tuple[Piece, ...]
    device: str
    seconds: Mapping[str, float] = field(default_factory=dict)

    def overlaps(self) -> list[dict[str, Any]]:
        """Return which segments share how many voxels."""
        shared = []
        for one, other in combinations(self.each, 2):
            pairs = zip(one.measured.mask, other.measured.mask, strict=True)
            if voxels := sum(int(np.count_nonzero(a & b)) for a, b in pairs):
                shared.append({"segments": [one.name, other.name], "voxels": voxels})
        return shared

    def scene(self, job: Job) -> Scene:
        """Return what pictures show."""
        first, *others = self.each
        return Scene(
            self.volume.array,
            first.measured.mask,
            self.volume.spacing_um,
            first.annotation,
            y_crop=job.y_crop,
            mask_name=first.name,
            further=[Further(one.name, one.measured.mask, one.annotation) for one in others],
        )


def finish(
    job: Job,
    pieces: Pieces,
    outputs: Outputs,
    asked: Mapping[str, Any],
    page: SegmentsPage | None,
    watch: Watch,
    say: Callable[[str], None],
) -> Outcome:
    """Write all files of a volume's segments and the record; InputError where something that was asked for is not."""
    overlaps = pieces.overlaps()
    for pair in overlaps:
        say(f"  overlap     {' and '.join(pair['segments'])}: {pair['voxels']:,} voxels are in both")
    with outputs.staged() as folder:
        here = replace(job, output=folder)
        files = _write_common(here, pieces, bool(overlaps), say)
        written = [_write_own(here, pieces, piece, bool(overlaps), say) for piece in pieces.each]
        watch.note("write")
        record = _record(pieces, asked, overlaps, files, written, watch)
        if page is not None:
            path = here.files_on_request(pieces.stem)["report"]
            record["files"]["report"] = write_name(path.name)
            page.write(path, pieces.volume, [(one.measured.mask, one.annotation) for one in pieces.each], record)
    outputs.finish(record)
    named = [*record["files"].values(), *(name for one in record["segments"] for name in one["files"].values())]
    say(f"  wrote       {job.output}/: {', '.join([*map(read_name, named), outputs.record_path.name])}")
    if refused := [line for one in written for line in one.refused]:
        raise InputError(f"'{pieces.path}': {refused[0]} (all else is written)")
    return outcome_of(pieces.path, record)


def outcome_of(path: Path, record: Mapping[str, Any], message: str | None = None) -> Outcome:
    """Return what the table of a batch says of a record; by default how much there is of each segment."""
    results = {one["name"]: one["result"] for one in record["segments"]}
    words = []
    for one in record["segments"]:
        um3, scores = one["result"]["um3"], one["scores"]
        volume = "" if um3 is None else f", {um3:,.0f} µm³"
        words.append(
            f"{one['name']} {one['result']['voxels']:,} voxels{volume}"
            + ("" if scores is None else f", F {scores['f1']:.3f}")
        )
    unsettled = any(one.get("settled") is False for one in record["segments"])
    status = "not settled" if unsettled else "done" if message is None else "skipped"
    return Outcome(path, status, "; ".join(words) if message is None else message, {"segments": results})


def _write_common(job: Job, pieces: Pieces, overlap: bool, say: Callable[[str], None]) -> dict[str, Path]:
    """Write what is of all segments: the segmentation, pictures, and labels where no voxel has two."""
    folder, stem, volume = job.output, pieces.stem, pieces.volume
    files = {"segmentation": folder / f"{stem}.seg.nrrd", "preview": folder / f"{stem}_preview.png"}
    segments = [
        (Segment(name=piece.name, color=rgb(colour(number))), piece.measured.mask)
        for number, piece in enumerate(pieces.each, 1)
    ]
    write_segmentation(files["segmentation"], segments, volume)
    scene = pieces.scene(job)
    write_preview(files["preview"], scene, write_name(stem))
    if job.figure is not None:
        files["figure"] = folder / job.figure.name
        write_paper_figure(files["figure"], scene, job.figure)
    if job.label_tiff and overlap:
        say("  labels      a voxel of a label TIFF has one number: a file a segment, as some overlap")
    elif job.label_tiff:
        labels = np.zeros(volume.shape, np.uint8)
        for number, piece in enumerate(pieces.each, 1):
            labels[piece.measured.mask] = number
        files["labels"] = write_label_tiff(labels_of(folder, stem), [labels], volume, largest=len(pieces.each))
    return files


def _write_own(job: Job, pieces: Pieces, piece: Piece, overlap: bool, say: Callable[[str], None]) -> Written:
    """Write what is of one segment alone: its probability, and on request surface, tables and labels."""
    folder, stem, grid = job.output, pieces.stem, pieces.volume.with_array(piece.measured.mask)
    probability = probability_of(folder, stem, piece.name)
    nrrd.write(probability, pieces.volume.with_array(piece.levels))
    surface = own_files(job, stem, piece.name).get("mesh")
    memory = pieces.each[-1].memory  # all of them are held by now
    written = write_shapes(job, f"{stem}_{file_part(piece.name)}", surface, grid, memory, say)
    files = {"probability": probability, **written.files}
    if job.label_tiff and overlap:
        files["labels"] = write_label_tiff(labels_of(folder, stem, piece.name), [grid.array], grid)
    return replace(written, files=files)


def _record(
    pieces: Pieces,
    asked: Mapping[str, Any],
    overlaps: Sequence[Mapping[str, Any]],
    files: Mapping[str, Path],
    written: Sequence[Written],
    watch: Watch,
) -> dict[str, Any]:
    """Return what ``<stem>.json`` says."""
    volume = pieces.volume
    entries = zip(asked["segments"], pieces.each, written, strict=True)
    return {
        **asked,
        "segments": [entry | _told(piece, own) for entry, piece, own in entries],
        "overlaps": [*overlaps],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "volume": volume_record(volume, dict.fromkeys(note for piece in pieces.each for note in piece.notes)),
        "files": _names(files),
        "seconds": {**pieces.seconds, **{step: round(lasted, 3) for step, lasted in watch.seconds.items()}},
        "device": pieces.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _told(piece: Piece, written: Written) -> dict[str, Any]:
    measured, memory = piece.measured, piece.memory
    warnings = [*([piece.outside] if piece.outside else []), *measured.warnings, *written.warnings, *written.refused]
    return {
        "result": measured.result | written.vessels | {"warnings": warnings},
        "iterations": [asdict(iteration) for iteration in piece.iterations],
        **({} if piece.settled is None else {"settled": piece.settled}),
        **({} if piece.cleaned is None else {"cleaned": dict(piece.cleaned)}),
        "scores": measured.scores,
        "files": _names(written.files),
        "memory": {
            "slab_planes": memory.slab_planes,
            **({} if memory.windows is None else {"windows": memory.windows.record}),
            "estimated_bytes": written.needed,
            "allowed_bytes": memory.allowed,
        },
    }


def _names(files: Mapping[str, Path]) -> dict[str, str]:
    return {kind: write_name(file.name) for kind, file in files.items()}
