"""From a raw scan to a structural volume: logarithm above the noise floor, isotropic voxels, 8 bits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import make_folder
from micronet.core.names import write_name
from micronet.core.ownership import REPLACE, Outputs, check_outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.resample import antialias_sigma, decimate_planes
from micronet.core.volume import Volume
from micronet.data.intensity import DOMAINS, Average, Domain, above_floor, finish, noise_floor, range_of, to_bytes
from micronet.data.scan import AXES, RawScan, geometry_record, structural_grid
from micronet.io import Stack, nrrd
from micronet.io.scratch import Scratch, check_room
from micronet.io.sidecar import MADE_BY, scan_name, stated_domain

__all__ = ["Preparation", "prepare_file"]

# Planes looked at for the noise floor, and about how many voxels of each.
_SAMPLED_PLANES, _SAMPLED_VOXELS = 64, 1 << 18
_BLOCK_BYTES = 32 << 20
# Where more of the scan lies at the noise floor, the floor or the domain is probably wrong.
_MOSTLY_FLOOR = 0.95


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
    """

    scan: RawScan
    domain: Domain | None = None
    average: Average = "log"
    iso_um: float = 4.5
    noise_floor: float | None = None
    output: Path = Path("struct_iso")

    def outputs(self, name: str) -> Outputs:
        """Return the files that the structural volume of a scan of this name consists of."""
        return Outputs(self.output, f"{name}.json", MADE_BY, [f"{name}.nrrd"])

    def parameters(self, domain: Domain) -> dict[str, Any]:
        """Return what the numbers of a result depend on, as JSON has it."""
        settings = asdict(replace(self, domain=domain))
        del settings["output"]
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


def prepare_file(
    path: Path,
    job: Preparation,
    *,
    say: Callable[[str], None],
    on_planes: Callable[[int, int], None] = lambda done, total: None,
    force: bool = False,
) -> tuple[str, str]:
    """Make a structural volume of one raw scan.

    Parameters
    ----------
    path : Path
        A volume file, or a folder of B-scans.
    job : Preparation
        The settings.
    say : callable
        Receives what was read, measured, chosen and written, a line at a time.
    on_planes : callable
        Receives how many planes of the scan are done, and how many there are.
    force : bool
        Do it again, and replace what is there, even when the result exists.

    Returns
    -------
    status, message : str
        ``"done"`` or ``"skipped"``, and what to tell of it. The result is ``<name>.nrrd`` in `job.output`; the record
        of every step, ``<name>.json``, is written last, so a result with it is whole.

    Raises
    ------
    MicronetError
        For bad input.
    """
    began = time.perf_counter()
    domain, said_by = _domain(path, job)
    name = scan_name(path)
    outputs = job.outputs(name)
    target, record_path = job.output / f"{name}.nrrd", outputs.record_path
    with job.scan.open(path) as stack:
        check_outputs([outputs], stack.files)
        done = outputs.read()
        raw = job.scan.true_grid(stack)
        grid, ratios = structural_grid(raw, job.iso_um)
        grid = grid.in_units(stack.grid.units)  # in 3D Slicer, which knows no unit, it must lie on the scan
        check_room(job.output, grid.shape)
        _say_what(stack, raw, grid, ratios, job, say)
        asked = {
            "input": {"path": write_name(path), "files": len(stack.files), "sha256": sha256_of(*stack.files)},
            "parameters": job.parameters(domain),
        }
        if done is not None and not force:
            return _already_done(path, record_path, done, asked)
        outputs.check_room()
        say(f"  domain      {domain} {said_by}; {_MEANING[domain]}, averaged as {job.average}")
        if stack.grid.array.dtype == np.uint8 and domain in ("intensity", "amplitude"):
            say(f"  WARNING     8-bit voxels are mostly logarithms, as on a display: is it log {setting('domain')}?")
        floor, how = _floor(stack, domain, job, say)
        make_folder(job.output)
        order = [AXES.index(letter) for letter in stack.axes]
        clamped = 0

        def levels() -> Iterator[NDArray[np.float32]]:
            nonlocal clamped
            for plane in _checked_planes(stack, domain, job, on_planes):
                try:
                    level = above_floor(plane, domain, floor, job.average)
                except InputError as error:
                    raise InputError(f"'{path}': the scan holds {error}") from None
                clamped += int(np.count_nonzero(level <= (0 if job.average == "log" else 1)))
                yield level

        with Scratch(job.output, tuple(grid.shape[axis] for axis in order), stack.axes) as scratch:
            least, most = np.inf, -np.inf
            for averaged in decimate_planes(levels(), stack.shape, [ratios[axis] for axis in order]):
                plane = finish(averaged, job.average)
                least, most = min(least, float(plane.min())), max(most, float(plane.max()))
                scratch.append(plane)
            share = clamped / stack.grid.array.size
            say(f"              {100 * share:.1f} % of the raw voxels lie at or below it")
            if share > _MOSTLY_FLOOR:
                asked_for = setting("domain", "noise_floor")
                say(f"  WARNING     nearly everything lies at the noise floor: are domain and floor right {asked_for}?")
            try:
                low, high = range_of(scratch.blocks(), least, most)
            except InputError as error:
                raise InputError(f"'{path}': {error}") from error
            unit = "grey values of the scan" if domain == "log" else "ln(intensity / noise floor)"
            say(f"  grey values 0 is {low:.4g}, 255 is {high:.4g} in {unit}")
            with outputs.staged() as folder:
                nrrd.write(folder / target.name, grid, (to_bytes(plane, low, high) for plane in scratch.slices()))
        record = asked | {
            "domain": "log",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "raw": geometry_record(stack.grid)
            | {
                "dtype": str(stack.grid.array.dtype),
                "axes_of_the_file": stack.axes,
                "notes": list(stack.grid.notes),
            },
            "steps": _steps(job, domain, floor, how, share, (low, high), raw, ratios),
            "output": {"file": write_name(target.name), "sha256": sha256_of(target), "dtype": "uint8"}
            | geometry_record(grid),
            "seconds": round(time.perf_counter() - began, 3),
            "versions": versions(),
        }
    outputs.finish(record)
    say(f"  wrote       {job.output}/: {target.name}, {record_path.name}")
    sizes = " x ".join(str(size) for size in grid.shape)
    return "done", f"{sizes} voxels (Z, Y, X) of {job.iso_um:g} µm"


