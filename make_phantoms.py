"""Make simulated OCT volumes with their annotations, and a data set that training takes as it is.

python make_phantoms.py 12 --vary                                       # into phantoms/, of published size
python make_phantoms.py 4 --shape 96,96,96 --seed 100 -o small
python make_phantoms.py 1 --time-points 20 -o beating                   # one beat of a heart
python make_phantoms.py --from-annotation embryo.seg.nrrd -o simulated  # an image over a mask of your own, on its grid
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from micronet.console import run, shape_option, spacing_option, tell
from micronet.errors import InputError
from micronet.phantom import PRESETS
from micronet.phantom_set import PhantomSet, make_set, over_annotations, procedural

FULL_SHAPE, FULL_CROP = (217, 260, 218), 160  # as published


def main(arguments: argparse.Namespace) -> int:
    """Make what is not there yet."""
    masks = arguments.from_annotation
    if arguments.seed < 0 or min(arguments.count, arguments.time_points) < 1:
        raise InputError("N and --time-points must be at least 1, --seed at least 0")
    if masks and (arguments.shape is not None or arguments.time_points > 1):
        raise InputError("--shape and --time-points are for procedural phantoms: an annotation has its own grid")
    if not masks and (arguments.segment is not None or arguments.spacing_um is not None):
        raise InputError("--segment and --spacing are for --from-annotation")
    if arguments.shape is None and not masks:
        arguments.y_crop = arguments.y_crop or FULL_CROP
    arguments.shape = arguments.shape or FULL_SHAPE
    splits = {"validation": arguments.validation, "test": arguments.test}
    if masks:
        subjects = over_annotations(masks, arguments.count, arguments.seed, **splits)
    else:
        subjects = procedural(arguments.count, arguments.seed, time_points=arguments.time_points, **splits)
    job = PhantomSet(**{name: getattr(arguments, name) for name in PhantomSet.__dataclass_fields__})
    with tqdm(total=len(subjects), leave=False, disable=None, unit="phantom") as bar:
        made, found = make_set(subjects, job, say=tell, on_phantom=bar.update, force=arguments.force)
    there = f", {found} there already (--force repeats them)" if found else ""
    tell(f"{made} made{there}. Train on them: python train_micronet.py --dataset {job.dataset}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(description="Make simulated OCT volumes with annotations, and a data set of them.")
    p.add_argument("count", nargs="?", type=int, default=1, metavar="N", help="how many; over a mask, images of each")
    p.add_argument("-o", "--output", type=Path, default=Path("phantoms"), metavar="DIR", help="default: phantoms")
    p.add_argument("--seed", type=int, default=1, metavar="S", help="phantom k has the seed S + k - 1 (%(default)s)")
    p.add_argument("--shape", type=shape_option, metavar="Z,Y,X", help="voxels of 4.5 µm (default: 217,260,218)")
    p.add_argument("--y-crop", type=int, metavar="N", help="lumens and training end at this depth (Y); full size: 160")
    p.add_argument("--vary", action="store_true", help="other optics for each seed, for training")
    p.add_argument("--preset", choices=sorted(PRESETS), default="oct", help="the optics (default: %(default)s)")
    p.add_argument("--time-points", type=int, default=1, metavar="T", help="one heart beat in T volumes each")
    p.add_argument("--from-annotation", type=Path, nargs="+", metavar="FILE", help="images over these masks instead")
    p.add_argument("--segment", metavar="NAME|INDEX", help="which segment of a .seg.nrrd mask is the lumen")
    p.add_argument("--spacing", dest="spacing_um", type=spacing_option, metavar="Z,Y,X", help="of the mask, in µm")
    p.add_argument("--validation", type=int, metavar="N", help="anatomies for validation (1, if there are two)")
    p.add_argument("--test", type=int, metavar="N", help="anatomies for test (1, if there are three)")
    p.add_argument("--hdf5", action="store_true", help="write phantoms.h5 too: groups data and label; needs h5py")
    p.add_argument("--force", action="store_true", help="make again what is there, and replace it")
    p.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")
    return p


if __name__ == "__main__":
    run(build_parser(), main)
