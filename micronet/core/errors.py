"""The errors that a person can cause, each with a message fit to be shown as it is."""

from __future__ import annotations

import re

__all__ = ["SETTINGS", "FileError", "InputError", "MicronetError", "printable", "setting"]

# Room for a path, a list and an advice; the advice stands at the end.
_LONGEST, _END = 1000, 300

#: What `setting` writes; group 1 holds the names.
SETTINGS = re.compile(r"\(settings?: (\w+(?:, \w+)*)\)")


class MicronetError(Exception):
    """Root of every error that micronet raises on purpose; each of its lines is printable and of bounded length."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(_shown(line) for line in lines))


class InputError(MicronetError, ValueError):
    """A value, array or option is not what was expected."""


class FileError(MicronetError, OSError):
    """A file cannot be read or written, or does not hold what its name promises."""


def setting(*names: str) -> str:
    """Return how a message names the settings that help, by their names in Python.

    Only the scripts have options: `micronet.app.terminal.with_options` puts them in the place of this.

    >>> f"the voxel size is not stated {setting('spacing_um')}"
    'the voxel size is not stated (setting: spacing_um)'
    >>> setting("shape", "dtype")
    '(settings: shape, dtype)'
    """
    return f"(setting{'s' if len(names) > 1 else ''}: {', '.join(names)})"


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
