"""What a training run does: the published seeds and learning rate, the recipes, and the plan of a command."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from micronet.core.errors import FileError
from micronet.data.augmentation import FLIPS, Augmentation

__all__ = ["NETWORK_RECIPE", "NUMPY_SEED", "RECIPES", "TORCH_SEED", "Plan", "Recipe", "learning_rate"]

#: The published seeds.
TORCH_SEED = 43283
NUMPY_SEED = TORCH_SEED + 34921


def learning_rate(step: int) -> float:
    """Return the published rate after `step` completed steps.

    >>> [round(learning_rate(step), 7) for step in (0, 50, 100, 200)]
    [0.0001, 0.0006585, 0.0019257, 0.0001]
    """
    return 1e-4 + 2e-3 * (1 - abs(math.cos(2 * math.pi * step / 400))) / math.sqrt(1 + step / 500)


@dataclass(frozen=True)
class Recipe:
    """What a run does beyond the published loss, optimiser and schedule.

    Parameters
    ----------
    name : str
    distortion : {"published", "default"}
        Variant of `micronet.distort` that makes the masks a µr-Net is trained to refine.
    own_masks : float
        Fraction of the steps in which a µr-Net refines not a distorted mask but what it says itself after 1 to
        `own_passes` refinements from a blank or distorted mask: only its own masks show it its own errors.
    own_passes : int
    optimizer : str
        ``"adam"`` or ``"soap"``; of a larger network as its practice says.
    rate_factor : float
        Times the published learning rate.
    augmentation : Augmentation, optional
        None shows every volume whole and unchanged.
    validate_every : int
        Steps between validations.
    validate_ahead : int
        So many steps before each multiple of these; as published, 1.
    patience : int, optional
        Validations without a better one after which the run counts as stalled.
    published_draws : bool
        Draw order and distortions from one sequential legacy generator, as published.
    accumulate : int
        Volumes (of a larger network: batches) whose mean gradient makes a step; as published, 1. The last step of a
        pass has what is left.
    """

    name: str
    distortion: Literal["published", "default"]
    own_masks: float = 0.0
    own_passes: int = 4
    optimizer: str = "adam"
    rate_factor: float = 1.0
    augmentation: Augmentation | None = None
    validate_every: int = 50
    validate_ahead: int = 0
    patience: int | None = None
    published_draws: bool = False
    accumulate: int = 1


#: Of a larger network, whose `micronet.training.practice.Practice` says the rest.
NETWORK_RECIPE = Recipe("network", "default", patience=15)

RECIPES: Mapping[str, Recipe] = {
    "default": Recipe(
        "default", "default", own_masks=0.5, optimizer="soap", rate_factor=8.0, augmentation=FLIPS, patience=20
    ),
    "published": Recipe("published", "published", validate_ahead=1, published_draws=True),
}


@dataclass
class Plan:
    """What is left of a command: `rounds` times (distort every mask, then `passes` over the volumes).

    `passes_left` are those of the present round not begun; `order` is what is left of the present pass.
    """

    rounds: int = 0
    passes: int = 1
    passes_left: int = 0
    order: list[int] = field(default_factory=list)

    @classmethod
    def from_state(cls, saved: Mapping[str, Any], volumes: int) -> Plan:
        """Return the plan of a saved state of so many training volumes; FileError when it is no such plan."""
        try:
            plan = cls(**saved)
            counts = (plan.rounds, plan.passes, plan.passes_left)
            sound = all(isinstance(count, int) and count >= 0 for count in counts)
            sound = sound and all(isinstance(index, int) and 0 <= index < volumes for index in plan.order)
        except TypeError:
            sound = False
        if not sound:
            raise FileError(f"the saved plan is damaged: {saved}")
        return plan

    def steps_left(self, volumes: int, accumulate: int = 1) -> int:
        """Return the number of steps until the command is done, with so many volumes a step."""
        passes = self.passes_left + self.rounds * self.passes
        return -(-len(self.order) // accumulate) - (-volumes // accumulate) * passes

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not (self.order or self.passes_left or self.rounds)
