"""What is to be taught: where everything goes, what is learned from, whether that is done already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import file_part, valid, write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import ELSEWHERE, REPLACE, Outputs, check_outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.ram import Allowance, MemoryLimitError
from micronet.core.volume import Volume
from micronet.data.dataset import Entry
from micronet.io import Sources, claimed_bytes, files_of, files_read_with, open_stack, volume_stem
from micronet.io.labels import label_files
from micronet.networks.card import card_path, planned_weights
from micronet.training.teach.collection import Collection, Known, collection_of
from micronet.training.teach.course import companion_bytes, learning_bytes
from micronet.training.teach.material import find_start, held_bytes

__all__ = [
    "Plan",
    "TeachJob",
    "WouldReplaceError",
    "bytes_to_teach",
    "check_ahead",
    "check_learning",
    "check_room_for",
    "earlier_outcome",
    "in_store",
    "needs_whole",
    "plan_saving",
    "plan_teaching",
    "taught_before",
]

#: What the record of a result says that made it.
MADE_BY = "teach.py"


class WouldReplaceError(InputError):
    """What is to be written would take the place of what is read: labels saved over an earlier result, or weights.

    `name` is one for the weights where these are in the way, else None.
    """

    name: str | None = None


@dataclass(frozen=True)
class TeachJob:
    """What was painted, how to learn from it and where to write.

    `labels` is a file as `micronet.io.read_labels` takes it, `lumen` and `background` name its segments. `name` is that
    of the weights, by default the volume's. `checked` names the segment of an edited mask whose voxels are annotated,
    as edited; the mask itself is then its only other segment, or `lumen`. `start` are weights that were taught before,
    to learn on from with all of their labels; corrections find them themselves. `free_labels` lets the mask differ from
    what was painted. `classes` are segments of which each is taught to a network of its own, the others being its
    background; nothing can be learned on from then. The others are as in `micronet.segment.settings.Job`.
    """

    labels: Path
    output: Path = Path("taught")
    weights_folder: Path = Path("trained_models")
    name: str | None = None
    lumen: str | None = None
    background: str | None = None
    classes: tuple[str, ...] | None = None
    checked: str | None = None
    intensity: Literal["as stored", "log"] = "as stored"
    start: Path | None = None
    seed: int = 0
    threshold: float = 0.5
    free_labels: bool = False
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    max_ram: int | None = None

    def __post_init__(self) -> None:
        if self.checked is not None and self.background is not None:
            raise InputError(
                f"what was checked and is not lumen is background; leave the segment of it out "
                f"{setting('background', 'checked')}"
            )
        for wish in ("lumen", "checked", "start"):
            if self.classes is not None and getattr(self, wish) is not None:
                raise InputError(f"several classes are taught anew, and what was asked for is of one {setting(wish)}")

    def weights_path(self, stem: str) -> Path:
        """Return where the weights go."""
        return self.weights_folder / f"taught_{file_part(self.name or stem)}.pt"

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        settings = asdict(self)
        for name in ("output", "weights_folder", "max_ram", "labels", "start"):
            del settings[name]
        if self.classes is None:  # results of before there was such a setting are those of now
            del settings["classes"]
        return {key: _plain(value) for key, value in settings.items()}


def _plain(value: Any) -> Any:
    return valid(value) if isinstance(value, str) else list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, eq=False)
class Plan:
    """Where everything goes, and how the record begins.

    `start` are the weights to learn on from, `known` the labels beside them, and `kept` the same labels beside the new
    weights, to which those at hand are added. `words` tell how the start was found. `source` is the file of the volume,
    where that is not `path`.
    """

    path: Path
    job: TeachJob
    results: Outputs
    weights: Outputs
    asked: dict[str, Any]
    start: Path | None
    words: str
    known: Collection
    kept: Collection
    source: Path | None = None

    @property
    def image(self) -> Path:
        """The file of the volume."""
        return self.source or self.path

    @property
    def stem(self) -> str:
        """How the names of the results begin."""
        return volume_stem(self.path)

    @property
    def weights_path(self) -> Path:
        """Where the weights go."""
        return self.weights.paths[0]

    @property
    def learns_on(self) -> bool:
        """Whether the weights take the place of those that they start from: those that corrections are of."""
        return _learns_on(self.job, self.start, self.weights_path)

    def entry(self, name: str, split: str) -> Entry:
        """Return the labels at hand as a data set has them; where their copy will be is another's matter."""
        job = self.job
        return Entry(
            name,
            split,
            self.image,
            Path(),
            labels="sparse",
            intensity=job.intensity,
            axes=job.axes,
            spacing_um=job.spacing_um,
        )

    def grown(self, collection: Collection) -> Collection:
        """Return labels with those at hand added."""
        entry = self.entry(collection.named(self.stem), collection.split_of(self.stem))
        return collection.with_labels(entry, self.asked["input"]["sha256"])


