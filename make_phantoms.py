"""Make simulated OCT volumes with their annotations, and a data set that training takes as it is.

python make_phantoms.py 12 --vary                                       # into phantoms/, of published size
python make_phantoms.py 4 --shape 96,96,96 --seed 100 -o small
python make_phantoms.py 1 --time-points 20 -o beating                   # one beat of a heart
python make_phantoms.py --from-annotation embryo.seg.nrrd -o simulated  # an image over a mask of your own, on its grid
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from micronet.app.batch import run_batch
from micronet.app.option_types import Sizes, Whole, path_option, spacing_option, text_option
from micronet.app.terminal import run, tell
from micronet.core.errors import InputError
from micronet.core.outcome import Outcome
from micronet.core.ram import available_memory
from micronet.data.phantom import PRESETS
from micronet.data.phantom_set import PhantomSet, Subject, make_set, over_annotations, procedural

FULL_SHAPE, FULL_CROP = (217, 260, 218), 160  # as published
MOST = 10_000  # phantoms of a set: its data-set file stays one that is read
BYTES = 40  # of memory a voxel takes: 32 were measured


def main(arguments: argparse.Namespace) -> int:
    """Make what is not there yet."""
    masks = arguments.from_annotation
    total = arguments.count * arguments.time_points * len(masks or [None])
    if total > MOST:
        raise InputError(f"{total:,} phantoms: a set has {MOST:,} at most; make several with -o DIR and --seed")
    if masks and (arguments.shape is not None or arguments.time_points > 1):
        raise InputError("--shape and --time-points are for procedural phantoms: an annotation has its own grid")
    if not masks and (arguments.segment is not None or arguments.spacing_um is not None):
        raise InputError("--segment and --spacing are for --from-annotation")
    if arguments.shape is None and not masks:
        arguments.y_crop = arguments.y_crop or FULL_CROP
    arguments.shape = arguments.shape or FULL_SHAPE
    needed, free = BYTES * math.prod(arguments.shape), available_memory()
    if not masks and free is not None and needed > free:
        raise InputError(f"--shape: about {needed / 1e9:.3g} GB of memory needed, {free / 1e9:.3g} GB are available")
    splits = {"validation": arguments.validation, "test": arguments.test}
    if masks:
        subjects = over_annotations(masks, arguments.count, arguments.seed, **splits)
    else:
        subjects = procedural(arguments.count, arguments.seed, time_points=arguments.time_points, **splits)
    job = PhantomSet(**{name: getattr(arguments, name) for name in PhantomSet.__dataclass_fields__})

    def each(subjects: Sequence[Subject], make: Callable[[Subject], Outcome]) -> int:
        return run_batch(subjects, make, lambda subject: job.image(subject.name), debug=arguments.debug)

    code, made, found = make_set(subjects, job, say=tell, each=each, force=arguments.force)
    if code:
        tell(f"{job.dataset} is not written before all of them are made: the same command makes what is missing")
        return code
    there = f", {found} there already (--force repeats them)" if found else ""
    tell(f"{made} made{there}. Train on them: python train_micronet.py --dataset {job.dataset}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description="Make simulated OCT volumes with annotations, and a data set of them.")
    p.add_argument(
        "count", nargs="?", type=Whole(1, MOST), default=1, metavar="N", help="how many; over a mask, images of each"
    )
    p.add_argument(
        "-o", "--output", type=path_option, default=Path("phantoms"), metavar="DIR", help="default: phantoms"
    )
    p.add_argument(
        "--seed",
        type=Whole(0, 2**31 - 1),
        default=1,
        metavar="S",
        help="phantom k has the seed S + k - 1 (%(default)s)",
    )
    p.add_argument("--shape", type=Sizes((3,)), metavar="Z,Y,X", help="voxels of 4.5 µm (default: 217,260,218)")
    p.add_argument(
        "--y-crop",
        type=Whole(1, 1_000_000),
        metavar="N",
        help="lumens and training end at this depth (Y); full size: 160",
    )
    p.add_argument("--vary", action="store_true", help="other optics for each seed, for training")
    p.add_argument("--preset", choices=sorted(PRESETS), default="oct", help="the optics (default: %(default)s)")
    p.add_argument(
        "--time-points", type=Whole(1, MOST), default=1, metavar="T", help="one heart beat in T volumes each"
    )
    p.add_argument(
        "--from-annotation", type=path_option, nargs="+", metavar="FILE", help="images over these masks instead"
    )
    p.add_argument(
        "--segment", type=text_option, metavar="NAME|INDEX", help="which segment of a .seg.nrrd mask is the lumen"
    )
    p.add_argument("--spacing", dest="spacing_um", type=spacing_option, metavar="Z,Y,X", help="of the mask, in µm")
    p.add_argument(
        "--validation", type=Whole(0, MOST), metavar="N", help="anatomies for validation (1, if there are two)"
    )
    p.add_argument("--test", type=Whole(0, MOST), metavar="N", help="anatomies for test (1, if there are three)")
    p.add_argument("--hdf5", action="store_true", help="write phantoms.h5 too: groups data and label; needs h5py")
    p.add_argument("--force", action="store_true", help="make again what is there, and replace it")
    p.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return p


if __name__ == "__main__":
    run(build_parser(), main)
