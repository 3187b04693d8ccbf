"""Train µr-Net at a prompt that loses nothing.

python train_micrornet.py                                    # a prompt: load bootstrap, then 159 4
python train_micrornet.py --run "load bootstrap; 159 4; rp 0.5; 23 4; test; finish"    # as published
python train_micrornet.py --dataset mine.toml                # on your own volumes: see datasets/README.md
python train_micrornet.py --resume                           # go on with what was interrupted
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

    return train("ur-net", arguments, ROOT)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return training_parser("ur-net")


if __name__ == "__main__":
    run(build_parser(), main)
