"""Segment lumens in 3-D volumes on a CPU.

python infer.py                                              # the bundled demo
python infer.py embryo.nrrd --model ur-net_b0.5_1200         # one volume, published weights
python infer.py scans/ -o masks --until-stable               # every volume of a folder
python infer.py stack.npy --axes YZX --spacing 5,2,2         # a file that does not say its axes or spacing
python infer.py beat.tif --time-lapse                        # every time point of a 4-D file, or of several files
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from micronet.app.batch import run_batch
from micronet.app.option_types import (
    Real,
    Sizes,
    Whole,
    axes_option,
    bytes_option,
    device_option,
    dtype_option,
    path_option,
    spacing_option,
    text_option,
)
from micronet.app.terminal import add_common_options, inputs_from, run, set_engine, set_threads, tell
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.ram import SHARE
from micronet.io.mesh import MESH_FORMATS
from micronet.networks.weights import find_weights
from micronet.segment.job import Job, Weights, check_results, check_stems, segment_file
from micronet.segment.time_lapse import Start, TimeLapseRun, open_time_lapse

ROOT = Path(__file__).resolve().parent
DEMO = ROOT / "struct_iso" / "E5D_phantom_demo.nrrd"
RAM_HELP = f"memory to take at most, such as 3GB (default: {100 * SHARE:.0f} %% of what is free)"
DEMO_ANNOTATION = ROOT / "annotations" / "annotation_phantom_demo_iso_full.seg.nrrd"


def main(arguments: argparse.Namespace) -> int:
    """Segment each input in turn; a bad one never stops the others."""
    demo = not arguments.inputs
    paths = [DEMO] if demo else inputs_from(arguments.inputs, raw=arguments.shape is not None)
    if demo and arguments.annotation is None:
        arguments.annotation = DEMO_ANNOTATION
    start = start_option(arguments)
    if len(paths) > 1 and (arguments.annotation or (arguments.initial_mask and not arguments.time_lapse)):
        raise InputError(f"--annotation and --initial-mask go with one input, found {len(paths)}")
    for note in check_stems(paths):
        tell(f"note: {note}")
    job = Job(**{name: getattr(arguments, name) for name in Job.__dataclass_fields__})
    threads = set_threads(arguments.threads)
    weights_path = find_weights(arguments.model, [Path("checkpoints"), Path("trained_models"), ROOT / "trained_models"])
    if not arguments.time_lapse:
        check_results(paths, weights_path, job)
    weights = Weights.load(weights_path, arguments.device, say=tell)
    computes = set_engine(arguments.engine, weights.network, device=arguments.device)
    tell(f"weights {weights.path} ({weights.network.name}); {computes}, {arguments.device}, {threads} threads")

    if arguments.time_lapse:
        return time_lapse(paths, weights, job, start, arguments)

    def segment(path: Path) -> Outcome:
        with tqdm(total=weights.passes(job), leave=False, disable=None, unit="pass") as bar:
            return segment_file(
                path, weights, job, say=tell, on_iteration=lambda _: bar.update(), force=arguments.force or demo
            )

    code = run_batch(paths, segment, lambda path: path, debug=arguments.debug)
    if demo:
        tell(f"The files are in {job.output.resolve()}: drag the volume and the .seg.nrrd into 3D Slicer,")
        tell("or open the preview. Your own volume: python infer.py FILE (python infer.py --help shows more).")
    return code


def start_option(arguments: argparse.Namespace) -> Start:
    """Return where the time points start, and leave in --initial-mask only a file."""
    word = str(arguments.initial_mask)
    if word in ("previous", "blank"):
        if not arguments.time_lapse:
            raise InputError(f"--initial-mask {word} goes with --time-lapse; a file of that name is ./{word}")
        arguments.initial_mask = None
    if not arguments.time_lapse and arguments.interval is not None:
        raise InputError("--interval goes with --time-lapse")
    if arguments.time_lapse and not arguments.inputs:
        raise InputError("--time-lapse needs an INPUT: a 4-D file, or the files of the time points in their order")
    return "blank" if word == "blank" else "previous"


def time_lapse(paths: list[Path], weights: Weights, job: Job, start: Start, arguments: argparse.Namespace) -> int:
    """Segment the time points of a recording in turn."""
    with open_time_lapse(paths, job, interval_s=arguments.interval) as lapse:
        tell(f"{len(lapse.paths)} time points, '{lapse.paths[0].name}' to '{lapse.paths[-1].name}'")
        with tqdm(total=weights.passes(job) * len(lapse.paths), leave=False, disable=None, unit="pass") as bar:
            run = TimeLapseRun(
                lapse, weights, job, start=start, say=tell, on_iteration=lambda _: bar.update(), force=arguments.force
            )
            points = range(len(lapse.paths))
            code = run_batch(points, run.segment, lambda number: Path(lapse.stems[number]), debug=arguments.debug)
            run.finish()
    return code


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description="Segment lumens in 3-D volumes; with no INPUT, the bundled demo.")
    p.add_argument("inputs", nargs="*", type=path_option, metavar="INPUT", help="volumes, or folders of volumes")
    p.add_argument(
        "-o", "--output", type=path_option, default=Path("predictions"), metavar="DIR", help="default: predictions"
    )
    p.add_argument(
        "--model",
        type=text_option,
        default="ur-net_phantom",
        metavar="NAME|PATH",
        help="weights (default: %(default)s)",
    )
    p.add_argument("--iterations", type=Whole(1, 1_000_000), metavar="N", help="refinements of a µr-Net (default: 10)")
    p.add_argument("--until-stable", action="store_true", help="refine until nothing changes (100 times at most)")
    p.add_argument(
        "--initial-mask",
        type=path_option,
        metavar="FILE|previous|blank",
        help="start from this mask instead of a blank one; with --time-lapse from the last one's (default) or blank",
    )
    p.add_argument(
        "--threshold",
        type=Real(0, 1, below=True),
        default=0.5,
        metavar="P",
        help="lumen is above it (default: %(default)s)",
    )
    p.add_argument(
        "--y-crop", type=Whole(1, 1_000_000), metavar="N", help="look only at the first N voxels in depth (Y)"
    )
    p.add_argument("--intensity", choices=("as stored", "log"), default="as stored", help="log: of linear intensities")
    p.add_argument("--axes", type=axes_option, metavar="ZYX", help="order of the axes, where the file does not say")
    p.add_argument("--spacing", dest="spacing_um", type=spacing_option, metavar="Z,Y,X", help="voxel size in µm")
    p.add_argument("--shape", type=Sizes((3, 4)), metavar="A,B,C", help="sizes of a headerless .raw, slowest first")
    p.add_argument(
        "--dtype", type=dtype_option, metavar="TYPE", help="number type of a headerless .raw, such as uint16"
    )
    p.add_argument(
        "--segment", type=text_option, metavar="NAME|INDEX", help="which segment of a .seg.nrrd mask to take"
    )
    p.add_argument("--annotation", type=path_option, metavar="FILE", help="true mask to score the result against")
    p.add_argument("--report", action="store_true", help="write a page too, with slices to scroll through (HTML)")
    p.add_argument("--mesh", choices=MESH_FORMATS, help="write the surface of the lumen too, in µm")
    p.add_argument(
        "--measures", action="store_true", help="write tables too: vessels, and their centrelines with radii"
    )
    p.add_argument("--time-lapse", action="store_true", help="INPUT is a 4-D file, or the time points in their order")
    p.add_argument("--interval", type=Real(1e-6, 1e9), metavar="SECONDS", help="from one time point to the next")
    p.add_argument("--label-tiff", action="store_true", help="write the mask as a TIFF for Fiji as well")
    p.add_argument("--device", type=device_option, default="cpu", help="cpu (default) or cuda")
    p.add_argument("--max-ram", type=bytes_option, metavar="SIZE", help=RAM_HELP)
    p.add_argument("--force", action="store_true", help="do again what was done, and replace it")
    add_common_options(p)
    return p


if __name__ == "__main__":
    run(build_parser(), main)
