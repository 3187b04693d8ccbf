"""A µr-Net that starts from what pixel learners say, and is trained so too; docs/teach.md has what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.networks.models import MicroRNet
from micronet.networks.taught import Member, Taught
from micronet.training.recipe import RECIPES
from micronet.training.teach.learners import IsotropicGrid, TaughtMicroNet, part_of, without_corrections
from micronet.training.teach.lesson import Learner, Lesson, Mask
from micronet.training.trainer import StepReport, Trainer

__all__ = ["MicroRNetLearner"]

#: Side of the blocks into which an annotation is divided, in units of the finest spacing.
_BLOCK = 20.0


class _FromProbability(Trainer):
    """Trains a µr-Net to refine given probabilities, in [0, 255], one for each volume, in place of distorted masks."""

    starts: list[NDArray[np.uint8]]

    def _round_masks(self) -> list[NDArray[Any]]:
        return list(self.starts)


class MicroRNetLearner:
    """Trains a µr-Net to refine the mean of pixel learners.

    These know what they were taught by heart, and are worse elsewhere. So the annotated voxels are divided into blocks,
    white and black as on a chessboard: what is refined in the one was said by learners that were taught the other.

    Parameters
    ----------
    pixels : sequence of Learner
        Of trees or of pixel networks.
    steps, most_voxels, around, on_step
        As of `micronet.training.teach.learners.MicroNetLearner`.
    """

    def __init__(
        self,
        pixels: Sequence[Learner],
        steps: int = 100,
        most_voxels: int = 700_000,
        around: float = 0.0,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        self.pixels, self.steps, self.most_voxels = pixels, steps, most_voxels
        self.around, self.on_step = around, on_step
        self.name = "ur-net" + (", evened" if around else "")

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtMicroNet:
        """Train on some voxels of the lesson; those of the others are known by heart, and teach it nothing.

        InputError where blocks of either colour have one class alone.
        """
        grid = IsotropicGrid.of(lesson, self.most_voxels, self.around)
        some, white = without_corrections(lesson, learned), _white(lesson)
        samples, starts = [], []
        for refined in (some & white, some & ~white):
            other = learned & ~refined
            if not lesson.lumen[other].any() or lesson.lumen[other].all() or not refined.any():
                raise InputError("too little is annotated to train a network on what others say of the rest")
            members = self._taught(lesson, other, seed)
            said = Taught(members, lesson.spacing_um).predict(lesson.image, lesson.spacing_um)
            samples.append(grid.sample(part_of(lesson, refined)))
            starts.append(np.rint(255 * grid.array(said, lesson.spacing_um)).astype(np.uint8))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MicroRNet()
        trainer = _FromProbability(network, samples, (), replace(RECIPES["default"], own_masks=0.0), seed)
        trainer.starts = starts
        trainer.begin(-(-self.steps // len(samples)))
        trainer.run(self.on_step or (lambda report: None), lambda report: None)
        member = Member("urnet", network.eval(), step_um=grid.step_um, around_um=grid.around_um)
        known = [replace(one, weight=0.0) for one in self._taught(lesson, learned, seed)]
        return TaughtMicroNet(member, lesson, tuple(known))

    def _taught(self, lesson: Lesson, learned: Mask, seed: int) -> list[Member]:
        return [member for one in self.pixels for member in one.learn(lesson, learned, seed).members()]


def _white(lesson: Lesson) -> Mask:
    """Return which of the annotated voxels lie in white blocks."""
    places = np.argwhere(lesson.annotated) * np.asarray(lesson.spacing_um)
    blocks = (places // (_BLOCK * min(lesson.spacing_um))).astype(np.intp)
    return np.asarray(blocks.sum(1) % 2 == 0)
