"""The files that a person means by what they typed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from micronet.core.errors import FileError, InputError
from micronet.io import VOLUME_SUFFIXES, is_volume_path
from micronet.io.bscans import natural_order
from micronet.report.wish import FigureWish

__all__ = ["figure_wish", "inputs_from"]


def inputs_from(paths: Sequence[Path], *, raw: bool) -> list[Path]:
    """Return the files named, and for each folder the volumes in it, in the order of the numbers in their names.

    Segmentations (.seg.nrrd), our own probabilities and label TIFFs are no inputs, headerless files only with `raw`.
    FileError when a folder holds no volume.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = [
            file
            for file in sorted(path.iterdir(), key=natural_order)
            if is_volume_path(file)
            and not file.name.endswith((".seg.nrrd", "_probability.nrrd", "_labels.tif"))
            and (raw or file.suffix != ".raw")
        ]
        if not found:
            raise FileError(f"'{path}' is a folder without volumes ({', '.join(VOLUME_SUFFIXES)})")
        files += found
    return files


def figure_wish(arguments: argparse.Namespace) -> FigureWish | None:
    """Return the figure that is asked for; InputError where only its details are."""
    chosen = {"panel": arguments.panel, "slice": arguments.slice, "crop": arguments.crop}
    chosen = {name: value for name, value in chosen.items() if value}
    if arguments.figure is None:
        if chosen:
            raise InputError(f"--{next(iter(chosen))} is for --figure FILE: add it")
        return None
    wishes = {name: value if name == "panel" else tuple(value) for name, value in chosen.items()}
    return FigureWish.of(arguments.figure, arguments.output, **wishes)
