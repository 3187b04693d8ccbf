"""One table over a batch: a row for each volume, with how much lumen was found and what is suspicious about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from micronet.core.outcome import Outcome
from micronet.core.ownership import ELSEWHERE, Outputs
from micronet.core.provenance import versions
from micronet.core.table import number_cell, write_table
from micronet.segment.settings import MADE_BY

__all__ = ["BatchSummary", "planned_summary", "summary_lines"]

#: The numbers of a row, by their name in a record and in the table.
_NUMBERS = ("um3", "centreline_um", "radius_median_um")
_COLUMNS = ("volume", "status", "lumen_um3", "centreline_um", "radius_median_um", "warnings")
_COMMENTS = (
    "lumen_um3: volume of the lumen; empty where the voxel size is not known",
    "centreline_um, radius_median_um: length of all centrelines, median radius over their points; with measures only",
    "status: done, skipped (done before), not settled (refinement had not come to rest) or failed",
)


def planned_summary(folder: Path, part: tuple[int, int] | None = None, *, several: bool = False) -> Outputs:
    """Return the table of a batch and its record; a part of a batch writes its own, as do `several` segments.

    >>> [path.name for path in planned_summary(Path(), (2, 4)).paths]
    ['lumens_part_2_of_4.csv', 'lumens_part_2_of_4.csv.json']
    """
    name = ("segments" if several else "lumens") + ("" if part is None else f"_part_{part[0]}_of_{part[1]}") + ".csv"
    return Outputs(folder, f"{name}.json", MADE_BY, [name], advice=f"rename it to keep it, or {ELSEWHERE}")


class BatchSummary:
    """Writes the table, anew with each row, so that what is on disk is whole when a run ends.

    Parameters
    ----------
    outputs : Outputs
        As `planned_summary`.
    words : callable
        Returns a warning as the person is to read it.
    several : bool
        A row for each segment of a volume.
    """

    def __init__(self, outputs: Outputs, words: Callable[[str], str] = str, *, several: bool = False) -> None:
        self._outputs, self._words, self._several = outputs, words, several
        self._outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Append a row; FileError when the table cannot be written."""
        self._outcomes.append(outcome)
        names = self._outputs.names or ()
        with self._outputs.staged() as folder:
            if self._several:
                rows = [
                    [row[0], name, *row[1:]]
                    for outcome in self._outcomes
                    for name, one in by_segment(outcome)
                    for row in [self._row(one)]
                ]
                columns = [_COLUMNS[0], "segment", _COLUMNS[1], "um3", *_COLUMNS[3:]]
                comments = [line.replace("lumen_um3: volume of the lumen", "um3: volume") for line in _COMMENTS]
                write_table(folder / names[0], "segments of a batch", comments, columns, rows)
            else:
                rows = [self._row(outcome) for outcome in self._outcomes]
                write_table(folder / names[0], "lumens of a batch", _COMMENTS, _COLUMNS, rows)

    def _row(self, outcome: Outcome) -> list[str]:
        numbers = ("" if value is None else number_cell(value) for value in numbers_of(outcome.result))
        return [str(outcome.path), outcome.status, *numbers, self._words(warnings_of(outcome))]

    def finish(self) -> None:
        """Write the record of the table."""
        files = {"table": self._outputs.paths[0].name}
        self._outputs.finish({"volumes": len(self._outcomes), "files": files, "versions": versions()})


def summary_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line per volume: status, file, µm³, length and median radius in µm, warnings; names stand above.

    >>> for line in summary_lines(
    ...     [Outcome(Path("a"), "done", "", {"um3": 1234.4}), Outcome(Path("b"), "failed", "bad")]
    ... ):
    ...     print(line)
    status  volume    µm³  length µm  radius µm  warnings
    done    a       1,234          -          -
    failed  b           -          -          -  bad
    """
    rows = [("status", "volume", "µm³", "length µm", "radius µm", "warnings")]
    for name, outcome in (row for each in outcomes for row in by_segment(each)):
        um3, length, radius = (
            "-" if value is None else f"{value:,.{places}f}"
            for value, places in zip(numbers_of(outcome.result), (0, 0, 1), strict=True)
        )
        volume = f"{outcome.path.name}: {name}" if name else outcome.path.name
        rows.append((outcome.status, volume, um3, length, radius, warnings_of(outcome)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row[:5], "<<>>>", widths, strict=True)]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    return lines


def by_segment(outcome: Outcome) -> list[tuple[str, Outcome]]:
    """Return what became of each segment of a volume, with its name; of one that has one mask, that without a name."""
    segments = outcome.result.get("segments")
    if not isinstance(segments, dict):
        return [("", outcome)]
    return [(name, replace(outcome, result=result)) for name, result in segments.items()]


def numbers_of(result: Mapping[str, Any]) -> list[float | None]:
    """Return volume (µm³), length and median radius (µm) as a record has them, None where it does not."""
    found = (result.get(name) for name in _NUMBERS)
    return [float(value) if isinstance(value, int | float) else None for value in found]


def warnings_of(outcome: Outcome) -> str:
    """Return what is suspicious about a result, or why there is none."""
    if outcome.status == "failed":
        return outcome.message
    told = outcome.result.get("warnings")
    return "; ".join(map(str, told)) if isinstance(told, list) else ""
