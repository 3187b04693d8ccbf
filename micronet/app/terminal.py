"""What the scripts share at the terminal: option types, errors as one line, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from tqdm import tqdm

from micronet.app.option_types import Whole
from micronet.core.errors import SETTINGS, FileError, InputError, MicronetError, printable
from micronet.core.threads import physical_cores
from micronet.io import VOLUME_SUFFIXES, is_volume_path
from micronet.io.bscans import natural_order
from micronet.networks import engine
from micronet.networks.registry import Network

__all__ = [
    "THREADS",
    "add_common_options",
    "inputs_from",
    "reason",
    "run",
    "set_engine",
    "set_threads",
    "tell",
    "with_options",
]

# What people type for a setting, where it is not its name with two dashes.
_OPTIONS = {
    "also_in": "--data DIR",
    "interval_s": "--interval",
    "iso_um": "--iso",
    "output": "-o DIR",
    "record_path": "--record",
    "spacing_um": "--spacing Z,Y,X",
    "tolerance_um": "--tolerance",
}

#: How many threads may be asked for; more than a machine has cores is slow, many thousands end the process.
THREADS = Whole(1, 1024)


def inputs_from(paths: Sequence[Path], *, raw: bool) -> list[Path]:
    """Return the files named, and for each folder the volumes in it, in the order of the numbers in their names.

    Segmentations (.seg.nrrd), our own probabilities and label TIFFs are no inputs, headerless files only with `raw`.
    FileError when a folder holds no volume.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = [
            file
            for file in sorted(path.iterdir(), key=natural_order)
            if is_volume_path(file)
            and not file.name.endswith((".seg.nrrd", "_probability.nrrd", "_labels.tif"))
            and (raw or file.suffix != ".raw")
        ]
        if not found:
            raise FileError(f"'{path}' is a folder without volumes ({', '.join(VOLUME_SUFFIXES)})")
        files += found
    return files


def tell(text: str) -> None:
    """Print text, above a bar where there is one; nothing in it steers the terminal."""
    tqdm.write(printable(with_options(text)))


def with_options(text: str) -> str:
    """Return text that names options where it named settings (`micronet.core.errors.setting`).

    >>> with_options("the voxel size is not stated (setting: spacing_um)")
    'the voxel size is not stated (--spacing Z,Y,X)'
    """
    return SETTINGS.sub(lambda found: f"({', '.join(map(_option, found[1].split(', ')))})", text)


def _option(name: str) -> str:
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")


def set_threads(threads: int | None) -> int:
    """Let PyTorch and the numba engine work with this many threads (default: physical cores); return the number."""
    number = threads or physical_cores()
    torch.set_num_threads(number)
    return number


def set_engine(choice: engine.Engine, network: Network, *, training: bool = False, device: str = "cpu") -> str:
    """Choose who computes a network, compile it if this is its first use here, and return its name for the person.

    What is compiled is kept for the next time; a line and a bar say so while it happens, and a line where it is not.
    """
    engine.choose(choice)
    if choice == "torch" or device != "cpu" or network.tiling != "slabs" or not engine.available():
        return "PyTorch"
    if not engine.is_ready(training):
        sys.stderr.write("compiling the engine for this machine, once; this takes about half a minute\n")
        with tqdm(total=100, leave=False, disable=None, unit="%", bar_format="{l_bar}{bar}| {elapsed}") as bar:

            def progress(fraction: float) -> None:
                bar.update(round(100 * fraction) - bar.n)

            engine.make_ready(training, progress)
        if reason := engine.unkept():
            sys.stderr.write(
                printable(f"the compiled engine is not kept ({reason}): the next start compiles it again; ")
                + "NUMBA_CACHE_DIR names another folder\n"
            )
    return "numba engine"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script has."""
    parser.add_argument("--threads", type=THREADS, metavar="N", help="threads to work with (default: physical cores)")
    parser.add_argument(
        "--engine",
        choices=("auto", "numba", "torch"),
        default="auto",
        help="who computes the networks: auto (default) takes numba on the CPU where it is installed",
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback when something fails")


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
    except InputError as error:
        sys.exit(_fail(f"error: {with_options(str(error))}", 2))
    try:
        with _orderly_end():
            code = main(arguments)
    except KeyboardInterrupt:
        code = _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone (`| head`): nothing left to say
        code = 1
    except _Ended as ended:
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


class _Ended(BaseException):
    """A signal asks us to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the work as an error would, so that no half-written file stays behind."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        for other in taken:  # a terminal that closes may send more than one
            signal.signal(other, signal.SIG_IGN)
        raise _Ended(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # Only the main thread may, and what whoever started us wants ignored (nohup: SIGHUP) stays ignored.
    here = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if here and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


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
