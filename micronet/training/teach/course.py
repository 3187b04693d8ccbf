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
from micronet.training.teach.folds import hold_out
from micronet.training.teach.learners import MicroNetLearner, TreesLearner
from micronet.training.teach.lesson import Choice, Learner, Lesson, Mask, choose

__all__ = ["Course", "Earlier", "Progress", "default_learners", "teach"]

#: Receives what is done, of how much, and a word on what comes next; may raise to stop.
Progress = Callable[[int, int, str], None]

#: Planes this many times as thick as a voxel is wide lack what features in µm need; context makes up for some of it.
_THICK = 2.0


class Course(NamedTuple):
    """The network that was taught, and why it is that one."""

    network: TaughtNetwork
    choice: Choice


def default_learners(lesson: Lesson, *, quick: bool = False) -> list[Learner]:
    """Return the learners to choose from, the simplest first; `quick` ones are for cross-validation."""
    learners: list[Learner] = [TreesLearner(), TreesLearner(scales=4)]
    if max(lesson.spacing_um) >= _THICK * min(lesson.spacing_um):
        learners.append(MicroNetLearner(steps=60 if quick else 120, most_voxels=300_000 if quick else 1_000_000))
    return learners


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
        Default: `default_learners`.

    Returns
    -------
    Course

    Raises
    ------
    InputError
        If a class is missing.
    """
    tell = on_progress or (lambda done, whole, what: None)
    quick = list(learners or default_learners(lesson, quick=True))
    final = list(learners or default_learners(lesson))
    if earlier is not None:
        quick, final = ([*some, Earlier(earlier)] for some in (quick, final))
    folds = hold_out(lesson.labels, lesson.spacing_um)
    steps = len(quick) * len(folds.folds)
    done = 0
    tell(0, steps + len(final), "learning")

    def count(name: str, number: int, of: int) -> None:
        nonlocal done
        done += 1
        tell(done, steps + len(final), f"{name}, held-out {folds.what} {number} of {of}")

    choice = choose(lesson, quick, seed=seed, folds=folds, on_fold=count)
    everything = np.ones(len(lesson.lumen), bool)
    members: list[Member] = []
    for learner in final:
        if learner.name in choice.names:
            found = learner.learn(lesson, everything, seed).members()
            whole = sum(member.weight for member in found)
            members += [replace(member, weight=member.weight / whole / len(choice.names)) for member in found]
        done += 1
        tell(done, steps + len(final), learner.name)
    return Course(TaughtNetwork(members, lesson.spacing_um).eval(), choice)


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
