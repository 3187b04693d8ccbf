"""What a trial is made of: what may be chosen, and what is trained with a choice and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Candidate", "Chooser", "PrunedError", "Report", "rounded"]

#: Told the score after so many steps; raises `PrunedError` where going on is not worth it.
Report = Callable[[int, float], None]


class PrunedError(Exception):
    """A trial is worse than most others were after so many steps."""


class Chooser(Protocol):
    """Chooses values; `optuna.Trial` is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number between two, both included; evenly in its logarithm where `log` says so."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """Choose a whole number."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Choose one of several."""


@dataclass(frozen=True)
class Candidate:
    """What a search needs to know of a network: the one seam between both.

    Parameters
    ----------
    usual : mapping
        The values, by name, of the settings that it has where nobody searches. They are tried first.
    suggest : callable
        ``suggest(chooser)`` returns settings, of which `usual` could be one choice.
    objective : callable
        ``objective(settings, report)`` trains with them, tells each validation, and returns the best score: a number
        of which more is better.
    """

    usual: Mapping[str, Any]
    suggest: Callable[[Chooser], dict[str, Any]]
    objective: Callable[[Mapping[str, Any], Report], float]


def rounded(value: float) -> float:
    """Return a number with four digits: as it is trained with, so it is printed.

    >>> rounded(0.00123456)
    0.001235
    """
    return float(f"{value:.4g}")
