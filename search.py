"""Search for the settings that train a network best on a data set. Needs Optuna: pip install optuna.

python search.py --dataset datasets/mine.toml --network u-net                  # 100 trials of 30 epochs
python search.py --dataset datasets/mine.toml --network u-net --trials 200     # goes on: 100 more

The same command may run several times at once, also on several machines that share the folder: they share the trials.
One that was stopped or killed goes on when it is given again.
"""

import argparse

from micronet.app.options import search_parser
from micronet.app.terminal import run


def main(arguments: argparse.Namespace) -> int:
    """Do what is left of the trials, and tell the best settings."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.searching import search

    return search(arguments)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return search_parser()


if __name__ == "__main__":
    run(build_parser(), main)
