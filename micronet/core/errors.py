"""The errors that a person can cause, each with a message fit to be shown as it is."""

from __future__ import annotations

__all__ = ["FileError", "InputError", "MicronetError", "printable"]

# Room for a path, a list and an advice; the advice stands at the end.
_LONGEST, _END = 1000, 300


class MicronetError(Exception):
    """Root of every error that micronet raises on purpose; each of its lines is printable and of bounded length."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(_shown(line) for line in lines))


class InputError(MicronetError, ValueError):
    """A value, array or option is not what was expected."""


class FileError(MicronetError, OSError):
    """A file cannot be read or written, or does not hold what its name promises."""


def printable(text: str) -> str:
    r"""Return text in which whatever would steer a terminal is written out; line breaks stay.

    Names and headers come from files, and a file may hold anything.

    >>> printable("a\x1b[2Jb µ")
    'a\\x1b[2Jb µ'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _shown(line: str) -> str:
    text = printable(line.replace("\n", "\\n"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - _END]} .. {text[-_END:]}"