def _learns_on(job: TeachJob, start: Path | None, weights: Path) -> bool:
    return job.checked is not None and start is not None and weights.is_file() and start.samefile(weights)


def plan_teaching(path: Path, job: TeachJob, sources: Sources) -> Plan:
    """Check what would be written, before anything is read."""
    stem = volume_stem(path)
    results, weights = _outputs(job, stem, MADE_BY)
    inputs = {"input": sources.of(path), "labels": sources.of(job.labels)}
    read = {"input": files_of(inputs["input"]), "labels": label_files(inputs["labels"])}
    every = [file for several in read.values() for file in several]
    asked: dict[str, Any] = {
        role: {"path": write_name(source.path), "sha256": source.sha256(read[role])} for role, source in inputs.items()
    }
    found = (job.start, "as asked") if job.start is not None else None
    if found is None and job.checked is not None:
        usual, digest = replace(job, name=None).weights_path(stem), asked["input"]["sha256"]
        found = find_start(path, job.labels, job.weights_path(stem), usual, digest, job.lumen)
    start, words = found or (None, "")
    if start is not None and not _learns_on(job, start, job.weights_path(stem)):
        asked["start"] = {"path": write_name(start), "sha256": sha256_of(start)}
        every += [start, card_path(start)]
    known, kept = _collections(start, job.weights_path(stem))
    plan = Plan(path, job, results, weights, asked | {"parameters": job.parameters()}, start, words, known, kept)
    every += [file for one in known.known if one.entry.image.exists() for file in files_read_with(one.entry.image)]
    grown = plan.grown(kept)
    grown.text(stem)  # a name that it cannot hold is told now
    try:
        check_outputs([results, weights, grown.outputs(_new(grown, known))], every)
    except InputError as error:
        raise _would_replace(error, job, stem) from error
    return plan


def check_ahead(path: Path, job: TeachJob, beside: Outputs, read: Sequence[Path], force: bool) -> None:
    """Check what teaching will write, before the labels are made that it will learn from.

    Parameters
    ----------
    path, job
        As `plan_teaching`; there is nothing to learn on from.
    beside : Outputs
        What the call writes too.
    read : sequence of Path
        What it reads.
    force : bool
        Whether earlier results may be replaced.

    Raises
    ------
    MicronetError
        Where something is in the way, or the disk cannot be written.
    """
    stem = volume_stem(path)
    results, weights = _outputs(job, stem, MADE_BY)
    none, kept = _collections(None, job.weights_path(stem))
    plan = Plan(path, job, results, weights, {"input": {"sha256": ""}}, None, "", none, kept)
    grown = plan.grown(kept)
    grown.text(stem)  # a name that it cannot hold is told now
    every = [beside, results, weights, grown.outputs(_new(grown, none))]
    try:
        check_outputs(every, read)
    except InputError as error:
        raise _would_replace(error, job, stem) from error
    if not force and results.read() is not None:
        raise FileError(f"'{results.record_path}' holds a result of other labels for '{path.name}'; {REPLACE}")
    if not force:
        _refuse_weights(plan)
    for outputs in every:
        outputs.check_room()


def plan_saving(
    job: TeachJob, stem: str, about: Mapping[str, Any], made_by: str, source: Path | None, keep: bool
) -> Plan:
    """Check what would be written of something that was taught elsewhere; arguments as `result.save_found`.

    With `keep` the labels will be kept beside the weights.
    """
    results, weights = _outputs(job, stem, made_by, [job.labels.as_posix()])
    read = () if source is None else files_of(source)
    asked = {**about, "input": {**about["input"], "sha256": sha256_of(*read) if read else None}}
    none, kept = _collections(None, job.weights_path(stem))
    plan = Plan(job.output / f"{stem}.nrrd", job, results, weights, asked, None, "", none, kept, source)
    every = [results, weights]
    if keep:
        grown = plan.grown(kept)
        grown.text(stem)  # a name that it cannot hold is told now
        every.append(grown.outputs(grown.known))
    check_outputs(every, read)
    if results.read() is None and weights.owns(weights.paths[0].name):
        raise FileError(f"'{weights.paths[0]}' exists: give another name {setting('name')}")
    return plan


def _outputs(job: TeachJob, stem: str, made_by: str, more: Sequence[str] = ()) -> tuple[Outputs, Outputs]:
    """Return the files of a result, and those of the weights."""
    files = [f"{stem}_probability.nrrd", f"{stem}.seg.nrrd", f"{stem}_preview.png"]
    names = [*files, f"{stem}_look.csv", f"{stem}_look.seg.nrrd", *more]
    results = Outputs(job.output, f"{stem}.json", made_by, names, outdated=[f"{stem}_probability.ome.zarr"])
    advice = f"give the weights another name {setting('name')}"
    return results, planned_weights(job.weights_path(stem), advice=advice)


