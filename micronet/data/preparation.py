"""What is to be made of a raw scan: the settings, the domain of its numbers, the grid and the files of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import write_name
from micronet.core.ownership import REPLACE, Outputs, check_outputs
from micronet.core.resample import antialias_sigma
from micronet.core.volume import Volume
from micronet.data.intensity import DOMAINS, Average, Domain
from micronet.data.scan import AXES, RawScan, structural_grid
from micronet.io import Stack
from micronet.io.scratch import check_room
from micronet.io.sidecar import MADE_BY, scan_name, stated_domain

__all__ = [
    "FORMATS",
    "Plan",
    "Preparation",
    "already_done",
    "asked_of",
    "domain_of",
    "planned",
    "say_domain",
    "say_what",
]

Format = Literal["nrrd", "ome.zarr"]
#: What a structural volume may be written as, the usual first.
FORMATS: tuple[Format, ...] = ("nrrd", "ome.zarr")

_MEANING: dict[Domain, str] = {
    "intensity": "the natural logarithm is taken",
    "amplitude": "squared, and the natural logarithm is taken",
    "db": "10 log10(intensity), brought to natural logarithms",
    "log": "a logarithm already, none is taken",
}


@dataclass(frozen=True)
class Preparation:
    """How raw scans are made structural volumes.

    Parameters
    ----------
    scan : RawScan
    domain : {"intensity", "amplitude", "db", "log"}, optional
        What the numbers of the scan are; None where the JSON beside the scan says it.
    average : {"log", "linear"}
        Whether logarithms are averaged, or intensities whose logarithm is taken after.
    iso_um : float
        Distance between the voxels of the structural volume.
    noise_floor : float, optional
        In the scan's own numbers; measured by default.
    output : Path
        Folder for the result.
    output_format : {"nrrd", "ome.zarr"}
        An OME-Zarr is read box by box, so it may be larger than memory.
    """

    scan: RawScan
    domain: Domain | None = None
    average: Average = "log"
    iso_um: float = 4.5
    noise_floor: float | None = None
    output: Path = Path("struct_iso")
    output_format: Format = "nrrd"

    def outputs(self, name: str) -> Outputs:
        """Return the files that the structural volume of a scan of this name consists of."""
        other = [f"{name}.{one}" for one in FORMATS if one != self.output_format]
        names = [f"{name}.{self.output_format}", f"{name}_before_after.png"]
        return Outputs(self.output, f"{name}.json", MADE_BY, names, outdated=other)

    def parameters(self, domain: Domain) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        settings = asdict(replace(self, domain=domain))
        del settings["output"]
        if self.output_format == FORMATS[0]:  # records that are older than this setting
            del settings["output_format"]
        if not self.scan.level:
            del settings["scan"]["level"]
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be made of a scan that is open.

    `raw` is the scan's grid in true depth and µm, `grid` that of the result, `ratios` are the lengths of its voxels
    over those of the raw ones; `done` is the record of an earlier result.
    """

    path: Path
    job: Preparation
    domain: Domain
    said_by: str
    stack: Stack
    outputs: Outputs
    done: dict[str, Any] | None
    raw: Volume
    grid: Volume
    ratios: tuple[float, float, float]

    @property
    def target(self) -> Path:
        """The structural volume."""
        return self.outputs.paths[0]

    @property
    def picture(self) -> Path:
        """The picture of its slices, before and after."""
        return self.outputs.paths[1]


def domain_of(path: Path, job: Preparation) -> tuple[Domain, str]:
    """Return what the numbers of the scan are and who says so; never what would take a logarithm twice."""
    stated, beside = stated_domain(path)
    known = next((domain for domain in DOMAINS if domain == stated), None)
    domain = job.domain or known
    if domain is None:
        raise InputError(
            f"'{path}': what its numbers are is not known; "
            f"say {', '.join(DOMAINS[:-1])} or {DOMAINS[-1]} {setting('domain')}"
        )
    if known is not None and domain != known:
        twice = "the logarithm would be taken twice" if known in ("db", "log") and domain != "log" else "they disagree"
        raise InputError(
            f"'{path}': '{beside.name}' beside it says that it is in the domain {known}, this call says {domain}: "
            f"{twice}; leave the domain to that file {setting('domain')}, or correct it"
        )
    if domain == "log" and job.average == "linear":
        raise InputError(
            f"'{path}': a linear average needs intensities, and a logarithm of unknown scale cannot be undone; "
            f"say db if these are dB, else average logarithms {setting('domain', 'average')}"
        )
    return domain, setting("domain") if job.domain else f"('{beside.name}' beside it)"


