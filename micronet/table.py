"""Tables on disk: CSV whose first lines say what it is and what made it."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from micronet.io.atomic import atomic_path
from micronet.record import versions

__all__ = ["number_cell", "write_table"]


def write_table(
    path: str | os.PathLike[str],
    title: str,
    comments: Iterable[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    """Write a CSV: lines that begin with # (title, versions, comments), the names of the columns, the rows.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    header = [title, f"made {datetime.now(UTC).isoformat(timespec='seconds')} with {made}", *comments]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        for line in header:
            stream.write(f"# {' '.join(line.split())}\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def number_cell(value: float) -> str:
    """Return a count as it is and a measure with six digits; an empty cell where there is none."""
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6g}"