def _collections(start: Path | None, weights: Path) -> tuple[Collection, Collection]:
    """Return the labels that the start knows, and the same beside the new weights."""
    there = collection_of(weights)
    if start is None:
        return replace(there, known=()), replace(there, known=())
    known = collection_of(start)
    return known, known.copied_to(there.folder)


def _new(grown: Collection, known: Collection) -> list[Known]:
    """Return those whose files are still to be written."""
    return [one for one in grown.known if one not in known.known]


def _would_replace(error: InputError, job: TeachJob, stem: str) -> WouldReplaceError:
    """Return the error with what helps: another folder, or for weights that it would start from another name."""
    weights = job.weights_path(stem)
    if not str(error).startswith((f"'{weights}'", f"'{card_path(weights)}'")):
        return WouldReplaceError(str(error))
    found = WouldReplaceError(str(error).replace(ELSEWHERE, f"give the new ones another name {setting('name')}"))
    number = 2
    while replace(job, name=f"{job.name or stem}_{number}").weights_path(stem).exists():
        number += 1
    found.name = f"{job.name or stem}_{number}"
    return found


def earlier_outcome(plan: Plan) -> Outcome | None:
    """Return the outcome where all is there already; FileError where something else is.

    A result may be replaced by that of its corrections, as its weights are.
    """
    done = plan.results.read()
    if done is None:
        _refuse_weights(plan)
        return None
    record = plan.results.record_path
    same = _is_same(done, plan)
    if not same and plan.learns_on and _is_of(done, plan):
        return None
    if not same:
        raise FileError(
            f"'{record}' holds a result of other labels, settings or input for '{plan.path.name}'; {REPLACE}"
        )
    return Outcome(plan.path, "skipped", f"done before ({record}); it can be done again {setting('force')}")


