"""Make structural volumes of raw scans: logarithm, isotropic voxels, 8 bits; and map finished masks back.

python prepare.py scan.tif --domain intensity --spacing 2,1.9,2 --refractive-index 1.38
python prepare.py bscans/ --domain db --spacing 8,1.9,4                     # a folder of B-scans (TIFF, PNG)
python prepare.py scan.raw --shape 400,512,500 --dtype ">u2" --spacing 2,1.9,2 --domain amplitude
python prepare.py predictions/scan.seg.nrrd --back-to scan.tif              # the mask on the raw grid
"""

import argparse

from micronet.app.options import prepare_parser
from micronet.app.terminal import run


def main(arguments: argparse.Namespace) -> int:
    """Prepare each scan, or map each mask back; a bad one never stops the others."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.preparing import prepare

    return prepare(arguments)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return prepare_parser()


if __name__ == "__main__":
    run(build_parser(), main)
