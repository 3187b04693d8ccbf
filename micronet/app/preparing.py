"""What ``prepare.py`` does: scans become structural volumes, or finished masks go back to the grid of their scan."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from micronet.app.batch import run_batch
from micronet.app.inputs import check_only
from micronet.app.options import settings_of
from micronet.app.terminal import tell
from micronet.core.names import check_apart
from micronet.core.outcome import Outcome
from micronet.core.ownership import check_outputs
from micronet.data.map_back import BackMapping, files_mapped, find_record, map_back, mapped_outputs, scan_of
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan
from micronet.io import files_read_with
from micronet.io.sidecar import scan_name

__all__ = ["prepare"]

_STRUCTURAL = Path("struct_iso")
# Gets a file and whom to tell of planes done and planes in all; returns status and message.
_Job = Callable[[Path, Callable[[int, int], None]], tuple[str, str]]


def prepare(arguments: argparse.Namespace) -> int:
    """Prepare each scan, or map each mask back; a bad one never stops the others. Returns the exit code."""
    check_only(arguments.inputs, "INPUT")
    for note in check_apart((scan_name(path), path) for path in arguments.inputs):
        tell(f"note: {note}")
    scan = settings_of(RawScan, arguments)
    job = _mapping(scan, arguments) if arguments.back_to else _preparation(scan, arguments)

    def work(path: Path) -> Outcome:
        with tqdm(leave=False, disable=None, unit="plane") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return Outcome(path, *job(path, progress))

    return run_batch(arguments.inputs, work, lambda path: path, debug=arguments.debug)


def _preparation(scan: RawScan, arguments: argparse.Namespace) -> _Job:
    """Return what makes a structural volume; refuse what would replace anything but our own earlier results."""
    settings = settings_of(Preparation, arguments, scan=scan, output=arguments.output or _STRUCTURAL)
    check_outputs(
        [settings.outputs(scan_name(path)) for path in arguments.inputs],
        [file for path in arguments.inputs for file in files_read_with(path)],
    )
    return lambda path, progress: prepare_file(path, settings, say=tell, on_planes=progress, force=arguments.force)


def _mapping(scan: RawScan, arguments: argparse.Namespace) -> _Job:
    """Return what maps a mask back to its scan; refuse as `_preparation` does."""
    raw = arguments.back_to
    check_outputs(
        [mapped_outputs(path, raw, arguments.output or path.parent) for path in arguments.inputs],
        [file for path in arguments.inputs for file in files_mapped(path, raw, arguments.record)],
    )

    def back(path: Path, progress: Callable[[int, int], None]) -> tuple[str, str]:
        record = arguments.record or find_record(path, raw, [path.parent, _STRUCTURAL, raw.parent])
        if record is None:
            where = "the mask's folder, struct_iso/ and the scan's"
            tell(f"  record      none found in {where}: the options tell of the scan")
        else:
            tell(f"  record      {record}")
        settings = BackMapping(
            raw,
            scan if record is None else scan_of(record, scan),
            arguments.output or path.parent,
            segment=arguments.segment,
            linear=arguments.interpolation == "linear",
            record_path=record,
        )
        return map_back(path, settings, say=tell, on_planes=progress, force=arguments.force)

    return back
