"""Tables on disk: CSV whose first lines say what it is and what made it."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from micronet.core.errors import printable
from micronet.core.files import atomic_path
from micronet.core.names import write_name
from micronet.core.provenance import versions

__all__ = ["number_cell", "write_table"]


def write_table(
    path: str | os.PathLike[str],
    title: str,
    comments: Iterable[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    """Write a CSV: lines that begin with # (title, versions, comments), the names of the columns, the rows.

    ``pandas.read_csv(path, comment="#")`` reads it, and no cell is a formula to a spreadsheet: a number stands as it
    is, any other text as `core.names.write_name` writes a name. The file appears whole or not at all, and replaces
    an older one: to add a row, all of them are written again, so that what is on disk is complete when a run ends.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    header = [title, f"made {datetime.now(UTC).isoformat(timespec='seconds')} with {made}", *comments]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        for line in header:
            stream.write(f"# {printable(' '.join(line.split()))}\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    try:
        float(str(value))
    except ValueError:
        return write_name(value)
    return value


def number_cell(value: float) -> str:
    """Return a count as it is and a measure with six digits; an empty cell where there is none."""
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6g}"
