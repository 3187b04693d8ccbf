"""Make simulated images with their annotations, OCT if no other kind is asked for, and a data set of them for training.

python make_phantoms.py 12 --vary                                       # into phantoms/, of published size
python make_phantoms.py 4 --shape 96,96,96 --seed 100 -o small
python make_phantoms.py 1 --time-points 20 -o beating                   # one beat of a heart
python make_phantoms.py --from-annotation embryo.seg.nrrd -o simulated  # an image over a mask of your own, on its grid
python make_phantoms.py 40 --kind shapes -o shapes                      # 2-D, three classes
python make_phantoms.py 6 --kind optic-lobe -o lobes                    # columns of neurites, as two photons show them
"""

import argparse

from micronet.app.options import make_phantoms_parser
from micronet.app.terminal import run


def main(arguments: argparse.Namespace) -> int:
    """Make what is not there yet."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.phantoms import make_phantoms

    return make_phantoms(arguments)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return make_phantoms_parser()


if __name__ == "__main__":
    run(build_parser(), main)