def planned(path: Path, job: Preparation, domain: Domain, said_by: str, stack: Stack) -> Plan:
    """Return what is to be made of a scan, once nothing that is not ours is in its way and the disk has room."""
    outputs = job.outputs(scan_name(path))
    check_outputs([outputs], [stack.path, *stack.files])
    done = outputs.read()
    raw = job.scan.true_grid(stack)
    grid, ratios = structural_grid(raw, job.iso_um)
    grid = grid.in_units(stack.grid.units)  # in 3D Slicer, which knows no unit, it must lie on the scan
    check_room(job.output, grid.shape)
    return Plan(path, job, domain, said_by, stack, outputs, done, raw, grid, ratios)


def asked_of(plan: Plan) -> dict[str, Any]:
    """Return what tells one result from another: the scan and the settings."""
    files = plan.stack.files
    return {
        "input": {"path": write_name(plan.path), "files": len(files), "sha256": plan.stack.sha256()},
        "parameters": plan.job.parameters(plan.domain),
    }


def already_done(plan: Plan, asked: dict[str, Any]) -> tuple[str, str]:
    """Return that the very result is there; FileError where it is one of other settings or of another scan."""
    done, record_path = plan.done or {}, plan.outputs.record_path
    same = done.get("parameters") == asked["parameters"]
    if not same or (done.get("input") or {}).get("sha256") != asked["input"]["sha256"]:
        raise FileError(
            f"'{record_path}' holds a result of other settings or another scan for '{plan.path.name}'; {REPLACE}"
        )
    return "skipped", f"done before ({record_path}); repeat it {setting('force')}"


def say_what(plan: Plan, say: Callable[[str], None]) -> None:
    """Tell of the scan, and of each axis how long its voxels are and will be."""
    stack, job, raw = plan.stack, plan.job, plan.raw
    files = f", {len(stack.files)} files" if len(stack.files) > 1 else ""
    where = stack.grid.space or "space not stated"
    size = stack.grid.array.size * stack.grid.array.dtype.itemsize / 1e6
    say(f"  raw scan    {stack.grid.array.dtype}, {size:,.4g} MB{files}, axes {stack.axes} (slowest first), {where}")
    for note in stack.grid.notes:
        say(f"              note: {note}")
    for axis, (letter, ratio) in enumerate(zip(AXES, plan.ratios, strict=True)):
        length = float(np.linalg.norm(raw.directions[axis]))
        sigma = antialias_sigma(ratio)
        how = "as it is" if abs(ratio - 1) < 1e-6 else "interpolated, which adds no detail"
        if sigma:
            how = f"ratio {ratio:.4g}, Gaussian of σ {sigma:.3g} voxels ({sigma * length:.3g} µm)"
        before, after = f"{raw.shape[axis]} x {length:.4g} µm", f"{plan.grid.shape[axis]} x {job.iso_um:g} µm"
        say(f"  axis {letter}      {before} to {after}: {how}")
    path_um = (stack.grid.spacing_um or (0.0,) * 3)[AXES.index(job.scan.depth_axis)]
    index = job.scan.refractive_index
    meaning = (
        "the stated spacing is taken as depth" if index == 1 else f"{path_um:.4g} µm of path are {path_um / index:.4g}"
    )
    say(f"  depth       along {job.scan.depth_axis} {setting('depth_axis')}, refractive index {index:g}: {meaning}")


def say_domain(plan: Plan, say: Callable[[str], None]) -> None:
    """Tell what the numbers are taken for."""
    say(f"  domain      {plan.domain} {plan.said_by}; {_MEANING[plan.domain]}, averaged as {plan.job.average}")
    if plan.stack.grid.array.dtype == np.uint8 and plan.domain in ("intensity", "amplitude"):
        advice = f"is the domain log {setting('domain')}?"
        say(f"  WARNING     8-bit voxels are mostly logarithms already, as on a display: {advice}")
