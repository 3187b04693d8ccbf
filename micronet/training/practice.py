"""How a larger network is trained: what `train_network.py` may set, the optimisers, and the schedules of the rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from micronet.core.errors import InputError, setting
from micronet.training.optimisers import SGD, Adam, RMSprop
from micronet.training.recipe import learning_rate
from micronet.training.soap import Soap

__all__ = ["LOSSES", "OPTIMIZERS", "SCHEDULES", "Course", "Practice", "new_optimizer"]

LOSSES = ("dice", "bce", "weighted_bce", "boundary_dice", "cross_entropy", "focal", "fbeta")
OPTIMIZERS = ("adam", "sgd", "rmsprop", "soap")
SCHEDULES = ("plateau", "step", "cosine", "published")
# As torch.optim.lr_scheduler.ReduceLROnPlateau: a loss is better when it is smaller by this part.
_BETTER = 1e-4
# The rate at which the published schedule is as published.
_USUAL_RATE = 1e-3


@dataclass(frozen=True)
class Practice:
    """What a training of a larger network goes by; a resumed one must agree in all of it.

    Parameters
    ----------
    crop_size : (Z, Y, X)
        Voxels of what a step sees.
    samples_per_volume : int
        Crops of every training volume an epoch.
    batch_size : int
        Crops a step.
    loss : str
        One of `LOSSES`.
    optimizer : str
        One of `OPTIMIZERS`.
    lr, weight_decay : float
        Rate at first, and PyTorch's weight decay of the optimiser (decoupled in SOAP).
    schedule : str
        ``"plateau"``: times `lr_factor` when the validation loss has not fallen for more than `lr_patience`
        validations. ``"step"``: times `lr_factor` every `lr_patience` epochs. ``"cosine"``: down to `min_lr` at the end
        of the command in hand. ``"published"``: the µ-Nets' schedule, times `lr` / 0.001.
    lr_factor, lr_patience : float, int
    min_lr : float
        No schedule but the published one goes below.
    early_stopping_patience : int
        Validations without a better one after which training ends.
    """

    crop_size: tuple[int, int, int]
    samples_per_volume: int = 10
    batch_size: int = 1
    loss: str = "dice"
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["plateau", "step", "cosine", "published"] = "plateau"
    lr_factor: float = 0.1
    lr_patience: int = 10
    min_lr: float = 5e-5
    early_stopping_patience: int = 15

    def __post_init__(self) -> None:
        """Raise InputError for names that are none."""
        for name, known in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} '{getattr(self, name)}' is unknown; known are {', '.join(known)}")
        if self.min_lr > self.lr and self.schedule != "published":
            raise InputError(
                f"the rate begins at {self.lr:g}, below its least, {self.min_lr:g} {setting('lr', 'min_lr')}"
            )


def new_optimizer(practice: Practice, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Return the optimiser that a practice names."""
    kinds: dict[str, Any] = {
        "adam": Adam,
        "sgd": SGD,
        "rmsprop": RMSprop,
        "soap": Soap,
    }
    optimizer: torch.optim.Optimizer = kinds[practice.optimizer](
        parameters, lr=practice.lr, weight_decay=practice.weight_decay
    )
    return optimizer


@dataclass
class Course:
    """What a schedule has to remember; all of it is saved with a session.

    `best_loss` and `stale` are those of the plateau: the smallest validation loss, and validations since. `falls`
    counts how often the rate fell; `planned` are the steps of the command in hand.
    """

    best_loss: float = math.inf
    stale: int = 0
    falls: int = 0
    planned: int = 0

    def note_validation(self, loss: float, practice: Practice) -> None:
        """Take in a validation loss, as torch.optim.lr_scheduler.ReduceLROnPlateau does."""
        if loss < self.best_loss * (1 - _BETTER):
            self.best_loss, self.stale = loss, 0
        else:
            self.stale += 1
        if self.stale > practice.lr_patience:
            self.falls, self.stale = self.falls + 1, 0

    def rate(self, practice: Practice, step: int, since_begun: int, steps_a_pass: int) -> float:
        """Return the rate of a step: `step` since the schedule began, `since_begun` since the command did."""
        highest, least = practice.lr, practice.min_lr
        if practice.schedule == "published":
            return learning_rate(step) * highest / _USUAL_RATE
        if practice.schedule == "cosine":
            done = min(since_begun / max(self.planned, 1), 1.0)
            return least + (highest - least) * (1 + math.cos(math.pi * done)) / 2
        falls = self.falls if practice.schedule == "plateau" else step // (practice.lr_patience * steps_a_pass)
        return max(least, highest * practice.lr_factor**falls)