def _is_same(record: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether a record is of the same input, labels, start and settings."""
    try:
        return bool(record["parameters"] == plan.asked["parameters"]) and all(
            record[role]["sha256"] == plan.asked[role]["sha256"] if role in plan.asked else role not in record
            for role in ("input", "labels", "start")
        )
    except (KeyError, TypeError):
        return False


def taught_before(plan: Plan) -> dict[str, Any] | None:
    """Return the card of the weights where the same call taught them on a box, and would again; else None.

    That call was interrupted while it segmented, or its result is elsewhere.
    """
    card = plan.weights.read() if plan.weights.owns(plan.weights_path.name) else None
    learned = None if card is None else card.get("learned")
    if card is None or not _is_same(card, plan) or not isinstance(learned, dict) or "box_zyx" not in learned:
        return None
    return card if (card.get("threads"), card.get("versions")) == (torch.get_num_threads(), versions()) else None


def _is_of(record: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether a result is that of a volume by the weights that are learned on from."""
    weights, source = record.get("weights"), record.get("input")
    if plan.start is None or not isinstance(weights, dict) or not isinstance(source, dict):
        return False
    return weights.get("path") == write_name(plan.start) and source.get("sha256") == plan.asked["input"]["sha256"]


def _refuse_weights(plan: Plan) -> None:
    """Raise FileError where there are weights that were taught before, and neither are learned on from nor taken.

    Weights of ours without a card are of a call that was interrupted.
    """
    weights = plan.weights_path
    if taught_before(plan) is not None:
        return
    if plan.weights.owns(weights.name) and not plan.learns_on and plan.weights.read() is not None:
        raise FileError(f"'{weights}' exists: replace it {setting('force')}, or give another name {setting('name')}")


def plan_classes(path: Path, job: TeachJob, sources: Sources) -> list[Plan]:
    """Check what would be written of several classes, before anything is read: a plan each, with weights of its own."""
    stem, names = volume_stem(path), job.classes or ()
    files = [f"{stem}.seg.nrrd", f"{stem}_preview.png", f"{stem}_look.csv", f"{stem}_look.seg.nrrd"]
    files += [f"{stem}_{file_part(name)}_probability.nrrd" for name in names]
    results = Outputs(
        job.output,
        f"{stem}.json",
        MADE_BY,
        files,
        outdated=[f"{stem}_probability.nrrd", f"{stem}_probability.ome.zarr"],
    )
    inputs = {"input": sources.of(path), "labels": sources.of(job.labels)}
    read = {"input": files_of(inputs["input"]), "labels": label_files(inputs["labels"])}
    asked: dict[str, Any] = {
        role: {"path": write_name(source.path), "sha256": source.sha256(read[role])} for role, source in inputs.items()
    } | {"parameters": job.parameters()}
    plans, planned = [], [results]
    for name in names:
        alone = replace(job, name=f"{job.name or stem}_{name}", classes=None)
        weights = planned_weights(alone.weights_path(stem), advice=f"give the weights another name {setting('name')}")
        known, kept = _collections(None, alone.weights_path(stem))
        plan = Plan(path, alone, results, weights, asked, None, "", known, kept)
        grown = plan.grown(kept)
        grown.text(stem)  # a name that it cannot hold is told now
        plans.append(plan)
        planned += [weights, grown.outputs(_new(grown, known))]
    try:
        check_outputs(planned, [file for several in read.values() for file in several])
    except InputError as error:
        raise WouldReplaceError(str(error)) from error
    return plans


def check_room_for(plan: Plan, sources: Sources, networks: int = 1) -> Allowance:
    """Return how much memory there is, for `check_learning`, before any is taken.

    `networks` are taught, one after the other; what each says is held.

    Raises
    ------
    MicronetError
        If the disk cannot be written, or by the headers alone the volume is too large for memory.
    """
    for outputs in (plan.results, plan.weights, plan.kept.outputs(())):
        outputs.check_room()
    job = plan.job
    with open_stack(sources.of(plan.path), axes=job.axes, spacing_um=job.spacing_um) as stack:
        stored, voxels = stack.grid.array.nbytes, stack.grid.array.size
        companions = companion_bytes(stack.grid.shape, stack.grid.spacing_um or (1.0, 1.0, 1.0))
    labels = claimed_bytes(sources.of(job.labels), axes=job.axes)
    held, work = bytes_to_teach(job, stored, voxels, labels)
    allowance = Allowance.of(job.max_ram)
    allowance.check(held + _more_bytes(plan, voxels, networks), max(work, companions), f"'{plan.path}'", "crop it")
    return allowance


def check_learning(
    plan: Plan,
    allowance: Allowance,
    volume: Volume,
    labels: NDArray[np.uint8],
    others: Sequence[NDArray[np.uint8]] = (),
    networks: int = 1,
) -> None:
    """Raise MemoryLimitError where learning from so many voxels takes too much: only the labels tell how many."""
    held = volume.array.nbytes + 3 * labels.size + _more_bytes(plan, labels.size, networks)  # labels, merged, known
    count = sum(int(np.count_nonzero(one)) for one in (labels, *others))
    work = learning_bytes(labels, volume.spacing_um or (1.0, 1.0, 1.0), others)
    allowance.check(held, work, f"'{plan.path}': to learn from {count:,} annotated voxels", "annotate fewer")


def _more_bytes(plan: Plan, voxels: int, networks: int) -> int:
    """Return about how many bytes are held of several classes, and of other volumes."""
    several = 4 * voxels * (2 * networks - 1) if networks > 1 else 0
    return several + held_bytes(plan.known.known, plan.asked["input"]["sha256"])


def needs_whole(error: MemoryLimitError, wish: str) -> MemoryLimitError:
    """Return that a volume is too large for something that needs all of it in memory."""
    return MemoryLimitError(
        f"{error}; what was asked for needs it whole {setting(wish)}: of an OME-Zarr a box is learned from without "
        "that, or teach on a part of it, copied to NRRD or TIFF: its weights segment an OME-Zarr of any size"
    )


def in_store(plan: Plan, sources: Sources) -> Plan:
    """Return the plan where a box of an OME-Zarr is learned from, and its result lies in an OME-Zarr too."""
    job, stem = plan.job, plan.stem
    names = [f"{stem}_probability.ome.zarr", f"{stem}_preview.png", f"{stem}_look.csv", f"{stem}_look.seg.nrrd"]
    other = [f"{stem}_probability.nrrd", f"{stem}.seg.nrrd"]
    results = Outputs(job.output, f"{stem}.json", MADE_BY, names, outdated=other)
    check_outputs([results], [*files_of(sources.of(plan.path)), *label_files(sources.of(job.labels))])
    return replace(plan, results=results)


def bytes_to_teach(job: TeachJob, stored: int, voxels: int, labels: int) -> tuple[int, int]:
    """Return about how many bytes are held while a volume is taught, and how many the work on it takes.

    `stored` are those of the volume, `labels` those of what it is taught from, as their files have them.
    """
    logarithm = 4 * voxels * (job.intensity == "log")
    merged = 2 * voxels  # with where the start was taught
    # Normalised image, mean, squares and one member's probability; µ-Nets resample what they look at.
    return stored + labels + logarithm + merged, max(stored, labels, 16 * voxels + 24 * voxels)
