"""What Dask runs first in a worker that `micronet.segment.cluster` starts; it loads nothing else."""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["dask_setup"]


def dask_setup(_: Any) -> None:
    """Leave Ctrl-C, which the terminal sends to all its processes, to the driver, who ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
