"""All scores of one predicted mask against one annotation, what each means, and their median over several volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError, setting
from micronet.measure.distances import surface_distances
from micronet.measure.overlap import Overlap, overlap
from micronet.measure.topology import betti_numbers, cl_dice

__all__ = [
    "DEFINITIONS",
    "RESAMPLES",
    "WORDS",
    "Scores",
    "Scoring",
    "Summary",
    "interval_name",
    "score_masks",
    "score_text",
    "summarise",
]

#: What each score is, by its name in `Scores`; ``{beta}`` and ``{tolerance}`` stand for the values of a `Scoring`.
DEFINITIONS: Mapping[str, str] = {
    "dice": "2 TP / (2 TP + FP + FN) in voxels; both masks empty: 1",
    "iou": "intersection over union, TP / (TP + FP + FN); both empty: 1",
    "precision": "TP / (TP + FP); both empty: 1, only the prediction: 0",
    "recall": "TP / (TP + FN), also called sensitivity; both empty: 1, only the annotation: 0",
    "f_beta": "(1 + b) TP / ((1 + b) TP + b FN + FP), b = beta squared, beta = {beta}; both empty: 1",
    "cl_dice": "harmonic mean of the two that follow (Shit et al. 2021); both empty: 1, one empty: 0",
    "cl_precision": (
        "fraction of the prediction's skeleton (Lee et al. 1994, by scikit-image) inside the annotation; a component "
        "without a skeleton keeps its innermost voxel"
    ),
    "cl_sensitivity": "the same with the masks exchanged",
    "betti0_predicted": "connected components of the prediction, voxels touching by faces, edges and corners",
    "betti0_annotated": "of the annotation",
    "betti0_error": "absolute difference of the two",
    "betti1_predicted": "tunnels (independent loops) of the prediction, background voxels touching by faces",
    "betti1_annotated": "of the annotation",
    "betti1_error": "absolute difference of the two",
    "nsd": (
        "normalized surface Dice: fraction of both surfaces at most {tolerance} from the other (Nikolov et al. 2018); "
        "surface voxels have a face to the outside or the end of the volume; both empty: 1, one empty: 0"
    ),
    "hd95_um": (
        "95th percentile of the distances from surface voxel to nearest surface voxel, the larger of both directions, "
        "in µm; both empty: 0, one empty: inf"
    ),
    "assd_um": "mean of the same distances over both surfaces, in µm; both empty: 0, one empty: inf",
    "predicted_um3": "volume of the prediction, voxels times the volume of one, in µm³",
    "annotated_um3": "volume of the annotation, in µm³",
    "volume_ratio": "predicted volume / annotated volume; both empty: 1, only the annotation: inf",
}

#: What people call the scores.
WORDS: Mapping[str, str] = {
    "dice": "Dice (F1)",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f_beta": "F-beta",
    "cl_dice": "clDice",
    "cl_precision": "clDice precision",
    "cl_sensitivity": "clDice sensitivity",
    "betti0_predicted": "pieces, predicted",
    "betti0_annotated": "pieces, annotated",
    "betti0_error": "pieces, difference",
    "betti1_predicted": "tunnels, predicted",
    "betti1_annotated": "tunnels, annotated",
    "betti1_error": "tunnels, difference",
    "nsd": "surface Dice (NSD)",
    "hd95_um": "HD95 (µm)",
    "assd_um": "ASSD (µm)",
    "predicted_um3": "volume, predicted (µm³)",
    "annotated_um3": "volume, annotated (µm³)",
    "volume_ratio": "volume ratio",
}
# Of up to so many values, resamples whose median is the lowest are more than one in forty: the interval is the range.
_MOST_RANGE = 5


def score_text(value: float) -> str:
    """Return a score, or any number beside it, as a person reads it.

    >>> [score_text(value) for value in (3, 0.9, 0.0, 12.3456, 5503585.2, math.inf, math.nan)]
    ['3', '0.9000', '0', '12.35', '5,503,585', '∞', '–']
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.4g}"


@dataclass(frozen=True)
class Scoring:
    """What can be chosen about the scores.

    Parameters
    ----------
    beta : float
        Of F-beta, positive; recall counts ``beta**2`` times as much as precision.
    tolerance_um : float, optional
        Of the normalized surface Dice; None is one voxel along the axis with the largest spacing.
    """

    beta: float = 2.0
    tolerance_um: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise InputError(f"beta must be a positive number, found {self.beta:g}")
        if self.tolerance_um is not None and not (math.isfinite(self.tolerance_um) and self.tolerance_um >= 0):
            raise InputError(f"the tolerance must be a length in µm, found {self.tolerance_um:g}")

    def definitions(self) -> dict[str, str]:
        """Return what each score is, with the numbers in use."""
        tolerance = "one voxel (along the axis with the largest spacing)"
        if self.tolerance_um is not None:
            tolerance = f"{self.tolerance_um:g} µm"
        return {name: text.format(beta=f"{self.beta:g}", tolerance=tolerance) for name, text in DEFINITIONS.items()}


