"""Teach on a volume itself: paint some strokes or a slice of it, and get the mask of all of it.

python teach.py embryo.nrrd --labels strokes.seg.nrrd         # of 3D Slicer: segments "lumen" and "background"
python teach.py scan.tif --labels labels.tif --spacing 5,2,2  # of napari or Fiji: 1 lumen, 2 background
python teach.py embryo.nrrd --labels strokes.seg.nrrd --classes lumen,wall    # several classes at once
python infer.py other.nrrd --model taught_embryo              # what was taught, on another volume
"""

import argparse
from pathlib import Path

from micronet.app.options import teach_parser
from micronet.app.terminal import run

ROOT = Path(__file__).resolve().parent


def main(arguments: argparse.Namespace) -> int:
    """Teach, segment and write."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.teaching import teach

    return teach(arguments, ROOT)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return teach_parser()


if __name__ == "__main__":
    run(build_parser(), main)
