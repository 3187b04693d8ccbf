"""What became of one input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    `status` is ``"done"``, ``"skipped"``, ``"not settled"`` (done, but refinement had not come to rest) or
    ``"failed"``; `result` what the record says of a lumen: ``um3``, ``warnings`` and the like.
    """

    path: Path
    status: str
    message: str
    result: Mapping[str, Any] = field(default_factory=dict)
