"""What a training needs from whoever runs it: bars, scalars, wishes, and settings that a resumed run must share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from micronet.training.accumulation import Share

__all__ = ["Bar", "Ports", "Ranks", "Scalars", "Settings", "Wishes"]


class Bar(Protocol):
    """One progress bar."""

    def update(self, text: str) -> None:
        """Advance by one and show a text."""

    def close(self) -> None:
        """Remove the bar."""


class Scalars(Protocol):
    """Where TensorBoard scalars and pictures go."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Add one point."""

    def add_image(self, tag: str, img_tensor: NDArray[np.uint8], global_step: int, *, dataformats: str) -> Any:
        """Add a picture, of axes such as ``"HWC"``."""

    def close(self) -> Any:
        """Write what is buffered."""


class Ranks(Protocol):
    """The processes that share the steps of a training, see `micronet.training.ranks`."""

    def gradients(self, trainer: Any, indices: Sequence[int]) -> list[Share]:
        """Leave the mean gradient of these shares of the present step in the network; return what they say."""


class Wishes:
    """What a person or the system wants of a session at work; signal handlers set it."""

    #: End the step in hand and return to the prompt.
    stop = False
    #: Save and leave.
    leave = False


@dataclass(frozen=True)
class Ports:
    """How a session is heard, and what it listens to.

    Parameters
    ----------
    say : callable
        Receives what happens, a line or a few at a time.
    progress : callable
        Opens a bar for so many steps.
    wishes : Wishes
        Looked at between steps and refinements.
    scalars : callable, optional
        Opens the TensorBoard writer of a run: folder and first step.
    show : callable, optional
        Shows the plot to the person each time it is written.
    """

    say: Callable[[str], None]
    progress: Callable[[int], Bar]
    wishes: Wishes = field(default_factory=Wishes)
    scalars: Callable[[Path, int], Scalars] | None = None
    show: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Settings:
    """What a run depends on beside the trainer's own state; a resumed one must agree in most of it.

    `threads`, `kept` and `max_ram` may be others. `build` and `practice` are those of a larger network, and `windows`
    in which it looks at whole volumes, as they were asked for. `kept` says which weights stay: ``"last"``, ``"best"``
    (with the last), or ``"all"`` that were validated. `max_ram` are bytes.
    """

    dataset: str
    recipe: str
    seed: int
    iterations: int
    validate_every: int
    threads: int
    data: tuple[str, ...] = ()
    build: Mapping[str, Any] = field(default_factory=dict)
    practice: Mapping[str, Any] = field(default_factory=dict)
    kept: str = "best"
    augmentation: str | None = None
    accumulate: int = 1
    windows: Mapping[str, Any] = field(default_factory=dict)
    max_ram: int | None = None
