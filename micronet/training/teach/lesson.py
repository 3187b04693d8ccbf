"""What a person has annotated in one volume, and learners that are chosen by what they say of held-out voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.measure.overlap import overlap
from micronet.networks.evening import EvenedPart, Seen
from micronet.networks.taught import Member
from micronet.training.teach.beside import Corrections, corrections
from micronet.training.teach.folds import Folds, hold_out
from micronet.training.teach.prevalence import annotates_slices

__all__ = ["Choice", "Learner", "Lesson", "Taught", "choose"]

Mask = NDArray[np.bool_]
#: A learner, or a mean of several, is taken in place of what is expected to be best only if it is better by so much
#: Dice.
_WORTH_IT = 0.01
#: Side of the cubes that trees take for one place each, in units of the finest spacing.
_PLACE = 16


@dataclass(frozen=True)
class Lesson:
    """A volume with the voxels that a person has annotated.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        Normalised, as `micronet.normalize_image` gives it.
    labels : ndarray of uint8, shape (Z, Y, X)
        0 not annotated, 1 lumen, 2 background.
    spacing_um : (z, y, x)
    others : tuple of Lesson
        Volumes that were annotated before: all of their annotated voxels are learned from too, whatever is held out of
        this one.
    evened : mapping of float to EvenedPart
        Where the image is a part of a volume: that of the evened volume, by the surroundings in µm.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing_um: tuple[float, float, float]
    others: tuple[Lesson, ...] = ()
    evened: Mapping[float, EvenedPart] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.shape != self.labels.shape:
            raise InputError(f"labels have shape {self.labels.shape}, the volume {self.image.shape}")

    @property
    def seen(self) -> Seen:
        """The image as networks look at it."""
        return Seen(self.image, self.spacing_um, self.evened)

    @cached_property
    def annotated(self) -> Mask:
        """Where there is a label: bool (Z, Y, X). Its voxels, in the order of the array, are those of the lesson."""
        return self.labels > 0

    @cached_property
    def lumen(self) -> Mask:
        """What the voxels of the lesson are: bool (voxels,)."""
        return np.asarray(self.labels[self.annotated] == 1)

    @property
    def lumen_share(self) -> float:
        """Share of lumen in all that is annotated, the other volumes included."""
        return float(np.concatenate([self.lumen, *(other.lumen for other in self.others)]).mean())

    @cached_property
    def of_slices(self) -> bool:
        """Whether slices were annotated, not strokes alone."""
        return annotates_slices(self.labels)

    @cached_property
    def places(self) -> NDArray[np.intp]:
        """Where its voxels lie, (voxels,): voxels of a cube have the same number."""
        spacing = np.asarray(self.spacing_um)
        side = np.maximum(_PLACE * spacing.min() / spacing, 1.0)
        cubes = (np.argwhere(self.annotated) // side).astype(np.intp)
        return np.asarray(np.ravel_multi_index(cubes.T, self.labels.shape), np.intp)

    @cached_property
    def corrections(self) -> Corrections | None:
        """What is a correction, as `micronet.training.teach.beside.corrections` tells it."""
        return corrections(self.labels)

    @cached_property
    def features(self) -> WeakValueDictionary[tuple[float, bool], Any]:
        """What learners have computed (`voxel_features`), by surroundings and tubes, as long as one of them has it."""
        return WeakValueDictionary()


class Taught(Protocol):
    """What a learner knows after a lesson."""

    def at(self, asked: Mask) -> NDArray[np.float32]:
        """Return the probability of some voxels of the lesson; `asked` is bool (voxels,)."""

    def everywhere(self) -> NDArray[np.float32]:
        """Return the probability of every voxel, (Z, Y, X)."""

    def members(self) -> list[Member]:
        """Return the networks that say the same of any volume; their weighted mean is what to use."""


class Learner(Protocol):
    """A way to learn from annotated voxels."""

    name: str

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> Taught:
        """Learn from some voxels of the lesson, and all of the others'; `learned` is bool (voxels,)."""


@dataclass(frozen=True)
class Choice:
    """Which learners' probabilities to average, and what every candidate scored on held-out voxels.

    `scores` maps names, joined by " + ", to Dice pooled over the folds, the best first; empty, as `held_out` is, where
    the annotation was too small to be divided. `decided` is whether they say which is best. `joined` are those of
    `names` of which nothing was held out: they have no score, and are in the mean whatever the others have.
    """

    names: tuple[str, ...]
    scores: dict[str, float]
    held_out: str
    joined: tuple[str, ...] = ()
    decided: bool = False

    def joined_by(self, names: Iterable[str]) -> Choice:
        """Return the choice with learners of which nothing was held out."""
        joined = tuple(names)
        return replace(self, names=(*self.names, *joined), joined=joined)

    def told(self) -> str:
        """Return the one line that says what was chosen, and why."""
        chosen = " + ".join(self.names)
        if not self.scores:
            return f"{chosen}: the annotation is too small, or too unequal, to hold anything out"
        listed = ", ".join(f"{name} {score:.3f}" for name, score in self.scores.items())
        idle = "" if self.decided else ", which do not decide"
        others = f"; {' + '.join(self.joined)} joined without being held out" if self.joined else ""
        return f"{chosen}: Dice on held-out {self.held_out}{idle}: {listed}{others}"


def choose(
    lesson: Lesson,
    learners: Sequence[Learner],
    *,
    expected: Sequence[str] = (),
    seed: int = 0,
    folds: Folds | None = None,
    on_fold: Callable[[str, int, int], None] | None = None,
) -> Choice:
    """Decide between learners, and means of them, by cross-validation inside the annotation.

    Parameters
    ----------
    lesson : Lesson
    learners : sequence of Learner
    expected : sequence of str
        Names of learners whose mean is taken unless something else is better by more than 0.01 of Dice; by default the
        first learner. Only whole slices decide: what suits a plane, or some strokes, best need not suit the volume.
    seed : int
        Passed on to the learners.
    folds : Folds, optional
        Default: `hold_out`.
    on_fold : callable, optional
        Receives learner, folds done by it and folds to do.

    Returns
    -------
    Choice

    Raises
    ------
    InputError
        If there is no learner, or a class is missing.
    """
    if not learners:
        raise InputError("there is no learner to choose from")
    divided = hold_out(lesson.labels, lesson.spacing_um) if folds is None else folds
    best = tuple(learner.name for learner in learners if learner.name in expected) or (learners[0].name,)
    if not divided.folds:
        return Choice(best, {}, "")
    held = np.logical_or.reduce([fold.held for fold in divided.folds])
    found: dict[str, NDArray[np.float32]] = {}
    for learner in learners:
        probability = np.zeros(len(lesson.lumen), np.float32)
        for number, fold in enumerate(divided.folds, 1):
            probability[fold.held] = learner.learn(lesson, fold.learned, seed).at(fold.held)
            if on_fold is not None:
                on_fold(learner.name, number, len(divided.folds))
        found[learner.name] = probability
    scores = _scores(found, held, lesson.lumen)
    if divided.decide:
        better = max(scores, key=lambda names: scores[names])
        best = better if scores[better] > scores[best] + _WORTH_IT else best
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    listed = {" + ".join(names): score for names, score in ranked}
    return Choice(best, listed, divided.what, decided=divided.decide)


def _scores(found: dict[str, NDArray[np.float32]], held: Mask, lumen: Mask) -> dict[tuple[str, ...], float]:
    """Return the Dice of every learner, and of the mean of any of them, on held-out voxels."""
    scores: dict[tuple[str, ...], float] = {}
    for count in range(1, len(found) + 1):
        for names in combinations(found, count):
            mean = np.mean([found[name] for name in names], axis=0)
            scores[names] = overlap((mean > 0.5) & held, lumen & held).f_score()
    return scores
