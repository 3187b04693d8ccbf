"""What a training needs from whoever runs it: bars, scalars, wishes, and settings that a resumed run must share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Bar", "Scalars", "Settings", "Wishes"]


class Bar(Protocol):
    """One progress bar."""

    def update(self, text: str) -> None:
        """Advance by one and show a text."""

    def close(self) -> None:
        """Remove the bar."""


class Scalars(Protocol):
    """Where TensorBoard scalars go."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Add one point."""

    def close(self) -> Any:
        """Write what is buffered."""


class Wishes:
    """What a person or the system wants of a session at work; signal handlers set it."""

    #: End the step in hand and return to the prompt.
    stop = False
    #: Save and leave.
    leave = False


@dataclass(frozen=True)
class Settings:
    """What a run depends on beside the trainer's own state; a resumed one must agree in all but `threads`."""

    dataset: str
    recipe: str
    seed: int
    iterations: int
    validate_every: int
    threads: int
    data: tuple[str, ...] = ()
