"""The files that a person means by what they typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from micronet.core.errors import FileError
from micronet.io import VOLUME_SUFFIXES, is_volume_path
from micronet.io.bscans import natural_order
from micronet.io.checks import is_store

__all__ = ["inputs_from"]


def inputs_from(paths: Sequence[Path], *, raw: bool) -> list[Path]:
    """Return the files named, and for each folder the volumes in it, in the order of the numbers in their names.

    The folder of an OME-Zarr (.zarr) is a volume itself.

    Segmentations (.seg.nrrd), our own probabilities and label TIFFs are no inputs, headerless files only with `raw`.
    FileError when a folder holds no volume.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir() or is_store(path):
            files.append(path)
            continue
        found = [
            file
            for file in sorted(path.iterdir(), key=natural_order)
            if is_volume_path(file)
            and not file.name.endswith((".seg.nrrd", "_probability.nrrd", "_probability.ome.zarr", "_labels.tif"))
            and (raw or file.suffix != ".raw")
        ]
        if not found:
            raise FileError(f"'{path}' is a folder without volumes ({', '.join(VOLUME_SUFFIXES)})")
        files += found
    return files
