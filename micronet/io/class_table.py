"""Tables (CSV) that say which classes each image holds: a line an image, a column a class, 1 or 0 in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from micronet.core.errors import FileError, InputError
from micronet.core.names import listed, name_key, read_name

__all__ = ["UNKNOWN", "ClassTable", "Row", "apart_by", "read_class_table"]

#: What a label is where nobody said.
UNKNOWN = -1
_NAME, _SPLIT = "name", "split"
_LARGEST_FILE = 64_000_000
_CELLS = {"1": 1, "0": 0, "": UNKNOWN}


@dataclass(frozen=True)
class Row:
    """What a table says of one image: its split where the table has them, and 1, 0 or `UNKNOWN` for each class."""

    name: str
    split: str | None
    labels: tuple[int, ...]


@dataclass(frozen=True)
class ClassTable:
    """A table: the names of its classes, its rows in their order, and what is wrong with it."""

    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[str, ...]


def read_class_table(path: Path, classes: Sequence[str] = ()) -> ClassTable:
    """Read a table, RFC 4180 in UTF-8; lines before the first that begin with # are left out.

    Parameters
    ----------
    path : Path
        Its first line is ``name``, ``split`` if it has splits, and the names of the classes. Names of images are as
        `core.names.write_name` writes them; a cell of a class is 1, 0, or empty where nobody said.
    classes : sequence of str
        Those to be read, in this order; all where none are given.

    Returns
    -------
    ClassTable
        All that is wrong with its lines is in `problems`.

    Raises
    ------
    FileError
        If the file cannot be read, or is no such table.
    """
    lines = csv.reader(io.StringIO(_text(path)), strict=True)
    try:
        header = [name_key(cell.strip()) for cell in next(lines, [])]
        chosen = _columns(path, header, classes)
        return _rows(path, header, chosen, lines)
    except csv.Error as error:
        raise FileError(f"'{path}', line {lines.line_num}: it is no CSV ({error})") from error


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"'{path}' is no file")
        if path.stat().st_size > _LARGEST_FILE:
            raise FileError(f"'{path}' has {path.stat().st_size:,} bytes: too large for a table of classes")
        text = path.read_bytes().decode("utf-8-sig")
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"'{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"'{path}' is no text in UTF-8") from error
    while text.startswith("#"):  # what our tables begin with
        text = text.partition("\n")[2]
    return text


def _columns(path: Path, header: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Return the columns of the classes by their names; FileError where the first line does not name them."""
    found = [cell for cell in header if cell not in (_NAME, _SPLIT)]
    if _NAME not in header or not found or not all(header) or len(set(header)) < len(header):
        raise FileError(
            f"'{path}': its first line must be {_NAME}, {_SPLIT} if it has splits, and a column for each class, each "
            f"once; found {listed([*header]) or 'nothing'}{apart_by(header)}"
        )
    if absent := [name for name in classes if name_key(name) not in found]:
        raise FileError(f"'{path}' has no column {listed(absent)}; it has {listed(found)}")
    return {name: header.index(name_key(name)) for name in (classes or found)}


def apart_by(header: Sequence[str]) -> str:
    """Return what to add to a message on a first line that a spreadsheet wrote with something else than commas.

    >>> apart_by(["name;split;ring"])
    '; its cells are apart by semicolons, expected commas'
    """
    for character, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and character in header[0]:
            return f"; its cells are apart by {name}, expected commas"
    return ""


def _rows(path: Path, header: Sequence[str], columns: dict[str, int], lines: csv.Reader) -> ClassTable:  # type: ignore[name-defined]
    rows, problems, seen = [], list[str](), dict[tuple[str, str | None], int]()
    for cells in lines:
        place = f"'{path.name}', line {lines.line_num}"
        if not cells:
            continue
        if len(cells) != len(header):
            problems.append(f"{place}: {len(cells)} cells, expected {len(header)}")
            continue
        try:
            row = _row(header, columns, [cell.strip() for cell in cells])
        except InputError as error:
            problems.append(f"{place}: {error}")
            continue
        key = (name_key(row.name), row.split)
        if key in seen:
            problems.append(f"{place}: image {row.name} is in line {seen[key]} already")
        seen.setdefault(key, lines.line_num)
        rows.append(row)
    if not rows and not problems:
        problems.append(f"'{path.name}' names no image")
    return ClassTable(tuple(columns), tuple(rows), tuple(problems))


def _row(header: Sequence[str], columns: dict[str, int], cells: Sequence[str]) -> Row:
    name = read_name(cells[header.index(_NAME)])
    if not name:
        raise InputError("the name of the image is missing")
    for of, column in columns.items():
        if cells[column] not in _CELLS:
            raise InputError(f"{of} of image {name} is '{cells[column]}', expected 1, 0, or nothing where unknown")
    split = cells[header.index(_SPLIT)] if _SPLIT in header else None
    return Row(name, split, tuple(_CELLS[cells[column]] for column in columns.values()))
