"""What ``new_dataset.py`` does: the data-set file of a folder, and whether one can train on it as it is."""

from __future__ import annotations

import argparse

from micronet.app.terminal import tell
from micronet.data.dataset import DataSetError, check_dataset
from micronet.data.new_dataset import write_new_dataset

__all__ = ["new_dataset"]


def new_dataset(arguments: argparse.Namespace) -> int:
    """Write it, read each volume once, say what was found. Returns the exit code: 2 where something is to be mended."""
    path = write_new_dataset(arguments.folder, tell)
    try:
        flat = check_dataset(path)
    except DataSetError as error:
        tell(f"{error}\nmend that, and train then: python train_micronet.py --dataset {path}")
        return 2
    if flat:
        tell("every annotation lies on its image")
        tell(f"train: python train_network.py --network unet --dimensions 2 --dataset {path}")
        return 0
    tell("every annotation lies on its image; intensities are taken as stored, which should be logarithms:")
    tell(f'where yours are linear, set intensity = "log" in {path}')
    tell(f"train: python train_micronet.py --dataset {path}")
    return 0
