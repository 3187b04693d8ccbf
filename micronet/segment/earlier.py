"""A result that is there already: whether it is the one that is asked for, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from micronet.core.errors import FileError, setting
from micronet.core.outcome import Outcome
from micronet.io.mesh import MESH_FORMATS
from micronet.segment.plan import Plan
from micronet.segment.settings import Job

__all__ = [
    "Earlier",
    "differences",
    "earlier_result",
    "other_input",
    "other_settings",
    "other_weights",
    "scored_otherwise",
]


@dataclass(frozen=True, eq=False)
class Earlier:
    """A result with the settings that are asked for, and what it lacks.

    Parameters
    ----------
    plan : Plan
    record : mapping
        What its record says.
    missing : tuple of str
        The files, by kind, that are asked for and not there.
    rescored : bool
        Whether an annotation is asked for that it is not scored against.
    there : tuple of str
        The files on request, by kind, that are there; a surface by its format.
    """

    plan: Plan
    record: Mapping[str, Any]
    missing: tuple[str, ...]
    rescored: bool
    there: tuple[str, ...]

    @property
    def lacks(self) -> list[str]:
        """What is to be added, in words."""
        return [*(["scores"] if self.rescored else []), *self.missing]

    @property
    def page(self) -> bool:
        """Whether its page is to be made: it is asked for, or shows other scores."""
        return "report" in self.missing or (self.rescored and "report" in self.there)

    @property
    def anew(self) -> str | None:
        """Why what is lacking cannot be made from the files that are there; None where it can."""
        folder, stem = self.plan.outputs.folder, self.plan.task.stem
        for name, needed in {"segmentation": True, "probability": self.page}.items():
            if needed and not (folder / self.files[name]).is_file():
                return f"the {name} of '{stem}' is no longer there"
        return None

    @property
    def files(self) -> dict[str, str]:
        """What its probability and its segmentation are called."""
        stem = self.plan.task.stem
        return {"probability": f"{stem}_probability.nrrd", "segmentation": f"{stem}.seg.nrrd"}

    @property
    def outcome(self) -> Outcome:
        """What the table of a batch says where it lacks nothing."""
        again = f"done before ({self.plan.outputs.record_path}); it can be done again {setting('force')}"
        return Outcome(
            self.plan.task.path,
            "not settled" if self.record.get("settled") is False else "skipped",
            again,
            result=_table(self.record.get("result")),
        )

    def whole(self) -> Job:
        """Return the settings with which all that is there is made again, with what it lacks.

        FileError where that cannot be known: an annotation is not read by a name that a record gives.
        """
        task = self.plan.task
        if task.job.annotation is None and "annotation" in _table(self.record.get("masks")):
            raise FileError(
                f"'{self.plan.outputs.record_path}' is of a result that is scored: give its annotation "
                f"{setting('annotation')}, or replace it {setting('force')}"
            )
        mesh = next((kind for kind in MESH_FORMATS if kind in self.there), None)
        return replace(
            task.job,
            report=task.job.report or "report" in self.there,
            measures=task.job.measures or "vessels" in self.there,
            label_tiff=task.job.label_tiff or "labels" in self.there,
            mesh=task.job.mesh or mesh,
        )


def earlier_result(plan: Plan) -> Earlier | None:
    """Return what is there of a task, None where nothing is; FileError where it is a result of other settings."""
    record = plan.done
    if record is None:
        return None
    different = list(differences(record, plan.asked))
    if different:
        raise FileError(
            f"'{plan.outputs.record_path}' holds a result of other settings for '{plan.task.path.name}': "
            f"{'; '.join(different)}; replace it {setting('force')} or write elsewhere {setting('output')}"
        )
    job, stem = plan.task.job, plan.task.stem
    on_request = job.files_on_request(stem)
    # Details of a figure are not in the record: one that is asked for is drawn.
    missing = [kind for kind, file in on_request.items() if kind == "figure" or not file.exists()]
    if _table(record.get("result")).get("voxels") == 0 and "mesh" in missing:
        missing.remove("mesh")  # there is no surface of nothing
    return Earlier(plan, record, tuple(missing), scored_otherwise(record, plan.asked), _there(job, stem))


def _there(job: Job, stem: str) -> tuple[str, ...]:
    """Return the files on request that are there, by kind."""
    every = replace(job, report=True, measures=True, label_tiff=True, mesh=None).files_on_request(stem)
    every |= {kind: replace(job, mesh=kind).files_on_request(stem)["mesh"] for kind in MESH_FORMATS}
    return tuple(kind for kind, file in every.items() if file.exists())


def scored_otherwise(record: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether another annotation is asked for; none is as the one that is there."""
    if "annotation" not in asked["masks"]:
        return False
    here = _table(record.get("masks")).get("annotation")
    segments = (_table(record.get("parameters")).get("segment"), asked["parameters"]["segment"])
    return bool(_hash(here) != asked["masks"]["annotation"]["sha256"] or segments[0] != segments[1])


def differences(record: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between the result that a record tells of and the one that is asked for, in words."""
    if "segments" in record:
        yield "several segments there, one mask asked"
        return
    yield from other_input(record, asked)
    yield from other_weights(_table(record.get("weights")), asked["weights"])
    yield from other_settings(record, asked)


def other_input(record: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words that the input is another one."""
    if _hash(record.get("input")) != asked["input"]["sha256"]:
        yield "the input has changed since"


def other_weights(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words that other weights are asked for than there are."""
    if _hash(there) != asked["sha256"]:
        old, new = _named(there), _named(asked)
        yield f"weights {old} there, {new} asked" if old != new else f"other weights in {new} than there"


def other_settings(record: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs in words, of masks and settings."""
    masks = [_table(one.get("masks")) for one in (record, asked)]
    for role in ("initial_mask", "keep"):
        old_mask, new_mask = (mask.get(role) for mask in masks)
        if _hash(old_mask) != _hash(new_mask):
            names = _named(old_mask), _named(new_mask)
            what = role.replace("_", " ") if names[0] != names[1] else f"another {role.replace('_', ' ')},"
            yield f"{what} {names[0]} there, {names[1]} asked"
    chosen = masks[1].keys() & {"initial_mask", "keep"}
    skipped = {"initial_mask", "annotation", "keep"} | (set() if chosen else {"segment"})
    before, now = _table(record.get("parameters")), asked["parameters"]
    if before.get("until_stable") != now["until_stable"]:
        skipped.add("iterations")  # at most so many: it follows
    for name in dict.fromkeys((*now, *before)):
        if name not in skipped and before.get(name) != now.get(name):
            words = name.removesuffix("_um").replace("_", " ")
            yield f"{words} {_shown(before.get(name))} there, {_shown(now.get(name))} asked"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(mask: Any) -> str:
    return Path(str(mask["path"])).name if isinstance(mask, dict) and "path" in mask else "none"


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _hash(value: Any) -> Any:
    return _table(value).get("sha256")
