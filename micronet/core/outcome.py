"""What became of one input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input; `status` is ``"done"``, ``"skipped"`` or ``"failed"``."""

    path: Path
    status: str
    message: str
