"""A finished mask, from the grid of the structural volume back to that of the raw scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import existing
from micronet.core.ownership import REPLACE, Outputs, check_outputs
from micronet.core.provenance import versions
from micronet.core.resample import sample_planes
from micronet.core.volume import MICROMETRES_PER, Volume, settle_units
from micronet.data.scan import RawScan, covers, geometry_record, parallel_steps
from micronet.io import (
    Annotation,
    Segment,
    Source,
    Stack,
    files_of,
    files_read_with,
    opened,
    read_annotation,
    volume_stem,
    write_mask_planes,
)
from micronet.io.sidecar import MADE_BY, read_record, scan_name

__all__ = ["BackMapping", "files_mapped", "find_record", "map_back", "mapped_outputs", "scan_of"]

# What the record of a mapped mask says that made it: an identity, which earlier records bear too.
_MAPPED_BY = f"{MADE_BY} --back-to"
# A record's geometry agrees with a file's up to what text and float32 headers lose.
_AGREES = 1e-5
# What JSON has for each part of a raw scan; a record may come from elsewhere.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "axes": (str,),
    "spacing_um": (int, float),
    "shape": (int,),
    "dtype": (str,),
    "depth_axis": (str,),
    "refractive_index": (int, float),
    "level": (int,),
}


def find_record(mask_path: Path, raw_path: Path, folders: list[Path]) -> Path | None:
    """Return the record of the structural volume that was made of a scan, None where there is none.

    Looked for by the name of the mask, then by that of the scan, in each folder in turn.
    """
    for name in dict.fromkeys((volume_stem(mask_path), scan_name(raw_path))):
        for folder in folders:
            path = existing(folder / f"{name}.json")
            if (read_record(path) or {}).get("made_by") == MADE_BY:
                return path
    return None


def scan_of(record_path: Path, said: RawScan) -> RawScan:
    """Return what a record says about its raw scan; what a person says stands above it.

    Raises
    ------
    FileError
        If the file is no record of a structural volume.
    """
    found = read_record(record_path) or {}
    parameters = found.get("parameters")
    settings = parameters.get("scan") if isinstance(parameters, dict) else None
    if found.get("made_by") != MADE_BY or not isinstance(settings, dict):
        raise FileError(f"'{record_path}' is no record of {MADE_BY}")
    default = RawScan()
    known: dict[str, Any] = {}
    for field in fields(RawScan):
        mine, recorded = getattr(said, field.name), settings.get(field.name)
        if mine == getattr(default, field.name) and recorded is not None:
            several = field.name in ("spacing_um", "shape")
            parts = recorded if several and isinstance(recorded, list) else [recorded]
            if len(parts) != (3 if several else 1) or not all(_is(part, _KINDS[field.name]) for part in parts):
                raise FileError(f"'{record_path}': its scan has {field.name} {recorded!r}, which nothing can have")
            known[field.name] = tuple(parts) if several else recorded
    return replace(said, **known)


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, int | float):
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 1e30
    return isinstance(value, kinds)


@dataclass(frozen=True)
class BackMapping:
    """How masks are mapped back to a scan.

    Parameters
    ----------
    raw_path : Path
        The scan; only its geometry is read.
    scan : RawScan
        What the structural volume was made with.
    output : Path
        Folder for ``<mask>_on_<scan>.seg.nrrd``.
    segment : str, optional
        Which segment of a .seg.nrrd.
    linear : bool
        Interpolate linearly and take one half and more; else take the nearest voxel.
    record_path : Path, optional
        Record of the structural volume; the scan must have the geometry that it tells.
    """

    raw_path: Path
    scan: RawScan
    output: Path
    segment: str | None = None
    linear: bool = True
    record_path: Path | None = None


def mapped_outputs(mask_path: Path, raw_path: Path, output: Path) -> Outputs:
    """Return the file that a mask on the grid of a scan is, and its record."""
    name = f"{volume_stem(mask_path)}_on_{scan_name(raw_path)}"
    return Outputs(output, f"{name}.json", _MAPPED_BY, [f"{name}.seg.nrrd"])


def files_mapped(mask_path: Path, raw_path: Path, record_path: Path | None) -> list[Path]:
    """Return the files that mapping a mask back reads."""
    record = [] if record_path is None else [record_path]
    return [*files_read_with(mask_path), *files_read_with(raw_path), *record]


@dataclass(frozen=True, eq=False)
class _Placed:
    """A mask and the scan that it lies on, in units that agree.

    `sha256` is the hash of the mask's files, `grid` that of the scan as its file has it, `raw` in true depth. Along its
    axes the mask's run in the order `order`; voxel o of the scan lies at ``starts + steps * o`` in voxels of the mask.
    """

    annotation: Annotation
    sha256: str
    mask: Volume
    grid: Volume
    raw: Volume
    order: tuple[int, ...]
    steps: NDArray[np.float64]
    starts: NDArray[np.float64]


def map_back(
    mask_path: Path,
    job: BackMapping,
    *,
    say: Callable[[str], None],
    on_planes: Callable[[int, int], None] = lambda done, total: None,
    force: bool = False,
) -> tuple[str, str]:
    """Write a mask as a segmentation on the grid of the raw scan.

    Parameters
    ----------
    mask_path : Path
        The mask, as `micronet.io.read_annotation` reads it, of known spacing.
    job : BackMapping
        The settings.
    say, on_planes : callable
        As `micronet.data.prepare.prepare_file`.
    force : bool
        Replace the result when it exists.

    Returns
    -------
    status, message : str

    Raises
    ------
    MicronetError
        For bad input; nothing has been written then.
    """
    outputs = mapped_outputs(mask_path, job.raw_path, job.output)
    target = outputs.paths[0]
    with opened(mask_path) as source, job.scan.open(job.raw_path) as stack:
        record = [] if job.record_path is None else [job.record_path]
        check_outputs([outputs], [*files_of(source), stack.path, *stack.files, *record])
        if target.exists() and not force:
            raise FileError(f"'{target}' exists; {REPLACE}")
        outputs.check_room()
        placed = _placed(source, stack, job, say)
    voxels = _write_mapped(placed, job, outputs, on_planes)
    outputs.finish(_told(mask_path, job, placed))
    _say_volumes(placed, voxels, say)
    say(f"  wrote       {target}")
    return "done", f"{voxels:,} voxels on the grid of {job.raw_path.name}"


def _placed(source: Source, stack: Stack, job: BackMapping, say: Callable[[str], None]) -> _Placed:
    """Read the mask, and find how it lies on the grid of the scan; InputError where it does not."""
    mask_path, raw_path, scan = source.path, job.raw_path, job.scan
    annotation = read_annotation(source, segment=job.segment)
    mask = annotation.mask
    if mask.spacing_um is None:
        raise InputError(f"'{mask_path}' does not state where its voxels lie; save the mask as .seg.nrrd or .nrrd")
    say(f"  mask        {annotation.description}")
    if job.record_path is not None:
        _check_record(job.record_path, raw_path, stack.grid)

    def fits(grid: Volume, mask: Volume) -> bool:
        return covers(scan.true_grid(replace(stack, grid=grid)), mask)

    grid, mask, note = settle_units(stack.grid, mask, str(raw_path), str(mask_path), fits)
    raw = scan.true_grid(replace(stack, grid=grid))
    for one in dict.fromkeys((*mask.notes, *grid.notes, *([note] if note else []))):
        say(f"              note: {one}")
    say(f"  depth       along {scan.depth_axis} {setting('depth_axis')}, refractive index {scan.refractive_index:g}")
    try:
        order, steps, starts = parallel_steps(raw, mask)
    except InputError as error:
        raise InputError(
            f"'{mask_path}' does not fit '{raw_path}': {error}; a mask on the grid of the structural volume is expected"
        ) from error
    say(f"  raw voxels  {' x '.join(f'{step:.4g}' for step in np.abs(steps))} voxels of the mask (Z, Y, X)")
    return _Placed(annotation, source.sha256(files_of(source)), mask, grid, raw, order, steps, starts)


def _write_mapped(placed: _Placed, job: BackMapping, outputs: Outputs, on_planes: Callable[[int, int], None]) -> int:
    """Write the mask on the grid of the scan plane by plane; return how many voxels of it are inside."""
    shape = placed.grid.shape
    voxels = 0

    def planes() -> Iterator[NDArray[np.bool_]]:
        nonlocal voxels
        turned = placed.mask.array.transpose(placed.order)
        found = sample_planes(turned, placed.steps.tolist(), placed.starts.tolist(), shape, linear=job.linear)
        for number, plane in enumerate(found, 1):
            voxels += int(np.count_nonzero(plane))
            yield plane
            on_planes(number, shape[0])

    chosen = placed.annotation.segment or Segment(name="lumen")
    with outputs.staged() as folder:
        write_mask_planes(folder / outputs.paths[0].name, replace(chosen, id=""), planes(), placed.grid)
    return voxels


def _told(mask_path: Path, job: BackMapping, placed: _Placed) -> dict[str, Any]:
    """Return what the record tells."""
    return {
        "mask": {"path": str(mask_path), "sha256": placed.sha256},
        "scan": {"path": str(job.raw_path)} | geometry_record(placed.grid),
        "record": None if job.record_path is None else str(job.record_path),
        "interpolation": "linear" if job.linear else "nearest",
        "versions": versions(),
    }


def _say_volumes(placed: _Placed, voxels: int, say: Callable[[str], None]) -> None:
    before = np.count_nonzero(placed.mask.array) * (placed.mask.voxel_um3 or 0)
    after = voxels * (placed.raw.voxel_um3 or 0)
    say(f"  volume      {before:,.0f} µm³ on the grid of the mask, {after:,.0f} µm³ on that of the scan")
    if before and not after:
        say("  WARNING     nothing of the mask lies within the scan: is it the scan that the mask was made from?")


def _check_record(record_path: Path, raw_path: Path, grid: Volume) -> None:
    """Raise InputError where a scan does not lie where the record says that its scan lies."""
    told, here = (read_record(record_path) or {}).get("raw"), geometry_record(grid)
    told = told if isinstance(told, dict) else {}
    units = told.get("units")
    scale = MICROMETRES_PER.get(units, 1.0) if isinstance(units, str) else 1.0
    scale /= MICROMETRES_PER.get(grid.units, 1.0)
    for key in ("shape_zyx", "directions_zyx", "origin"):
        try:
            said = np.array(told.get(key), float) * (1.0 if key == "shape_zyx" else scale)
            apart = np.abs(said - np.array(here[key], float)).max()
        except (TypeError, ValueError, OverflowError):
            apart = np.inf
        if not apart <= _AGREES * max(1.0, float(np.abs(here[key]).max())):
            raise InputError(
                f"'{raw_path}' is not the scan that '{record_path}' tells of: its {key} is {here[key]}, "
                f"there {told.get(key)}; give its own record {setting('record_path')}"
            )
