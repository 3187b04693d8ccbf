"""Train a larger network (U-Net, V-Net, stacked hourglass, MICRA-Net) on data sets, and at the prompt, of the µ-Nets.

python train_network.py --network unet --dataset mine.toml --run "30; val; finish"
python train_network.py --network hourglass --num-stacks 2 --dataset mine.toml      # a prompt; help lists its commands
python train_network.py --network unet --dimensions 2 --dataset images.toml         # slices, PNG, TIFF
python train_network.py --network micranet --dimensions 2 --dataset images.toml     # a yes or no for each image
python train_network.py --network unet --resume                                     # go on with what was interrupted
"""

import argparse
from pathlib import Path

from micronet.app.options import network_parser
from micronet.app.terminal import run

ROOT = Path(__file__).resolve().parent


def main(arguments: argparse.Namespace) -> int:
    """Run a session."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.launch import train

    return train(arguments.network, arguments, ROOT)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return network_parser()


if __name__ == "__main__":
    run(build_parser(), main)
