"""Scores of masks that do not fit into memory, counted box by box: those that need no more than counts of voxels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.ram import Allowance
from micronet.core.volume import Volume, share_grid
from micronet.io.checks import is_store
from micronet.io.store_mask import StoreMask
from micronet.io.zarr import Level, open_level
from micronet.io.zarr_write import boxes_of
from micronet.measure.overlap import Overlap, overlap
from micronet.measure.pairs import Evaluation, Pair, Reading
from micronet.measure.scores import Scores, Scoring
from micronet.measure.thresholds import Sweep, mask_above, threshold_sweep

__all__ = ["LEFT_OUT", "evaluate_in_slabs", "lies_in_stores"]

#: What a person is told of them.
LEFT_OUT = "counted slab by slab; clDice, pieces and tunnels and surface distances need the volume whole: left out"
# Voxels of a box, as far as whole chunks allow, and bytes of each: two masks, what they are made of, and chunks.
_BOX, _VOXEL = 32 << 20, 8


def lies_in_stores(pair: Pair) -> bool:
    """Return whether prediction and annotation are read box by box."""
    return is_store(pair.prediction) and is_store(pair.annotation)


@dataclass(frozen=True)
class _Probability:
    """A probability in a store, of which boxes are read."""

    level: Level
    grid: Volume

    @property
    def pieces(self) -> tuple[int, int, int]:
        return self.level.pieces

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        return self.level[box]


def evaluate_in_slabs(
    pair: Pair,
    reading: Reading,
    scoring: Scoring,
    allowance: Allowance,
    say: Callable[[str], None],
    on_slab: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score a pair of OME-Zarr, of which a box of whole chunks is in memory at a time.

    Parameters
    ----------
    pair, reading, scoring, allowance
    say : callable
        Receives what was read and had to be assumed, a line at a time.
    on_slab : callable
        Receives how many boxes are done, and how many there are.

    Returns
    -------
    Evaluation
        Scores that need the volume whole are NaN.

    Raises
    ------
    InputError, FileError
        As `micronet.measure.pairs.read_pair`; MemoryLimitError where not even a row of chunks fits.
    """
    annotation, prediction, spacing_um = _opened(pair, reading, say)
    depth, height, width = annotation.grid.shape
    shape = (depth, min(reading.y_crop or height, height), width)
    sides = _sides(shape, [annotation.pieces, prediction.pieces])
    allowance.check(0, _VOXEL * math.prod(sides), f"'{pair.prediction}': a row of its chunks")
    counts, sweep = Overlap(0, 0, 0), None
    boxes = list(boxes_of(shape, sides))
    for number, box in enumerate(boxes, 1):
        true, found = annotation[box], prediction[box]
        if reading.probability:
            try:
                sweep = _joined(sweep, threshold_sweep(found, true))
                found = mask_above(found, reading.threshold)
            except InputError as error:
                raise InputError(f"'{pair.prediction}' holds {error}") from error
        counts += overlap(found, true)
        on_slab(number, len(boxes))
    return Evaluation(pair, Scores.of_counts(counts, spacing_um, scoring), spacing_um, sweep)


def _opened(
    pair: Pair, reading: Reading, say: Callable[[str], None]
) -> tuple[StoreMask, StoreMask | _Probability, tuple[float, float, float] | None]:
    """Open annotation and prediction, and tell the person; return the voxel size that one of them states, too."""
    how: dict[str, Any] = {"level": reading.level, "spacing_um": reading.spacing_um}
    annotation = StoreMask(pair.annotation, segment=reading.segment, **how)
    prediction: StoreMask | _Probability
    if reading.probability:
        level = open_level(pair.prediction, reading.level)
        grid = level.grid if reading.spacing_um is None else level.grid.with_spacing(reading.spacing_um)
        prediction, description = _Probability(level, grid), f"'{pair.prediction.name}' above {reading.threshold:g}"
    else:
        prediction = StoreMask(pair.prediction, segment=reading.prediction_segment, **how)
        description = prediction.description
    annotated, predicted, _ = share_grid(annotation.grid, prediction.grid, str(pair.annotation), str(pair.prediction))
    say(f"  {description} against {annotation.description}")
    for note in dict.fromkeys((*annotated.notes, *predicted.notes)):
        say(f"  note: {note}")
    spacing_um = annotated.spacing_um or predicted.spacing_um
    if spacing_um is None:
        say("  note: no spacing stated, so nothing in µm")
    return annotation, prediction, spacing_um


def _sides(shape: tuple[int, int, int], pieces: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return the sides of what is read at once: chunks of the larger sides, and of these as many rows as fit."""
    deep, high = (min(shape[axis], max(piece[axis] for piece in pieces)) for axis in (0, 1))
    rows = max(1, _BOX // (deep * high * shape[2]))
    return deep, min(shape[1], high * rows), shape[2]


def _joined(sweep: Sweep | None, other: Sweep) -> Sweep:
    if sweep is None:
        return other
    return Sweep(sweep.thresholds, tuple(a + b for a, b in zip(sweep.counts, other.counts, strict=True)))
