"""From a raw scan to a structural volume: logarithm above the noise floor, isotropic voxels, 8 bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.core.files import make_folder
from micronet.core.names import write_name
from micronet.core.ownership import Mark
from micronet.core.provenance import versions
from micronet.core.resample import antialias_sigma, decimate_planes
from micronet.data.intensity import Domain, above_floor, finish, noise_floor, range_of, to_bytes
from micronet.data.preparation import (
    Plan,
    Preparation,
    already_done,
    asked_of,
    domain_of,
    planned,
    say_domain,
    say_what,
)
from micronet.data.scan import AXES, geometry_record
from micronet.io import Stack, nrrd
from micronet.io.scratch import Scratch
from micronet.io.zarr import library
from micronet.io.zarr_write import write_from_planes
from micronet.report.before_after import Cuts, write_before_after

__all__ = ["Preparation", "prepare_file"]

# Planes looked at for the noise floor, and about how many voxels of each.
_SAMPLED_PLANES, _SAMPLED_VOXELS = 64, 1 << 18
_BLOCK_BYTES = 32 << 20
# Where more of the scan lies at the noise floor, the floor or the domain is probably wrong.
_MOSTLY_FLOOR = 0.95


@dataclass(frozen=True)
class _Floor:
    """The noise floor in the scan's own numbers, and how it was found, as the record tells it."""

    value: float
    how: dict[str, Any]


