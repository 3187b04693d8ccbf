"""Segment lumens in 3-D volumes on a CPU.

python infer.py                                              # the bundled demo
python infer.py embryo.nrrd --model ur-net_b0.5_1200         # one volume, published weights
python infer.py scans/ -o masks --until-stable               # every volume of a folder
python infer.py stack.npy --axes YZX --spacing 5,2,2         # a file that does not say its axes or spacing
python infer.py beat.tif --time-lapse                        # every time point of a 4-D file, or of several files
python infer.py embryo.nrrd --model lumen=A --model wall=B   # several segments in one file, a network each
python infer.py embryo.nrrd --keep edited.seg.nrrd -o kept   # an edited mask: what you checked stays as it is
"""

import argparse
from pathlib import Path

from micronet.app.options import infer_parser
from micronet.app.terminal import run

ROOT = Path(__file__).resolve().parent


def main(arguments: argparse.Namespace) -> int:
    """Segment each input in turn; a bad one never stops the others."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.segmenting import segment_inputs

    return segment_inputs(arguments, ROOT)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return infer_parser()


if __name__ == "__main__":
    run(build_parser(), main)
