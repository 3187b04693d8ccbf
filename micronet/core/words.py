"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, what: str) -> str:
    """Return a number of things, one or several.

    >>> counted(1, "thread"), counted(2500, "voxel")
    ('1 thread', '2,500 voxels')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"
