"""The files that a person means by what they typed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from micronet.app.terminal import tell
from micronet.core.errors import FileError, InputError
from micronet.core.names import listed
from micronet.io import VOLUME_SUFFIXES, is_png_path, is_volume_path
from micronet.io.bscans import natural_order
from micronet.io.checks import is_store, missing
from micronet.io.volume_names import is_result
from micronet.report.wish import FigureWish

__all__ = ["check_only", "figure_wish", "inputs_from"]


def inputs_from(paths: Sequence[Path], *, raw: bool, flat: bool = False) -> list[Path]:
    """Return the files named, and for each folder the volumes in it, in the order of the numbers in their names.

    The folder of an OME-Zarr (.zarr) is a volume itself. Segmentations (.seg.nrrd) and what our scripts found before
    are no inputs, which a line says; headerless files are only with `raw`. Where 2-D images are taken (`flat`) PNG are
    inputs too. FileError when a folder holds none.
    """
    files: list[Path] = []
    check_only(paths, "INPUT")
    for path in paths:
        if not path.is_dir() or is_store(path):
            files.append(path)
            continue
        found = [
            file
            for file in sorted(path.iterdir(), key=natural_order)
            if (is_volume_path(file) and (raw or file.suffix != ".raw")) or (flat and is_png_path(file))
        ]
        results = [file for file in found if is_result(file)]
        if not found:
            kinds = ", ".join([*VOLUME_SUFFIXES, *([".png"] if flat else [])])
            raise FileError(f"'{path}' is a folder without volumes ({kinds})")
        if len(results) == len(found):
            raise FileError(f"'{path}' is a folder of results, with no volume to segment ({listed(_names(results))})")
        if results:
            tell(f"note: {len(results)} results of ours in '{path}' are left: {listed(_names(results))}")
        files += [file for file in found if file not in results]
    return files


def check_only(paths: Sequence[Path], role: str) -> None:
    """Raise FileError, which says what it is for, where the only file named is not there; one of several is told."""
    if len(paths) == 1 and not os.path.exists(paths[0]):
        raise FileError(f"{missing(paths[0])} ({role})")


def _names(files: Sequence[Path]) -> list[str]:
    return [file.name for file in files]


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
