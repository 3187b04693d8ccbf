"""What is done with a lesson: learners are chosen by cross-validation, taught all of it, and put into one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.networks.taught import Member
from micronet.networks.taught import Taught as TaughtNetwork
from micronet.training.teach.folds import ONE_SLICE, hold_out
from micronet.training.teach.learners import MicroNetLearner, TreesLearner
from micronet.training.teach.lesson import Choice, Learner, Lesson, Mask, choose
from micronet.training.teach.prevalence import annotates_slices
from micronet.training.trainer import StepReport

__all__ = ["Course", "Earlier", "Progress", "default_companions", "default_learners", "teach"]

#: Receives what is done, of how much, and a word on what comes next; may raise to stop.
Progress = Callable[[int, int, str], None]

#: Surroundings that brightness is evened by, in units of the finest spacing.
_AROUND = 40.0
#: Planes this many times as thick as a voxel is wide are evened one by one.
_THICK = 2.0
#: Of a µ-Net: steps, and voxels of its grid, half a minute of one core; and what it counts in the mean.
_STEPS, _MOST_VOXELS, _SHARE = 100, 700_000, 0.5


class Course(NamedTuple):
    """The network that was taught, and why it is that one."""

    network: TaughtNetwork
    choice: Choice


def default_learners(lesson: Lesson) -> list[Learner]:
    """Return the learners whose mean is expected to be best; docs/teach.md has what was measured."""
    learners: list[Learner] = [TreesLearner(), TreesLearner(around=_AROUND)]
    if _thick(lesson):
        learners.append(TreesLearner(scales=4, around=_AROUND))
    return learners


def _thick(lesson: Lesson) -> bool:
    return max(lesson.spacing_um) >= _THICK * min(lesson.spacing_um)


def default_companions(lesson: Lesson, on_step: Callable[[StepReport], None] | None = None) -> list[Learner]:
    """Return learners that are too slow to be held out from, and are worth their time all the same.

    Where planes are thick and slices were annotated, a µ-Net on the evened image is one: it counts half in the mean.
    docs/teach.md has what was measured.
    """
    if not _thick(lesson) or not annotates_slices(lesson.labels):
        return []
    return [MicroNetLearner(steps=_STEPS, most_voxels=_MOST_VOXELS, around=_AROUND, on_step=on_step)]


def teach(
    lesson: Lesson,
    seed: int = 0,
    on_progress: Progress | None = None,
    *,
    earlier: TaughtNetwork | None = None,
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
    earlier : Taught, optional
        What was taught before: one more candidate, as it is.
    learners : sequence of Learner, optional
        Default: `default_learners`, and `default_companions` where the mean of all of them is chosen.

    Returns
    -------
    Course

    Raises
    ------
    InputError
        If a class is missing.
    """
    candidates = list(learners or default_learners(lesson))
    expected = [learner.name for learner in candidates]
    if earlier is not None:
        candidates.append(Earlier(earlier))
    folds = hold_out(lesson.labels, lesson.spacing_um)
    if folds.what == ONE_SLICE:  # they are told and do not decide: half of them take half the time
        folds = replace(folds, folds=folds.folds[::2])
    steps = _Steps(on_progress or (lambda done, whole, what: None))
    companions = default_companions(lesson, steps.within) if learners is None else []
    steps.whole = len(candidates) * (len(folds.folds) + 1) + len(companions)
    steps.begin("learning")

    def count(name: str, number: int, of: int) -> None:
        steps.end(f"{name}, held-out {folds.what} {number} of {of}")

    choice = choose(lesson, candidates, expected=expected, seed=seed, folds=folds, on_fold=count)
    if list(choice.names) == expected:
        candidates += companions
        choice = replace(choice, names=(*choice.names, *(learner.name for learner in companions)))
    everything = np.ones(len(lesson.lumen), bool)
    members: list[Member] = []
    for learner in candidates:
        if learner.name in choice.names:
            steps.begin(learner.name)
            found = learner.learn(lesson, everything, seed).members()
            members += _scaled(found, _SHARE if learner in companions else 1.0)
        steps.end(learner.name)
    return Course(TaughtNetwork(_scaled(members, 1.0), lesson.spacing_um).eval(), choice)


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


@dataclass(frozen=True)
class _Remembered:
    """An earlier network in a lesson."""

    network: TaughtNetwork
    lesson: Lesson
    probability: NDArray[np.float32]

    def at(self, asked: Mask) -> NDArray[np.float32]:
        return self.probability[asked]

    def everywhere(self) -> NDArray[np.float32]:
        return self.network.predict(self.lesson.image, self.lesson.spacing_um, threads=torch.get_num_threads())

    def members(self) -> list[Member]:
        return list(self.network.members)


class Earlier:
    """Learns nothing: what an earlier lesson has taught, asked about this one."""

    name = "earlier weights"

    def __init__(self, network: TaughtNetwork) -> None:
        self._network = network
        self._known: _Remembered | None = None

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> _Remembered:
        """Return what it says of the lesson; it is computed once."""
        if self._known is None or self._known.lesson is not lesson:
            try:
                spacing_um = self._network.checked_spacing(lesson.spacing_um)
            except InputError as error:
                raise InputError(f"the weights to start from: {error}") from error
            found = self._network.predict(lesson.image, spacing_um)
            self._known = _Remembered(self._network, lesson, found[lesson.annotated])
        return self._known
