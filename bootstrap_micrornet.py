"""Make a µr-Net that starts where a µ-Net ended.

python bootstrap_micrornet.py                                # published µ-Net if it is there, else the bundled one
python bootstrap_micrornet.py checkpoints/u-net_dice_1600.pt checkpoints/ur-net_mine.pt
"""

import argparse
from pathlib import Path

from micronet.app.options import bootstrap_parser
from micronet.app.terminal import run

ROOT = Path(__file__).resolve().parent
PUBLISHED = ROOT / "trained_models" / "u-net_1600.pt"
BUNDLED = ROOT / "trained_models" / "u-net_phantom.pt"


def main(arguments: argparse.Namespace) -> int:
    """Read, bootstrap, write, say so."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.bootstrapping import bootstrap_weights

    return bootstrap_weights(arguments.input or (PUBLISHED if PUBLISHED.is_file() else BUNDLED), arguments)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return bootstrap_parser()


if __name__ == "__main__":
    run(build_parser(), main)
