"""Score predicted masks against annotations: overlap, centrelines, topology, surface distances.

python evaluate.py predictions/embryo.seg.nrrd --annotation embryo_true.seg.nrrd
python evaluate.py predictions/ --annotation annotations/               # files of the same volume are put together
python evaluate.py predictions/ --annotation annotations/ --sweep       # probabilities: precision-recall curves too
python evaluate.py predictions/ --annotation annotations/ --report --image struct_iso/      # a page to look at
"""

import argparse

from micronet.app.options import evaluate_parser
from micronet.app.terminal import run


def main(arguments: argparse.Namespace) -> int:
    """Score each pair; a bad one never stops the others."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.evaluating import evaluate

    return evaluate(arguments)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return evaluate_parser()


if __name__ == "__main__":
    run(build_parser(), main)
