"""The table of a time-lapse: a row for each time point, what was found in it and how far it has moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micronet.core.table import write_table
from micronet.core.volume import Volume
from micronet.measure.overlap import overlap
from micronet.segment.drift import centroid, image_drift

__all__ = ["Row", "number_or_nan", "write_time_table"]

_COMMENTS = (
    "compared_with: the last time point before that did not fail; what follows it is against that one",
    "image_drift: how far the picture has moved; mask_shift: how far the centroid of the mask has",
)


@dataclass
class Row:
    """What the table says of a time point; None where there is nothing to say."""

    number: int
    name: str
    status: str = "failed"
    start: str = ""
    iterations: int | None = None
    voxels: int | None = None
    um3: float | None = None
    compared_with: int | None = None
    dice: float | None = None
    drift: tuple[float, float, float] | None = None
    mask_shift: tuple[float, float, float] | None = None

    def measure(self, mask: NDArray[np.bool_], volume: Volume) -> None:
        """Note how much was found."""
        self.voxels = int(np.count_nonzero(mask))
        self.um3 = None if volume.voxel_um3 is None else self.voxels * volume.voxel_um3

    def compare(
        self, since: int, before: tuple[Volume, NDArray[np.bool_]], now: tuple[Volume, NDArray[np.bool_]]
    ) -> None:
        """Note what has changed since a time point: volume and mask of both."""
        (volume_before, mask_before), (volume, mask) = before, now
        self.compared_with = since
        self.dice = overlap(mask, mask_before).f_score()
        spacing = volume.spacing_um or (1.0, 1.0, 1.0)
        steps = image_drift(volume_before.array, volume.array)
        z, y, x = (step * length for step, length in zip(steps, spacing, strict=True))
        self.drift = z, y, x
        here, there = centroid(mask), centroid(mask_before)
        if here is not None and there is not None:
            z, y, x = ((to - of) * length for to, of, length in zip(here, there, spacing, strict=True))
            self.mask_shift = z, y, x

    def moved(self, volume: Volume) -> str:
        """Return what `compare` found, for the person."""
        unit = "voxels" if volume.spacing_um is None else "µm"

        def along(steps: tuple[float, float, float] | None) -> str:
            return "unknown" if steps is None else ", ".join(f"{step:+.1f}" for step in steps) + f" {unit}"

        return (
            f"overlap of the masks {self.dice:.3f} (Dice); drift (Z, Y, X) of the picture {along(self.drift)}, "
            f"of the mask's centroid {along(self.mask_shift)}"
        )


def write_time_table(path: Path, rows: list[Row], interval_s: float | None, grid: Volume) -> None:
    """Write the rows as CSV, lengths in µm where `grid` knows them; FileError when that cannot be done."""
    unit = "voxels" if grid.spacing_um is None else "um"
    columns = [
        *("time_point", "time_s", "name", "status", "start", "iterations", "lumen_voxels", "lumen_um3"),
        *("compared_with", "mask_overlap_dice"),
        *(f"{what}_{axis}_{unit}" for what in ("image_drift", "mask_shift") for axis in "zyx"),
    ]
    body = []
    for row in rows:
        seconds = None if interval_s is None else round(row.number * interval_s, 9)
        values = [row.um3, row.dice, *(row.drift or (None,) * 3), *(row.mask_shift or (None,) * 3)]
        um3, dice, *steps = (None if value is None else round(value, 4) for value in values)
        settings = (row.name, row.status, row.start, row.iterations)
        body.append([row.number, seconds, *settings, row.voxels, um3, row.compared_with, dice, *steps])
    write_table(path, "lumens of a time-lapse", _COMMENTS, columns, body)


def number_or_nan(value: float | None) -> float:
    """Return NaN where there is nothing to say."""
    return math.nan if value is None else value
