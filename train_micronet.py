"""Train µ-Net at a prompt that loses nothing.

python train_micronet.py                                     # a prompt; help lists its commands
python train_micronet.py --run "123; val; finish"            # without one, with the published number of epochs
python train_micronet.py --dataset mine.toml                 # on your own volumes: see datasets/README.md
python train_micronet.py --resume                            # go on with what was interrupted
"""

import argparse
from pathlib import Path

from micronet.app.options import training_parser
from micronet.app.terminal import run

ROOT = Path(__file__).resolve().parent


def main(arguments: argparse.Namespace) -> int:
    """Run a session."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.launch import train

    return train("u-net", arguments, ROOT)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return training_parser("u-net")


if __name__ == "__main__":
    run(build_parser(), main)