@dataclass(frozen=True)
class _Made:
    """What became of the numbers: the share of raw voxels at or below the floor, and what grey 0 and 255 mean."""

    floor: _Floor
    share: float
    low: float
    high: float


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
        ``"done"`` or ``"skipped"``, and what to tell of it. The result is ``<name>.nrrd`` in `job.output`, with slices
        of it and of the scan in ``<name>_before_after.png``; the record of every step, ``<name>.json``, is written
        last, so a result with it is whole.

    Raises
    ------
    MicronetError
        For bad input.
    """
    began = time.perf_counter()
    if job.output_format == "ome.zarr":
        library()  # before hours of work
    domain, said_by = domain_of(path, job)
    with job.scan.open(path) as stack:
        plan = planned(path, job, domain, said_by, stack)
        say_what(plan, say)
        asked = asked_of(plan)
        if plan.done is not None and not force:
            return already_done(plan, asked)
        plan.outputs.check_room()
        say_domain(plan, say)
        floor = _floor(plan, say)
        made = _write_structural(plan, floor, say, on_planes)
        seconds = round(time.perf_counter() - began, 3)
        record = asked | _record(plan, made) | {"seconds": seconds, "versions": versions()}
    plan.outputs.finish(record)
    say(f"  wrote       {job.output}/: {plan.target.name}, {plan.picture.name}, {plan.outputs.record_path.name}")
    sizes = " x ".join(str(size) for size in plan.grid.shape)
    return "done", f"{sizes} voxels (Z, Y, X) of {job.iso_um:g} µm"


class _Levels:
    """The planes of a scan above its noise floor, one after the other; `clamped` counts what lies at it or below."""

    def __init__(self, plan: Plan, floor: float, on_planes: Callable[[int, int], None]) -> None:
        self._plan, self._floor, self._on_planes = plan, floor, on_planes
        self.clamped = 0
        self.cuts = Cuts(plan.stack.shape, plan.raw.spacing_um or (1, 1, 1), plan.stack.axes)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        job, domain = self._plan.job, self._plan.domain
        for plane in self.cuts.through(_checked_planes(self._plan, self._on_planes)):
            try:
                level = above_floor(plane, domain, self._floor, job.average)
            except InputError as error:
                raise InputError(f"'{self._plan.path}': the scan holds {error}") from None
            self.clamped += int(np.count_nonzero(level <= (0 if job.average == "log" else 1)))
            yield level


def _write_structural(
    plan: Plan, floor: _Floor, say: Callable[[str], None], on_planes: Callable[[int, int], None]
) -> _Made:
    """Decimate the scan into a scratch file, choose the range of grey values, and write the 8-bit volume."""
    job, stack = plan.job, plan.stack
    make_folder(job.output)
    order = [AXES.index(letter) for letter in stack.axes]
    levels = _Levels(plan, floor.value, on_planes)
    with Scratch(job.output, tuple(plan.grid.shape[axis] for axis in order), stack.axes) as scratch:
        least, most = np.inf, -np.inf
        for averaged in decimate_planes(levels, stack.shape, [plan.ratios[axis] for axis in order]):
            plane = finish(averaged, job.average)
            least, most = min(least, float(plane.min())), max(most, float(plane.max()))
            scratch.append(plane)
        share = levels.clamped / stack.grid.array.size
        say(f"              {100 * share:.1f} % of the raw voxels lie at or below it")
        if share > _MOSTLY_FLOOR:
            advice = f"are domain and noise floor right {setting('domain', 'noise_floor')}?"
            say(f"  WARNING     nearly everything lies at the noise floor: {advice}")
        try:
            low, high = range_of(scratch.blocks(), least, most)
        except InputError as error:
            raise InputError(f"'{plan.path}': {error}") from error
        unit = "grey values of the scan" if plan.domain == "log" else "ln(intensity / noise floor)"
        say(f"  grey values 0 is {low:.4g}, 255 is {high:.4g} in {unit}")
        with plan.outputs.staged() as folder:
            greys = (to_bytes(plane, low, high) for plane in scratch.slices())
            after = Cuts(plan.grid.shape, (job.iso_um,) * 3)
            write = write_from_planes if job.output_format == "ome.zarr" else nrrd.write
            write(folder / plan.target.name, plan.grid, after.through(greys))
            title = write_name(plan.target.stem)
            write_before_after(folder / plan.picture.name, levels.cuts, after, title)
    return _Made(floor, share, low, high)


def _record(plan: Plan, made: _Made) -> dict[str, Any]:
    """Return what the record tells beside what was asked: where the voxels come from, and what was done to them."""
    stack, target = plan.stack, plan.target
    return {
        "domain": "log",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "raw": geometry_record(stack.grid)
        | {"dtype": str(stack.grid.array.dtype), "axes_of_the_file": stack.axes, "notes": list(stack.grid.notes)},
        "steps": _steps(plan, made),
        "output": {"file": write_name(target.name), "sha256": Mark.of(target, target.name).sha256, "dtype": "uint8"}
        | geometry_record(plan.grid),
    }


def _floor(plan: Plan, say: Callable[[str], None]) -> _Floor:
    """Return the noise floor that is given, or measure it."""
    stack, domain, job = plan.stack, plan.domain, plan.job
    if job.noise_floor is not None:
        if not np.isfinite(job.noise_floor) or (domain in ("intensity", "amplitude") and job.noise_floor <= 0):
            raise InputError(
                f"noise floor {job.noise_floor:g} {setting('noise_floor')}: "
                f"expected a number above 0 in the domain {domain}"
            )
        say(f"  noise floor {job.noise_floor:.6g} {setting('noise_floor')}; what is below is clamped")
        return _Floor(job.noise_floor, {"given": True})
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
    return _Floor(floor, {"given": False, "measured": how})


def _refuse_negative(stack: Stack, array: NDArray[Any], domain: Domain) -> None:
    if domain in ("intensity", "amplitude") and array.dtype.kind in "if" and (least := array.min()) < 0:
        floor = f"; background-subtracted intensities need a noise floor {setting('noise_floor')}"
        more = floor if domain == "intensity" else ""
        raise InputError(
            f"'{stack.path}' holds negative numbers ({least:g}), which no {domain} is: "
            f"is the domain db or log {setting('domain')}?{more}"
        )


def _checked_planes(plan: Plan, on_planes: Callable[[int, int], None]) -> Iterator[NDArray[Any]]:
    stack, domain = plan.stack, plan.domain
    total = stack.shape[0]
    at_once = max(1, _BLOCK_BYTES // (stack.shape[1] * stack.shape[2] * stack.grid.array.dtype.itemsize))
    for start in range(0, total, at_once):
        block = stack.read(start, min(start + at_once, total))
        for plane in block:
            if domain == "amplitude" or plan.job.noise_floor is None:
                _refuse_negative(stack, plane, domain)
            yield plane
        on_planes(start + len(block), total)


def _steps(plan: Plan, made: _Made) -> list[dict[str, Any]]:
    """Return what was done to the numbers, in order."""
    job, ratios = plan.job, plan.ratios
    above = {
        "intensity": "ln(value / floor)",
        "amplitude": "2 ln(value / floor)",
        "db": "ln(10) / 10 * (value - floor)",
        "log": "value - floor",
    }[plan.domain]
    logarithm: dict[str, Any] = {"step": "logarithm above the noise floor", "formula": f"max({above}, 0)"}
    decimation: dict[str, Any] = {
        "step": "decimation",
        "averaged": "logarithms" if job.average == "log" else "intensities over the floor, before the logarithm",
        "ratios_zyx": list(ratios),
        "gaussian_sigma_raw_voxels_zyx": [antialias_sigma(ratio) for ratio in ratios],
        "interpolation": "linear",
        "first_voxel_in_raw_voxels_zyx": [(ratio - 1) / 2 for ratio in ratios],
    }
    return [
        {
            "step": "depth",
            "axis": job.scan.depth_axis,
            "refractive_index": job.scan.refractive_index,
            "true_spacing_um_zyx": np.linalg.norm(plan.raw.directions, axis=1).tolist(),
        },
        {"step": "noise floor", "value_in_the_scans_numbers": made.floor.value, "raw_voxels_at_or_below": made.share}
        | made.floor.how,
        *([logarithm, decimation] if job.average == "log" else [decimation, logarithm]),
        {
            "step": "8 bits",
            "value_of_0": made.low,
            "value_of_255": made.high,
            "formula": "value_of_0 + grey (value_of_255 - value_of_0) / 255",
        },
    ]
