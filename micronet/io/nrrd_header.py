"""The text of a NRRD header: parsed into fields and key/value pairs, and written back.

Format: http://teem.sourceforge.net/nrrd/format.html. Values stay text, so that what is carried on to another
file is carried on to the letter. What a value means pynrrd says, a line at a time when it is asked for: an error then
names its field, and a field that nobody asks for may hold anything. Around it stands what pynrrd lacks: it takes
``:`` and ``:=`` for the same, strips key/value pairs, knows a field by one spelling only, cuts sizes that are no whole
numbers, and breaks vectors at blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError

__all__ = [
    "ENCODINGS",
    "TYPES",
    "NrrdHeader",
    "escape",
    "format_vectors",
    "format_whole",
    "header_text",
    "parse_header",
    "unescape",
]

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

#: The names of voxel types, the one that is written first, by what numpy calls them without byte order.
TYPES = {
    "i1": ("int8", "signed char", "int8_t"),
    "u1": ("uint8", "uchar", "unsigned char", "uint8_t"),
    "i2": ("int16", "short", "short int", "signed short", "signed short int", "int16_t"),
    "u2": ("uint16", "ushort", "unsigned short", "unsigned short int", "uint16_t"),
    "i4": ("int32", "int", "signed int", "int32_t"),
    "u4": ("uint32", "uint", "unsigned int", "uint32_t"),
    "i8": (
        "int64",
        "longlong",
        "long long",
        "long long int",
        "signed long long",
        "signed long long int",
        "int64_t",
    ),
    "u8": ("uint64", "ulonglong", "unsigned long long", "unsigned long long int", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
#: What is read and written, by its names.
ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}

_VECTOR = re.compile(r"\(([^()]*)\)")
_MAGIC = re.compile(r"NRRD000[1-5]")
# As many digits as a double holds, through which pynrrd reads whole numbers.
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
_SINGLE = frozenset({"dimension", "line skip", "byte skip"})
#: No value of sixteen axes, the most that NRRD has, is as long.
_LONGEST_VALUE = 10_000


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
        expected = f"{'one whole number' if name in _SINGLE else 'whole numbers'} of at most 15 digits"
        if not all(_WHOLE.fullmatch(word) for word in self.text(name).split()):
            raise self._unreadable(name, expected)
        return [int(number) for number in np.atleast_1d(self._value(name, expected))]

    def floats(self, name: str) -> list[float]:
        """Return a field of numbers, which may be nan."""
        return [float(number) for number in self._value(name, "numbers")]

    def vectors(self, name: str) -> list[NDArray[np.float64] | None]:
        """Return a field of vectors ``(x,y,z)``; None for ``none``."""
        if self.text(name) == "none":  # of an origin, which pynrrd expects to be told
            return [None]
        value = self._value(name, "vectors such as (1,0,0) or none", _without_blanks)
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return [value]
        return [None if row is None or np.isnan(row).all() else np.asarray(row) for row in value]

    def strings(self, name: str) -> list[str]:
        """Return a field of quoted strings (or words, where a writer forgot the quotes)."""
        return list(self._value(name, "quoted strings"))

    def _value(self, name: str, expected: str, mended: Callable[[str], str] = str) -> Any:
        """Return what pynrrd reads in the line of a field."""
        import nrrd  # here and below: it takes 10 ms, and not everyone has a NRRD
        from nrrd.errors import NRRDError

        text = self.text(name)
        if len(text) > _LONGEST_VALUE:
            raise self._unreadable(name, expected)
        try:
            return nrrd.read_header(["NRRD0005", f"{name}: {mended(text)}"])[name]
        except (NRRDError, ValueError, IndexError, OverflowError):
            raise self._unreadable(name, expected) from None

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


def _without_blanks(text: str) -> str:
    """Return text with no blanks inside its vectors, and one before each.

    >>> _without_blanks("none (2, 0,0)( 0,1 ,0)")
    'none  (2,0,0)  (0,1,0) '
    """
    return _VECTOR.sub(lambda found: f" ({','.join(part.strip() for part in found[1].split(','))}) ", text)


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
    '(4.5,0,0.33333333333333331)'
    """
    import nrrd

    return str(nrrd.format_matrix(vectors))


def format_whole(numbers: Sequence[int]) -> str:
    """Return whole numbers as NRRD text.

    >>> format_whole((5, 4, 3))
    '5 4 3'
    """
    import nrrd

    return str(nrrd.format_number_list(numbers))


def escape(text: str) -> str:
    r"""Return text for a key/value pair: backslash and line break as ``\\`` and ``\n``."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def unescape(text: str) -> str:
    """Undo `escape`."""
    return re.sub(r"\\(\\|n)", lambda found: "\n" if found[1] == "n" else "\\", text)