_MEANING: dict[Domain, str] = {
    "intensity": "the natural logarithm is taken",
    "amplitude": "squared, and the natural logarithm is taken",
    "db": "10 log10(intensity), brought to natural logarithms",
    "log": "a logarithm already, none is taken",
}


def _domain(path: Path, job: Preparation) -> tuple[Domain, str]:
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
            f"{twice}; say nothing {setting('domain')}, or correct that file"
        )
    if domain == "log" and job.average == "linear":
        raise InputError(
            f"'{path}': a linear average needs intensities, and a logarithm of unknown scale cannot be undone; "
            f"say db if these are dB, else average logarithms {setting('domain', 'average')}"
        )
    return domain, setting("domain") if job.domain else f"('{beside.name}' beside it)"


def _already_done(path: Path, record_path: Path, done: dict[str, Any], asked: dict[str, Any]) -> tuple[str, str]:
    same = done.get("parameters") == asked["parameters"]
    if not same or (done.get("input") or {}).get("sha256") != asked["input"]["sha256"]:
        raise FileError(
            f"'{record_path}' holds a result of other settings or another scan for '{path.name}'; {REPLACE}"
        )
    return "skipped", f"done before ({record_path}); repeat it {setting('force')}"


def _say_what(
    stack: Stack,
    raw: Volume,
    grid: Volume,
    ratios: tuple[float, float, float],
    job: Preparation,
    say: Callable[[str], None],
) -> None:
    files = f", {len(stack.files)} files" if len(stack.files) > 1 else ""
    where = stack.grid.space or "space not stated"
    size = stack.grid.array.size * stack.grid.array.dtype.itemsize / 1e6
    say(f"  raw scan    {stack.grid.array.dtype}, {size:,.4g} MB{files}, axes {stack.axes} (slowest first), {where}")
    for note in stack.grid.notes:
        say(f"              note: {note}")
    for axis, (letter, ratio) in enumerate(zip(AXES, ratios, strict=True)):
        length = float(np.linalg.norm(raw.directions[axis]))
        sigma = antialias_sigma(ratio)
        how = "as it is" if abs(ratio - 1) < 1e-6 else "interpolated, which adds no detail"
        if sigma:
            how = f"ratio {ratio:.4g}, Gaussian of σ {sigma:.3g} voxels ({sigma * length:.3g} µm)"
        say(
            f"  axis {letter}      {raw.shape[axis]} x {length:.4g} µm to {grid.shape[axis]} x {job.iso_um:g} µm: {how}"
        )
    path_um = (stack.grid.spacing_um or (0.0,) * 3)[AXES.index(job.scan.depth_axis)]
    index = job.scan.refractive_index
    meaning = (
        "the stated spacing is taken as depth" if index == 1 else f"{path_um:.4g} µm of path are {path_um / index:.4g}"
    )
    say(f"  depth       along {job.scan.depth_axis} {setting('depth_axis')}, refractive index {index:g}: {meaning}")


