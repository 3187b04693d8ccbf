"""What the scripts share at the terminal: what they say, errors as one line, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from micronet.app.option_types import check_given
from micronet.app.signals import Ended, orderly_end
from micronet.core.errors import SETTINGS, InputError, MicronetError, printable

__all__ = ["option_of", "reason", "run", "tell", "with_options"]

# What people type for a setting, where it is not its name with two dashes.
_OPTIONS = {
    "also_in": "--data DIR",
    "intensity": "--intensity log",
    "interval_s": "--interval",
    "iso_um": "--iso",
    "output": "-o DIR",
    "record_path": "--record",
    "resample_um": "--resample",
    "spacing_um": "--spacing Z,Y,X",
    "start": "--from",
    "tolerance_um": "--tolerance",
}


def tell(text: str) -> None:
    """Print text, above a bar where there is one; nothing in it steers the terminal."""
    tqdm.write(printable(with_options(text)))


def with_options(text: str) -> str:
    """Return text that names options where it named settings (`micronet.core.errors.setting`).

    >>> with_options("the voxel size is not stated (setting: spacing_um)")
    'the voxel size is not stated (--spacing Z,Y,X)'
    """
    return SETTINGS.sub(lambda found: f"({', '.join(map(option_of, found[1].split(', ')))})", text)


def option_of(name: str) -> str:
    """Return what people type for a setting.

    >>> option_of("tolerance_um"), option_of("y_crop")
    ('--tolerance', '--y-crop')
    """
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parse the command line, do the work and leave with its exit code.

    0 success; 2 bad input, told in one line; 1 a fault of ours; 130 interrupted; 128 and the number of the
    signal that ended it. With ``--debug`` errors keep their traceback.
    """
    _prepare_streams()
    parser.error = _complain  # type: ignore[method-assign]
    try:
        arguments = parser.parse_args(argv)
        check_given(parser, arguments)
    except MicronetError as error:
        sys.exit(_fail(f"error: {with_options(str(error))}", 2))
    try:
        with orderly_end():
            code = main(arguments)
    except KeyboardInterrupt:
        code = _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone (`| head`): nothing left to say
        code = 1
    except Ended as ended:
        code = 128 + ended.number
    except MicronetError as error:
        if arguments.debug:
            raise
        code = _fail(f"error: {with_options(str(error))}", 2)
    except Exception as error:
        if arguments.debug:
            raise
        code = _fail(reason(error), 1)
    sys.exit(_end_output(code))


def reason(error: Exception) -> str:
    """Return the line that says what went wrong; what is not a `MicronetError` is a fault of ours."""
    if isinstance(error, MicronetError):
        return with_options(str(error))
    return f"internal error ({type(error).__name__}: {error}) in {_place(error)}; --debug shows how it came to it"


def _place(error: BaseException) -> str:
    """Return the line of ours, ``file:line``, that an error came out of; where there is none, the innermost line."""
    package = Path(__file__).resolve().parents[1]
    frames = traceback.extract_tb(error.__traceback__)
    files = [(Path(frame.filename).resolve(), frame.lineno) for frame in frames]
    ours = [
        (file.relative_to(package.parent).as_posix(), number)
        for file, number in files
        if file.is_relative_to(package) or file.parent == package.parent
    ]
    name, number = ours[-1] if ours else (files[-1][0].name, files[-1][1]) if files else ("an unknown place", 0)
    return f"{name}:{number}"


def _complain(message: str) -> NoReturn:
    """Raise what a parser complains of; it would show its usage first, and a line that may steer the terminal."""
    raise InputError(f"{message}; --help lists the options")


def _prepare_streams() -> None:
    """Make standard output and error take any text at any time, and standard input end where there is none.

    A process that is started with one of them closed has None instead; and the name of a file need not be text.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # stays open to the end
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(f"{printable(line)}\n")
    return code


def _end_output(code: int) -> int:
    """Write what output is still held back; return the exit code, not 0 when that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter tries again when it ends, and complains in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _fail(f"error: cannot write to standard output: {error.strerror}", 2)
        code = code or 1
    return code
