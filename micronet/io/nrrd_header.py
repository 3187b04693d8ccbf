"""The text of a NRRD header: parsed into fields and key/value pairs, and written back.

Format: http://teem.sourceforge.net/nrrd/format.html. Values stay text, so that what is carried on to another
file is carried on to the letter; the few that matter are interpreted on request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micronet.errors import FileError

__all__ = ["NrrdHeader", "escape", "format_vectors", "header_text", "parse_header", "unescape"]

_FIELDS = (
    "type",
    "dimension",
    "space",
    "space dimension",
    "sizes",
    "space directions",
    "kinds",
    "endian",
    "encoding",
    "block size",
    "min",
    "max",
    "old min",
    "old max",
    "content",
    "number",
    "sample units",
    "spacings",
    "thicknesses",
    "axis mins",
    "axis maxs",
    "centerings",
    "labels",
    "units",
    "space units",
    "space origin",
    "measurement frame",
    "line skip",
    "byte skip",
    "data file",
)
#: Field names are written with and without spaces, and in any case.
_CANONICAL = {name.replace(" ", ""): name for name in _FIELDS}

_VECTOR = re.compile(r"none|\(([^()]*)\)")
_MAGIC = re.compile(r"NRRD000[1-5]")


@dataclass(frozen=True)
class NrrdHeader:
    """The fields (``name: text``) and key/value pairs (``key:=text``, still escaped) of a NRRD header.

    Parameters
    ----------
    fields : mapping of str to str
        By the name that the specification gives them; unknown fields are kept under their own name.
    pairs : mapping of str to str
        In the order of the file.
    name : str
        The file, for messages.
    """

    fields: Mapping[str, str]
    pairs: Mapping[str, str] = field(default_factory=dict)
    name: str = "header"

    def text(self, name: str) -> str:
        """Return the text of a field; FileError where it is missing."""
        if name not in self.fields:
            raise FileError(f"'{self.name}': the NRRD header has no '{name}'")
        return self.fields[name]

    def integers(self, name: str) -> list[int]:
        """Return a field of whole numbers."""
        try:
            return [int(word) for word in self.text(name).split()]
        except ValueError:
            raise self._unreadable(name, "whole numbers") from None

    def floats(self, name: str) -> list[float]:
        """Return a field of numbers, which may be nan."""
        try:
            return [float(word) for word in self.text(name).split()]
        except ValueError:
            raise self._unreadable(name, "numbers") from None

    def vectors(self, name: str) -> list[NDArray[np.float64] | None]:
        """Return a field of vectors ``(x,y,z)``; None for ``none``."""
        text = self.text(name)
        if _VECTOR.sub("", text).strip():
            raise self._unreadable(name, "vectors such as (1,0,0) or none")
        try:
            return [
                None if found[1] is None else np.array([float(word) for word in found[1].split(",")])
                for found in _VECTOR.finditer(text)
            ]
        except ValueError:
            raise self._unreadable(name, "vectors such as (1,0,0) or none") from None

    def strings(self, name: str) -> list[str]:
        """Return a field of quoted strings (or words, where a writer forgot the quotes)."""
        text = self.text(name)
        return re.findall(r'"([^"]*)"', text) if '"' in text else text.split()

    def _unreadable(self, name: str, expected: str) -> FileError:
        text = self.fields[name]
        return FileError(f"'{self.name}': '{name}: {text[:80]}' in the NRRD header should be {expected}")


def parse_header(lines: Iterable[str], name: str = "header") -> NrrdHeader:
    """Parse the lines of a NRRD header, from the magic to the first blank line or the end.

    Parameters
    ----------
    lines : iterable of str
        With or without line ends.
    name : str
        The file, for messages.

    Raises
    ------
    FileError
        If the magic is missing, a line is neither field nor key/value pair, or a name occurs twice.

    Examples
    --------
    >>> lines = ["NRRD0004", "type: uint8", "# a comment", "spacedirections: none (2, 0, 0)", "key:=a: b"]
    >>> header = parse_header(lines)
    >>> header.fields["type"], header.vectors("space directions"), header.pairs["key"]
    ('uint8', [None, array([2., 0., 0.])], 'a: b')
    """
    remaining = iter(lines)
    magic = next(remaining, "").rstrip()
    if not _MAGIC.fullmatch(magic):
        raise FileError(
            f"'{name}' is not a NRRD file that can be read: it starts with {magic[:20]!r}, not NRRD0001 to 5"
        )
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in remaining:
        text = line.rstrip()
        if not text:
            break
        if text.startswith("#"):
            continue
        found = re.match(r"([^:]+):(=?)(.*)", text)
        if not found:
            raise FileError(f"'{name}': cannot make sense of the NRRD header line {text[:80]!r}")
        key, equals, value = found[1].strip(), found[2], found[3]
        target = pairs if equals else fields
        if not equals:
            key = _CANONICAL.get(key.replace(" ", "").lower(), key)
            value = value.strip()
        if key in target:
            raise FileError(f"'{name}': '{key}' stands twice in the NRRD header")
        target[key] = value
    return NrrdHeader(fields, pairs, name)


def header_text(fields: Mapping[str, str], pairs: Mapping[str, str], path: Path) -> str:
    """Return the text of a header, without the blank line; FileError where a value would break it."""
    lines = ["NRRD0005"]
    lines += [f"{name}: {fields[name]}" for name in _FIELDS if name in fields]
    lines += [f"{key}:={value}" for key, value in pairs.items()]
    if any("\n" in line or "\r" in line for line in lines) or any(not key or ":" in key for key in pairs):
        raise FileError(f"cannot write '{path}': a header entry holds a line break, or a key is empty or holds ':'")
    return "\n".join(lines) + "\n"


def format_vectors(vectors: NDArray[np.float64]) -> str:
    """Return vectors as NRRD text that reads back to the same numbers, bit for bit.

    >>> format_vectors(np.array([[4.5, 0, 1 / 3]]))
    '(4.5,0,0.3333333333333333)'
    """
    return " ".join("(" + ",".join(_number(float(x)) for x in vector) + ")" for vector in vectors)


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def escape(text: str) -> str:
    r"""Return text for a key/value pair: backslash and line break as ``\\`` and ``\n``."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def unescape(text: str) -> str:
    """Undo `escape`."""
    return re.sub(r"\\(\\|n)", lambda found: "\n" if found[1] == "n" else "\\", text)
