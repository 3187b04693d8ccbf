"""Names of files, volumes and segments: one way to write them into text, one way to compare them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from micronet.core.errors import InputError

__all__ = [
    "check_apart",
    "existing",
    "file_part",
    "folded",
    "listed",
    "name_key",
    "read_name",
    "recording_of",
    "same_but_for_case",
    "same_name",
    "shortened",
    "valid",
    "write_name",
]

# A cell of a table that begins with one of these is a formula to a spreadsheet; the last four are the same, full width.
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"


def write_name(name: str | Path) -> str:
    r"""Return a name as every text that we write has it: tables, records, pages, plots, data-set files.

    Parameters
    ----------
    name : str or Path
        Of a file, folder, volume or segment, as Python has it: bytes that are no UTF-8 are surrogates.

    Returns
    -------
    str
        The name, but each byte of some characters as ``%`` and two hexadecimal digits, as in the address of a web page
        (RFC 3986): of ``%`` itself; of ``#``, which begins a comment in a table; of what is not printable (line breaks,
        controls, what turns the direction of writing); bytes that are no UTF-8; and of a first character that would
        begin a formula in a spreadsheet (= + - @). It is valid UTF-8, one line, and `read_name` gives the name back.
        Accents stay as they are, composed or not: `same_name` compares names.

    Examples
    --------
    >>> write_name("Gefäß 3.nrrd"), write_name("a#b"), write_name("=1+1|cmd"), write_name("100%")
    ('Gefäß 3.nrrd', 'a%23b', '%3D1+1|cmd', '100%25')
    >>> write_name("Gef\udce4\udcdf"), write_name("two\nlines")
    ('Gef%E4%DF', 'two%0Alines')
    """
    return "".join(
        _escaped(character)
        if character in "%#" or not character.isprintable() or (place == 0 and character in _FORMULA)
        else character
        for place, character in enumerate(str(name))
    )


def _escaped(character: str) -> str:
    byte = "\udc80" <= character <= "\udcff"  # of a name that is no UTF-8
    return "".join(f"%{code:02X}" for code in character.encode(errors="surrogateescape" if byte else "surrogatepass"))


def valid(text: str) -> str:
    r"""Return text that is no name with what UTF-8 cannot hold written as `write_name` does it.

    >>> valid("'Gef\udce4' # 50 %")
    "'Gef%E4' # 50 %"
    """
    return "".join(_escaped(character) if "\ud800" <= character <= "\udfff" else character for character in text)


def file_part(name: str) -> str:
    """Return a name as a part of a file's name: all but letters, digits and + - . _ as `write_name` writes it.

    >>> file_part("a/b c"), file_part("ä_1.5")
    ('a%2Fb%20c', 'ä_1.5')
    """
    return "".join(
        character
        if character.isalnum() or unicodedata.combining(character) or character in "+-._"
        else _escaped(character)
        for character in name
    )


def read_name(text: str) -> str:
    r"""Return the name that `write_name` wrote.

    >>> read_name("a%23b"), read_name("Gef%E4%DF")
    ('a#b', 'Gef\udce4\udcdf')
    """
    return unquote(text, errors="surrogateescape")


def name_key(name: str) -> str:
    """Return what two names have in common that a person calls the same, however their accents are put together.

    It is the composed normal form (Unicode's NFC); upper and lower case differ, as on most disks of scientific
    computers and between published volumes.
    """
    return unicodedata.normalize("NFC", name)


def same_name(name: str, other: str) -> bool:
    r"""Whether two names are the same to a person: equal, or with accents put together differently.

    >>> same_name("Gefa\u0308ß", "Gef\u00e4ß"), same_name("a", "A")
    (True, False)
    """
    return name_key(name) == name_key(other)


def folded(name: str) -> str:
    r"""Return what two names have in common that some disk takes for one: upper and lower case, accents.

    >>> folded("Ä.nrrd") == folded("a\u0308.NRRD")
    True
    """
    return name_key(unicodedata.normalize("NFD", name).casefold())


def same_but_for_case(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that differ in nothing but case.

    >>> same_but_for_case(["a", "B", "A", "a"])
    [('a', 'A')]
    """
    first: dict[str, str] = {}
    pairs = ((first.setdefault(folded(name), name), name) for name in names)
    return [(one, two) for one, two in pairs if not same_name(one, two)]


def check_apart(named: Iterable[tuple[str, Path]]) -> list[str]:
    """Raise InputError when two inputs would write files of the same name; return what is nearly so, for the person.

    Parameters
    ----------
    named : iterable of (str, Path)
        How the names of an input's results begin, and the input.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for name, path in named:
        other = seen.setdefault(name_key(name), (name, path))[1]
        if other is not path:
            raise InputError(f"'{path}' and '{other}' would both write {name}.*; run them apart with -o")
    return [
        f"'{one}' and '{two}' differ only in case: on some disks their results are the same files"
        for one, two in same_but_for_case(name for name, _ in seen.values())
    ]


def recording_of(stem: str) -> str:
    """Return what the names of time points have in common: without number, or t and number, at the end.

    >>> recording_of("beat_t003"), recording_of("beat 12"), recording_of("E9.5"), recording_of("7")
    ('beat', 'beat', 'E9', '7')
    """
    # An accent of its own, or a byte that is no text, belongs to the name.
    return re.sub(r"[\s!-/:-@\[-`{-~]*[tT]?\d*$", "", stem) or stem


def existing(path: Path) -> Path:
    """Return the path of what is there under a name that is the same to a person; `path` itself where nothing is.

    A name that was typed, in a data set say, has its accents composed; that of a file from a Mac may not.
    """
    try:
        if path.exists() or path.parent == path or str(path).isascii():
            return path
        folder = existing(path.parent)
        if (folder / path.name).exists():
            return folder / path.name
        found = [file for file in folder.iterdir() if same_name(file.name, path.name)]
    except (OSError, ValueError, RecursionError):  # a name that no file can have
        return path
    return found[0] if len(found) == 1 else path


def shortened(text: str, most: int) -> str:
    """Return text of at most so many characters, its middle left out where it is longer.

    >>> shortened("abcdefghij", 5)
    'ab…ij'
    """
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names for a line, the first of them where there are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