def _floor(stack: Stack, domain: Domain, job: Preparation, say: Callable[[str], None]) -> tuple[float, dict[str, Any]]:
    """Return the noise floor in the scan's own numbers, and how it was found."""
    if job.noise_floor is not None:
        if not np.isfinite(job.noise_floor) or (domain in ("intensity", "amplitude") and job.noise_floor <= 0):
            raise InputError(
                f"noise floor {job.noise_floor:g} {setting('noise_floor')}: "
                f"expected a number above 0 in the domain {domain}"
            )
        say(f"  noise floor {job.noise_floor:.6g} {setting('noise_floor')}; what is below is clamped")
        return job.noise_floor, {"given": True}
    planes = np.unique(np.linspace(0, stack.shape[0] - 1, _SAMPLED_PLANES).astype(int))
    depth = stack.axes.index(job.scan.depth_axis)
    lateral = [axis for axis in (1, 2) if axis != depth]
    stride = max(1, int((np.prod(stack.shape[1:]) / _SAMPLED_VOXELS) ** (1 / len(lateral))))
    step = tuple(slice(None, None, stride if axis in lateral else 1) for axis in (1, 2))
    sample = np.stack([stack.read(number, number + 1)[0][step] for number in planes.tolist()])
    _refuse_negative(stack, sample, domain)
    try:
        floor, row = noise_floor(sample, depth, domain)
    except InputError as error:
        raise InputError(f"'{stack.path}': {error}") from error
    if row is not None and depth == 0:
        row = int(planes[row])
    how = (
        "the smallest number above 0: most voxels are 0"
        if row is None
        else (f"median of the darkest depth, {job.scan.depth_axis} = {row}, in {len(planes)} planes")
    )
    say(f"  noise floor {floor:.6g} ({how}); what is below is clamped")
    return floor, {"given": False, "measured": how}


def _refuse_negative(stack: Stack, array: NDArray[Any], domain: Domain) -> None:
    if domain in ("intensity", "amplitude") and array.dtype.kind in "if" and (least := array.min()) < 0:
        floor = f"; background-subtracted intensities need a noise floor {setting('noise_floor')}"
        more = floor if domain == "intensity" else ""
        raise InputError(
            f"'{stack.path}' holds negative numbers ({least:g}), which no {domain} is: "
            f"is the domain db or log {setting('domain')}?{more}"
        )


def _checked_planes(
    stack: Stack, domain: Domain, job: Preparation, on_planes: Callable[[int, int], None]
) -> Iterator[NDArray[Any]]:
    total = stack.shape[0]
    at_once = max(1, _BLOCK_BYTES // (stack.shape[1] * stack.shape[2] * stack.grid.array.dtype.itemsize))
    for start in range(0, total, at_once):
        block = stack.read(start, min(start + at_once, total))
        for plane in block:
            if domain == "amplitude" or job.noise_floor is None:
                _refuse_negative(stack, plane, domain)
            yield plane
        on_planes(start + len(block), total)


def _steps(
    job: Preparation,
    domain: Domain,
    floor: float,
    how: dict[str, Any],
    share: float,
    ends: tuple[float, float],
    raw: Volume,
    ratios: tuple[float, float, float],
) -> list[dict[str, Any]]:
    """Return what was done to the numbers, in order."""
    above = {
        "intensity": "ln(value / floor)",
        "amplitude": "2 ln(value / floor)",
        "db": "ln(10) / 10 * (value - floor)",
        "log": "value - floor",
    }[domain]
    sigmas = [antialias_sigma(ratio) for ratio in ratios]
    logarithm: dict[str, Any] = {"step": "logarithm above the noise floor", "formula": f"max({above}, 0)"}
    decimation: dict[str, Any] = {
        "step": "decimation",
        "averaged": "logarithms" if job.average == "log" else "intensities over the floor, before the logarithm",
        "ratios_zyx": list(ratios),
        "gaussian_sigma_raw_voxels_zyx": sigmas,
        "interpolation": "linear",
        "first_voxel_in_raw_voxels_zyx": [(ratio - 1) / 2 for ratio in ratios],
    }
    low, high = ends
    steps: list[dict[str, Any]] = [
        {
            "step": "depth",
            "axis": job.scan.depth_axis,
            "refractive_index": job.scan.refractive_index,
            "true_spacing_um_zyx": np.linalg.norm(raw.directions, axis=1).tolist(),
        },
        {"step": "noise floor", "value_in_the_scans_numbers": floor, "raw_voxels_at_or_below": share} | how,
        *([logarithm, decimation] if job.average == "log" else [decimation, logarithm]),
        {
            "step": "8 bits",
            "value_of_0": low,
            "value_of_255": high,
            "formula": "value_of_0 + grey (value_of_255 - value_of_0) / 255",
        },
    ]
    return steps
