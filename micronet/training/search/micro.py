"""What is searched of µ-Nets: rate, β² and augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from micronet.data.augmentation import AUGMENTATIONS, Augmentation
from micronet.data.dataset import Sample
from micronet.networks.registry import Network
from micronet.training.recipe import NUMPY_SEED, RECIPES, TORCH_SEED
from micronet.training.search.trials import Candidate, Chooser, Report, rounded
from micronet.training.trainer import StepReport, Trainer, ValidationReport

__all__ = ["OWN", "Trial", "candidate"]

#: The augmentation that the data set asks for.
OWN = "data set"
_RATES, _BETAS = (1e-4, 3e-2), (0.2, 5.0)


@dataclass(frozen=True)
class Trial:
    """What all trials share.

    Parameters
    ----------
    network : Network
    train, validation : sequence of Sample
        At least one of each.
    own : Augmentation, optional
        What the data set asks for.
    epochs : int
        Passes over the training volumes.
    seed, iterations, validate_every : int
        As in a training.
    on_step : callable
        Told each step.
    """

    network: Network
    train: Sequence[Sample]
    validation: Sequence[Sample]
    own: Augmentation | None
    epochs: int
    seed: int
    iterations: int
    validate_every: int
    on_step: Callable[[StepReport], None]

    def trainer(self, settings: Mapping[str, Any]) -> Trainer:
        """Return what trains with these settings, as a training that is set so does, to the bit."""
        chosen = settings["augmentation"]
        augmentation = self.own if chosen == OWN else AUGMENTATIONS[chosen]
        recipe = replace(RECIPES["default"], augmentation=augmentation, validate_every=self.validate_every)
        torch.manual_seed(self.seed)
        seed = self.seed + NUMPY_SEED - TORCH_SEED
        trainer = Trainer(self.network.build(), self.train, self.validation, recipe, seed, self.iterations)
        trainer.fixed_rate = settings.get("rate")
        trainer.beta_squared = settings["beta_squared"]
        return trainer

    def objective(self, settings: Mapping[str, Any], report: Report) -> float:
        """Train with these settings; return the best F of the validations, 0 where the training diverged."""
        return trained(self.trainer(settings), self.epochs, report, self.on_step)


def trained(trainer: Trainer, epochs: int, report: Report, on_step: Callable[[StepReport], None]) -> float:
    """Train, tell each validation, and return the best F, 0 if it diverged; it ends early as a training does."""
    ended = diverged = False

    def step(done: StepReport) -> None:
        nonlocal diverged
        diverged = not math.isfinite(done.loss)
        on_step(done)

    def validated(found: ValidationReport) -> None:
        nonlocal ended
        ended = found.stalled
        report(found.step, found.f)

    trainer.begin(epochs)
    trainer.run(step, validated, lambda: ended or diverged)
    return 0.0 if diverged else trainer.best_f or 0.0


def candidate(trial: Trial) -> Candidate:
    """Return what a search needs to know of a µ-Net."""
    choices = [*AUGMENTATIONS, *([] if trial.own is None else [OWN])]

    def suggest(chooser: Chooser) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "augmentation": chooser.suggest_categorical("augmentation", choices),
            "beta_squared": rounded(chooser.suggest_float("beta_squared", *_BETAS, log=True)),
        }
        # The rate of the recipe rises and falls; any other stays as it is, as `lr` at the prompt has it.
        if chooser.suggest_categorical("schedule", ["recipe", "constant"]) == "constant":
            settings["rate"] = rounded(chooser.suggest_float("rate", *_RATES, log=True))
        return settings

    usual = {"augmentation": "flips" if trial.own is None else OWN, "beta_squared": 1.0, "schedule": "recipe"}
    return Candidate(usual, suggest, trial.objective)