@dataclass(frozen=True)
class Scores:
    """The scores of one pair of masks; `DEFINITIONS` says what each is.

    Lengths and volumes are NaN where the spacing is not known.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    f_beta: float
    cl_dice: float
    cl_precision: float
    cl_sensitivity: float
    betti0_predicted: float
    betti0_annotated: float
    betti0_error: float
    betti1_predicted: float
    betti1_annotated: float
    betti1_error: float
    nsd: float
    hd95_um: float
    assd_um: float
    predicted_um3: float
    annotated_um3: float
    volume_ratio: float

    def values(self) -> dict[str, float]:
        """Return the scores by name, in the order of the table."""
        return asdict(self)

    def headline(self) -> str:
        """Return the main scores in one line."""
        parts = {
            "Dice": f"{self.dice:.4f}",
            "clDice": f"{self.cl_dice:.4f}",
            "NSD": f"{self.nsd:.4f}",
            "HD95": f"{self.hd95_um:.3g} µm",
        }
        return "  ".join(f"{name} {value}" for name, value in parts.items() if not value.startswith("nan"))

    @classmethod
    def of_counts(
        cls, counts: Overlap, spacing_um: tuple[float, float, float] | None, scoring: Scoring | None = None
    ) -> Scores:
        """Return what counts of voxels tell; all else is NaN."""
        told = _of_counts(counts, spacing_um, scoring or Scoring())
        return cls(**{field.name: told.get(field.name, math.nan) for field in fields(cls)})


def _of_counts(counts: Overlap, spacing_um: tuple[float, float, float] | None, scoring: Scoring) -> dict[str, float]:
    """Return the scores that counts of voxels give, by their names in `Scores`."""
    # A length in voxels is none in µm.
    voxel_um3 = math.nan if spacing_um is None else math.prod(spacing_um)
    predicted = counts.true_positives + counts.false_positives
    annotated = counts.true_positives + counts.false_negatives
    return {
        "dice": counts.f_score(),
        "iou": counts.iou,
        "precision": counts.precision,
        "recall": counts.recall,
        "f_beta": counts.f_score(scoring.beta**2),
        "predicted_um3": predicted * voxel_um3,
        "annotated_um3": annotated * voxel_um3,
        "volume_ratio": _volume_ratio(predicted, annotated),
    }


def score_masks(
    predicted: NDArray[np.bool_],
    annotated: NDArray[np.bool_],
    spacing_um: tuple[float, float, float] | None,
    scoring: Scoring | None = None,
) -> Scores:
    """Score a predicted mask against an annotation.

    Parameters
    ----------
    predicted, annotated : ndarray of bool, of one shape (Z, Y, X)
    spacing_um : tuple of three floats or None
        Voxel size along (Z, Y, X) in µm; None when it is not known, then voxels are taken as cubes.
    scoring : Scoring, optional
        What can be chosen.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        If the masks are not bool of one three-dimensional shape, or a tolerance in µm meets an unknown spacing.
    """
    scoring = scoring or Scoring()
    if spacing_um is None and scoring.tolerance_um is not None:
        raise InputError(f"a tolerance in µm needs the spacing of the masks, not stated {setting('spacing_um')}")
    lines = cl_dice(predicted, annotated)
    here, there = betti_numbers(predicted), betti_numbers(annotated)
    spacing = spacing_um or (1.0, 1.0, 1.0)
    distances = surface_distances(predicted, annotated, spacing)
    # A length in voxels is none in µm.
    um = math.nan if spacing_um is None else 1.0
    return Scores(
        **_of_counts(overlap(predicted, annotated), spacing_um, scoring),
        cl_dice=lines.score,
        cl_precision=lines.precision,
        cl_sensitivity=lines.sensitivity,
        betti0_predicted=here.components,
        betti0_annotated=there.components,
        betti0_error=abs(here.components - there.components),
        betti1_predicted=here.tunnels,
        betti1_annotated=there.tunnels,
        betti1_error=abs(here.tunnels - there.tunnels),
        nsd=distances.within(max(spacing) if scoring.tolerance_um is None else scoring.tolerance_um),
        hd95_um=um * distances.percentile(95),
        assd_um=um * distances.mean(),
    )


def _volume_ratio(predicted: int, annotated: int) -> float:
    if annotated:
        return predicted / annotated
    return math.inf if predicted else 1.0


@dataclass(frozen=True)
class Summary:
    """The median of one score over several volumes, with the 95 % interval of a percentile bootstrap.

    `count` volumes have a value. Without any the median is NaN, with fewer than two the interval is.
    """

    name: str
    count: int
    median: float
    low: float
    high: float


#: Resamples of the bootstrap.
RESAMPLES = 10_000


def summarise(scores: Sequence[Scores], generator: np.random.Generator) -> list[Summary]:
    """Return the median of each score over volumes, with its bootstrap interval.

    Parameters
    ----------
    scores : sequence of Scores
        Of independent volumes.
    generator : numpy.random.Generator
        Draws the volumes, with replacement, 10,000 times; the same volumes for every score.

    Returns
    -------
    list of Summary
        In the order of the table.

    Notes
    -----
    The interval runs from the 2.5th to the 97.5th percentile of the medians of the resamples (Efron 1979), each
    percentile a median that occurred, so that infinite scores do no harm.
    """
    table = np.array([list(one.values().values()) for one in scores], dtype=np.float64).reshape(len(scores), -1)
    drawn = generator.integers(0, max(1, len(scores)), (RESAMPLES, len(scores)))
    summaries = []
    for column, name in enumerate(field.name for field in fields(Scores)):
        values = table[:, column]
        known = ~np.isnan(values)
        count = int(np.count_nonzero(known))
        median = float(np.median(values[known])) if count else math.nan
        low = high = math.nan
        if count > 1 and count == len(scores):
            low, high = _interval(values[drawn])
        elif count > 1:
            low, high = _interval(values[known][generator.integers(0, count, (RESAMPLES, count))])
        summaries.append(Summary(name, count, median, low, high))
    return summaries


def interval_name(count: int) -> str:
    """Return what the interval of a median over so many volumes is.

    >>> interval_name(2), interval_name(20)
    ('range', '95 % interval')
    """
    return "range" if count <= _MOST_RANGE else "95 % interval"


def _interval(resamples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(np.median(resamples, axis=1), (2.5, 97.5), method="inverted_cdf")
    return float(low), float(high)
