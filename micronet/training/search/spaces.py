"""What is searched: of µ-Nets rate, β² and augmentation; of larger networks all that their training goes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from micronet.core.errors import InputError
from micronet.data.augmentation import AUGMENTATIONS
from micronet.training.network_losses import loss_named
from micronet.training.practice import LOSSES, OPTIMIZERS, SCHEDULES
from micronet.training.search.trials import Candidate, Chooser, Report, rounded
from micronet.training.trainer import StepReport, Trainer, ValidationReport

__all__ = ["OWN", "larger", "micro", "trained"]

#: The augmentation that the data set asks for.
OWN = "data set"
_RATES, _BETAS = (1e-4, 3e-2), (0.2, 5.0)
_LARGER_RATES, _DECAYS = (1e-4, 1e-2), (1e-7, 1e-2)  # the least decay is as good as none
_CROPS, _USUAL_CROP = (32, 48, 64, 96, 128), 64  # voxels along each axis that has so many

#: Returns what trains with these settings.
_Make = Callable[[Mapping[str, Any]], Trainer]


def micro(make: _Make, own: bool, epochs: int, on_step: Callable[[StepReport], None]) -> Candidate:
    """Return what a search needs to know of a µ-Net.

    Parameters
    ----------
    make : callable
        ``make(settings)`` returns a fresh trainer, the same one each time; rate and β² are set here.
    own : bool
        Whether the data set asks for an augmentation of its own.
    epochs : int
        Passes over the training volumes in a trial.
    on_step : callable
        Told each step.
    """
    choices = [*AUGMENTATIONS, *([OWN] if own else [])]

    def suggest(chooser: Chooser) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "augmentation": chooser.suggest_categorical("augmentation", choices),
            "beta_squared": rounded(chooser.suggest_float("beta_squared", *_BETAS, log=True)),
        }
        # The rate of the recipe rises and falls; any other stays as it is, as `lr` at the prompt has it.
        if chooser.suggest_categorical("schedule", ["recipe", "constant"]) == "constant":
            settings["rate"] = rounded(chooser.suggest_float("rate", *_RATES, log=True))
        return settings

    def objective(settings: Mapping[str, Any], report: Report) -> float:
        trainer = make(settings)
        trainer.fixed_rate, trainer.beta_squared = settings.get("rate"), settings["beta_squared"]
        return trained(trainer, epochs, report, on_step)

    usual = {"augmentation": OWN if own else "flips", "beta_squared": 1.0, "schedule": "recipe"}
    return Candidate(usual, suggest, objective)


def larger(
    make: _Make, smallest: Sequence[int], channels: int, epochs: int, on_step: Callable[[StepReport], None]
) -> Candidate:
    """Return what a search needs to know of a larger network.

    Parameters
    ----------
    make, epochs, on_step
        As of `micro`.
    smallest : sequence of int
        Voxels along (Z, Y, X) that every training volume has, along Z 1 for a 2-D network.
    channels : int
        Outputs of the network.
    """
    crops = {size: ",".join(str(min(size, length)) for length in smallest) for size in _CROPS}
    losses = [name for name in LOSSES if _fits(name, channels)]

    def suggest(chooser: Chooser) -> dict[str, Any]:
        return {
            "lr": rounded(chooser.suggest_float("lr", *_LARGER_RATES, log=True)),
            "weight_decay": rounded(chooser.suggest_float("weight_decay", *_DECAYS, log=True)),
            "optimizer": chooser.suggest_categorical("optimizer", OPTIMIZERS),
            "loss": chooser.suggest_categorical("loss", losses),
            "schedule": chooser.suggest_categorical("schedule", SCHEDULES),
            "crop_size": chooser.suggest_categorical("crop_size", list(dict.fromkeys(crops.values()))),
        }

    def objective(settings: Mapping[str, Any], report: Report) -> float:
        return trained(make(settings), epochs, report, on_step)

    usual = {"lr": 1e-3, "weight_decay": _DECAYS[0], "optimizer": "adam", "loss": "dice", "schedule": "plateau"}
    return Candidate({**usual, "crop_size": crops[_USUAL_CROP]}, suggest, objective)


def _fits(loss: str, channels: int) -> bool:
    try:
        loss_named(loss, channels)
    except InputError:
        return False
    return True


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
