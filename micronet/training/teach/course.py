"""What is done with a lesson: learners are chosen by cross-validation, taught all of it, and put into one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micronet.core.regrid import isotropic_shape, isotropic_step
from micronet.measure.overlap import overlap
from micronet.networks.evening import planes_are_thick
from micronet.networks.taught import Member
from micronet.networks.taught import Taught as TaughtNetwork
from micronet.training.teach.folds import Folds, hold_out
from micronet.training.teach.learners import LinearLearner, MicroNetLearner, TreesLearner
from micronet.training.teach.lesson import Choice, Learner, Lesson, Mask, choose
from micronet.training.teach.voxel_features import feature_bytes
from micronet.training.trainer import StepReport

__all__ = [
    "AROUND",
    "Comparison",
    "Course",
    "Earlier",
    "Progress",
    "companion_bytes",
    "default_companions",
    "default_learners",
    "learning_bytes",
    "teach",
]

#: Receives what is done, of how much, and a word on what comes next; may raise to stop.
Progress = Callable[[int, int, str], None]

#: Surroundings that brightness is evened by, in units of the finest spacing.
AROUND = 40.0
#: Of a µ-Net: steps, and voxels of its grid, half a minute of one core.
_STEPS, _MOST_VOXELS = 100, 700_000
#: Bytes of a voxel of its grid while it is trained, 148 were measured; and of the volume, resampled for it.
_TRAINED, _RESAMPLED = 160, 16
#: Bytes of a voxel of the volume that is learned from: the image, and evened with what is averaged of it.
_IMAGES = 12


@dataclass(frozen=True)
class Earlier:
    """What was taught before, and what it says of the voxels of a lesson.

    Parameters
    ----------
    network : Taught
    probability : ndarray of float32, shape (voxels,)
        What it says of them.
    fresh : ndarray of bool, shape (voxels,)
        Those that it was not taught.
    """

    network: TaughtNetwork
    probability: NDArray[np.float32]
    fresh: Mask


@dataclass(frozen=True)
class Comparison:
    """What an earlier network and the new one score on voxels that neither was taught.

    `earlier` and `new` are Dice, or the share of right voxels where none of them is lumen.
    """

    voxels: int
    earlier: float
    new: float
    measure: str

    @property
    def better(self) -> bool:
        """Whether the new one is."""
        return self.new > self.earlier

    def told(self) -> str:
        """Return the line that says so."""
        return f"{self.measure} on {self.voxels:,} new voxels, held out: earlier {self.earlier:.3f}, new {self.new:.3f}"


class Course(NamedTuple):
    """The network that was taught, and why it is that one.

    `comparison` is None without an earlier network, or where nothing new could be held out; where the new one is not
    better, `network` is the earlier one.
    """

    network: TaughtNetwork
    choice: Choice
    comparison: Comparison | None = None

    @property
    def kept(self) -> bool:
        """Whether the earlier network stays."""
        return self.comparison is not None and not self.comparison.better


def default_learners(lesson: Lesson) -> list[Learner]:
    """Return the learners whose mean is expected to be best; docs/teach.md has what was measured."""
    learners: list[Learner] = [TreesLearner(), TreesLearner(around=AROUND)]
    if planes_are_thick(lesson.spacing_um):
        learners.append(TreesLearner(scales=4, around=AROUND))
    return learners


def default_companions(
    lesson: Lesson, on_step: Callable[[StepReport], None] | None = None
) -> list[tuple[Learner, float]]:
    """Return learners that join the mean of the others without being held out, and what each counts there.

    Each kind of trees counts 1. Where planes are thick, logistic regressions join, and where slices were annotated a
    µ-Net on the evened image, too slow to be held out from. docs/teach.md has what was measured.
    """
    if not planes_are_thick(lesson.spacing_um):
        return []
    slices = lesson.of_slices
    share = 0.25 if slices else 0.5
    companions: list[tuple[Learner, float]] = [(LinearLearner(), share), (LinearLearner(around=AROUND), share)]
    if slices:
        network = MicroNetLearner(steps=_STEPS, most_voxels=_MOST_VOXELS, around=AROUND, on_step=on_step)
        companions.append((network, 0.5))
    return companions


def companion_bytes(shape: Sequence[int], spacing_um: Sequence[float]) -> int:
    """Return about how many bytes it takes to teach `default_companions`, beside the lesson."""
    if not planes_are_thick(spacing_um):
        return 0
    step_um = isotropic_step(shape, spacing_um, _MOST_VOXELS)
    return _RESAMPLED * math.prod(shape) + _TRAINED * math.prod(isotropic_shape(shape, spacing_um, step_um))


def learning_bytes(
    labels: NDArray[np.uint8], spacing_um: Sequence[float], others: Sequence[NDArray[np.uint8]] = ()
) -> int:
    """Return about how many bytes `teach` takes beside the labels, for these; arguments as `feature_bytes`."""
    held, work = feature_bytes(labels, spacing_um, others)
    return held + _IMAGES * labels.size + max(work, companion_bytes(labels.shape, spacing_um))


def teach(
    lesson: Lesson,
    seed: int = 0,
    on_progress: Progress | None = None,
    *,
    earlier: Earlier | None = None,
    learners: Sequence[Learner] | None = None,
) -> Course:
    """Teach on the annotated voxels of a volume.

    Parameters
    ----------
    lesson : Lesson
    seed : int
        The same gives the same weights, with the same number of PyTorch's threads.
    on_progress : callable, optional
        As `Progress`.
    earlier : Earlier, optional
        What was taught before: it stays if the new network is not better on what neither was taught.
    learners : sequence of Learner, optional
        Default: `default_learners`, and `default_companions`, whichever of the former are chosen.

    Returns
    -------
    Course

    Raises
    ------
    InputError
        If a class is missing.
    """
    candidates = list(learners or default_learners(lesson))
    expected = [one.name for one in candidates]
    folds = _folds(lesson)
    if not folds.decide:  # they are told alone: half of them take half the time
        folds = replace(folds, folds=folds.folds[::2])
    steps = _Steps(on_progress or (lambda done, whole, what: None))
    companions = default_companions(lesson, steps.within) if learners is None else []
    steps.whole = len(candidates) * (len(folds.folds) + 1) + len(companions)
    steps.begin("learning")

    def count(name: str, number: int, of: int) -> None:
        steps.end(f"{name}, held-out {folds.what} {number} of {of}")

    choice = choose(lesson, candidates, expected=expected, seed=seed, folds=folds, on_fold=count)
    comparison = None if earlier is None else _compared(lesson, choice, candidates, earlier, seed)
    if earlier is not None and comparison is not None and not comparison.better:
        return Course(earlier.network, choice, comparison)
    candidates += [learner for learner, _ in companions]
    choice = choice.joined_by(learner.name for learner, _ in companions)
    everything = np.ones(len(lesson.lumen), bool)
    members, shares = list[Member](), {learner.name: share for learner, share in companions}
    for learner in candidates:
        if learner.name in choice.names:
            steps.begin(learner.name)
            found = learner.learn(lesson, everything, seed).members()
            members += _scaled(found, shares.get(learner.name, 1.0))
        steps.end(learner.name)
    return Course(TaughtNetwork(_scaled(members, 1.0), lesson.spacing_um).eval(), choice, comparison)


def _scaled(members: Sequence[Member], whole: float) -> list[Member]:
    """Return members whose weights sum to that."""
    total = sum(member.weight for member in members)
    return [replace(member, weight=whole * member.weight / total) for member in members]


class _Steps:
    """Tells what is done, of how much."""

    def __init__(self, tell: Progress) -> None:
        self._tell, self.whole, self._done, self._what = tell, 0, 0, ""

    def begin(self, what: str) -> None:
        self._what = what
        if not self._done:
            self._tell(0, self.whole, what)

    def within(self, report: StepReport) -> None:
        self._tell(self._done, self.whole, f"{self._what}, step {report.step + 1}")

    def end(self, what: str) -> None:
        self._done += 1
        self._tell(self._done, self.whole, what)


def _folds(lesson: Lesson) -> Folds:
    """Return what to hold out; nothing of a volume with labels of one class, where the other volumes have both."""
    alone = lesson.lumen.all() or not lesson.lumen.any()
    if alone and 0 < lesson.lumen_share < 1:
        return Folds("", ())
    return hold_out(lesson.labels, lesson.spacing_um)


def _compared(
    lesson: Lesson, choice: Choice, candidates: Sequence[Learner], earlier: Earlier, seed: int
) -> Comparison | None:
    """Return what both score on voxels that are new and were held out; None where that says nothing.

    Where a person has marked nothing but errors, the earlier network is wrong everywhere and could not win.
    """
    right = (earlier.probability > 0.5) == lesson.lumen
    if not right[earlier.fresh].any():
        return None
    said = _said_of_fresh(lesson, choice, candidates, earlier.fresh, seed)
    held = ~np.isnan(said)
    if not held.any():
        return None
    truth = lesson.lumen[held]
    dice = bool(truth.any())

    def score(probability: NDArray[np.float32]) -> float:
        found = probability[held] > 0.5
        return overlap(found, truth).f_score() if dice else float(np.mean(found == truth))

    what = "Dice" if dice else "share of right voxels"
    return Comparison(len(truth), score(earlier.probability), score(said), what)


def _said_of_fresh(
    lesson: Lesson, choice: Choice, candidates: Sequence[Learner], fresh: Mask, seed: int
) -> NDArray[np.float32]:
    """Return what the chosen learners say of fresh voxels that are held out in turn, NaN of all others.

    They learn from all that the earlier network knew, and from the rest of what is new: of several slices from the
    others, of a single one from its other parts.
    """
    found = np.full(len(fresh), np.nan, np.float32)
    lumen = lesson.lumen[fresh]
    if lumen.all() or not lumen.any():
        return found
    labels = np.zeros_like(lesson.labels)
    labels[lesson.annotated] = np.where(fresh, lesson.labels[lesson.annotated], 0)
    for fold in hold_out(labels, lesson.spacing_um).folds:
        learned, held = ~fresh, np.zeros(len(fresh), bool)
        learned[fresh], held[fresh] = fold.learned, fold.held
        some = [one.learn(lesson, learned, seed).at(held) for one in candidates if one.name in choice.names]
        found[held] = np.mean(some, axis=0)
    return found
