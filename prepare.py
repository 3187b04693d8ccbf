"""Make structural volumes of raw scans: logarithm, isotropic voxels, 8 bits; and map finished masks back.

python prepare.py scan.tif --domain intensity --spacing 2,1.9,2 --refractive-index 1.38
python prepare.py bscans/ --domain db --spacing 8,1.9,4                     # a folder of B-scans (TIFF, PNG)
python prepare.py scan.raw --shape 400,512,500 --dtype ">u2" --spacing 2,1.9,2 --domain amplitude
python prepare.py predictions/scan.seg.nrrd --back-to scan.tif              # the mask on the raw grid
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from micronet.app.batch import run_batch
from micronet.app.option_types import Real, Sizes, axes_option, dtype_option, path_option, spacing_option, text_option
from micronet.app.terminal import run, tell
from micronet.core.names import check_apart
from micronet.core.outcome import Outcome
from micronet.core.ownership import check_outputs
from micronet.data.intensity import AVERAGES, DOMAINS
from micronet.data.map_back import BackMapping, files_mapped, find_record, map_back, mapped_outputs, scan_of
from micronet.data.prepare import Preparation, prepare_file
from micronet.data.scan import RawScan
from micronet.io import files_read_with
from micronet.io.sidecar import scan_name

STRUCTURAL = Path("struct_iso")


def main(arguments: argparse.Namespace) -> int:
    """Prepare each scan, or map each mask back; a bad one never stops the others."""
    for note in check_apart((scan_name(path), path) for path in arguments.inputs):
        tell(f"note: {note}")
    scan = RawScan(**{name: getattr(arguments, name) for name in RawScan.__dataclass_fields__})
    check(scan, arguments)

    def work(path: Path) -> Outcome:
        with tqdm(leave=False, disable=None, unit="plane") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            job = _back if arguments.back_to else _prepare
            return Outcome(path, *job(path, scan, arguments, say=tell, on_planes=progress))

    return run_batch(arguments.inputs, work, lambda path: path, debug=arguments.debug)


def check(scan: RawScan, arguments: argparse.Namespace) -> None:
    """Refuse, before anything is computed, what would replace anything but our own earlier results."""
    inputs, raw = arguments.inputs, arguments.back_to
    if raw is None:
        job = _preparation(scan, arguments)
        check_outputs(
            [job.outputs(scan_name(path)) for path in inputs],
            [file for path in inputs for file in files_read_with(path)],
        )
        return
    check_outputs(
        [mapped_outputs(path, raw, arguments.output or path.parent) for path in inputs],
        [file for path in inputs for file in files_mapped(path, raw, arguments.record)],
    )


def _preparation(scan, arguments):
    settings = {name: getattr(arguments, name) for name in ("domain", "average", "iso_um", "noise_floor")}
    return Preparation(scan, output=arguments.output or STRUCTURAL, **settings)


def _prepare(path, scan, arguments, **callbacks):
    return prepare_file(path, _preparation(scan, arguments), force=arguments.force, **callbacks)


def _back(path, scan, arguments, say, on_planes):
    raw = arguments.back_to
    record = arguments.record or find_record(path, raw, [path.parent, STRUCTURAL, raw.parent])
    if record is None:
        say("  record      none found in the mask's folder, struct_iso/ and the scan's: the options tell of the scan")
    else:
        say(f"  record      {record}")
        scan = scan_of(record, scan)
    job = BackMapping(
        raw,
        scan,
        arguments.output or path.parent,
        segment=arguments.segment,
        linear=arguments.interpolation == "linear",
        record_path=record,
    )
    return map_back(path, job, say=say, on_planes=on_planes, force=arguments.force)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description="Make structural volumes of raw scans, or map finished masks back to them.")
    p.add_argument("inputs", nargs="+", type=path_option, metavar="INPUT", help="scans or folders of B-scans; or masks")
    p.add_argument(
        "-o", "--output", type=path_option, metavar="DIR", help="default: struct_iso; of a mask, its own folder"
    )
    p.add_argument("--domain", choices=DOMAINS, help="what the numbers of the scan are; log is never taken twice")
    p.add_argument("--average", choices=AVERAGES, default="log", help="what is averaged (default: %(default)s)")
    p.add_argument(
        "--iso", dest="iso_um", type=Real(1e-3, 1e6), default=4.5, metavar="UM", help="new voxel size (%(default)s)"
    )
    p.add_argument(
        "--noise-floor", type=Real(-1e30, 1e30), metavar="N", help="in the scan's own numbers (default: measured)"
    )
    p.add_argument("--depth-axis", choices=("Z", "Y", "X"), default="Y", help="where light travels (%(default)s)")
    p.add_argument(
        "--refractive-index",
        type=Real(1, 5, below=True),
        default=1.0,
        metavar="N",
        help="of the sample, such as 1.38 (1)",
    )
    p.add_argument(
        "--axes", type=axes_option, metavar="ZYX", help="order of the axes, slowest first, where the file does not say"
    )
    p.add_argument("--spacing", dest="spacing_um", type=spacing_option, metavar="Z,Y,X", help="raw voxel size in µm")
    p.add_argument("--shape", type=Sizes((3,)), metavar="A,B,C", help="sizes of a headerless .raw, slowest first")
    p.add_argument(
        "--dtype",
        type=dtype_option,
        metavar="TYPE",
        help="number type of a headerless .raw, such as uint16; >u2 is big-endian",
    )
    p.add_argument(
        "--back-to", type=path_option, metavar="RAW", help="INPUT are masks: write them on the grid of this scan"
    )
    p.add_argument(
        "--record", type=path_option, metavar="JSON", help="what prepare.py wrote of RAW (default: looked for)"
    )
    p.add_argument("--segment", type=text_option, metavar="NAME|INDEX", help="which segment of a .seg.nrrd to map back")
    p.add_argument("--interpolation", choices=("linear", "nearest"), default="linear", help="of masks (%(default)s)")
    p.add_argument("--force", action="store_true", help="do again what was done, and replace it")
    p.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return p


if __name__ == "__main__":
    run(build_parser(), main)
