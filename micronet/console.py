"""What the scripts share at the terminal: option types, errors as one line, exit codes."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from micronet import engine
from micronet.errors import FileError, InputError, MicronetError, printable
from micronet.io import VOLUME_SUFFIXES, is_volume_path
from micronet.io.bscans import natural_order
from micronet.kernels.threads import physical_cores
from micronet.segment import Outcome

__all__ = [
    "add_common_options",
    "bytes_option",
    "device_option",
    "inputs_from",
    "run",
    "set_engine",
    "set_threads",
    "shape_option",
    "spacing_option",
    "status_table",
    "telling",
]


def spacing_option(text: str) -> tuple[float, float, float]:
    """Parse ``--spacing``: three lengths Z,Y,X in µm, or one for all three.

    >>> spacing_option("4.5")
    (4.5, 4.5, 4.5)
    >>> spacing_option("5,2,2")
    (5.0, 2.0, 2.0)
    """
    try:
        lengths = [float(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        lengths = []
    if len(lengths) == 1:
        lengths *= 3
    if len(lengths) != 3 or not all(0 < length < float("inf") for length in lengths):
        raise argparse.ArgumentTypeError(f"'{text}': give Z,Y,X in µm such as 5,2,2, or one length for all axes")
    z, y, x = lengths
    return z, y, x


def shape_option(text: str) -> tuple[int, ...]:
    """Parse ``--shape``: the three sizes of a headerless file, slowest axis first, or four where one is time."""
    parts = text.replace("x", ",").split(",")
    if len(parts) not in (3, 4) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}': give three sizes such as 200,260,218, slowest axis first")
    return tuple(int(part) for part in parts)


def bytes_option(text: str) -> int:
    """Parse ``--max-ram``: a number of bytes with its unit.

    >>> bytes_option("3GB"), bytes_option("1.5 GiB"), bytes_option("800m")
    (3000000000, 1610612736, 800000000)
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}': give a size with its unit, such as 3GB or 800MB")
    power = "kmgt".index(found[2].lower()) + 1
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def device_option(text: str) -> str:
    """Check ``--device``: cpu, or a CUDA device that is there."""
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"'{text}': give cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"'{text}': give cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise argparse.ArgumentTypeError(f"'{text}': PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return text


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


def status_table(outcomes: Sequence[Outcome]) -> str:
    """Return one line per input: status, file, what came of it; then the count of each status."""
    width = max(len(outcome.path.name) for outcome in outcomes)
    lines = [printable(f"{outcome.status:<8}{outcome.path.name:<{width}}  {outcome.message}") for outcome in outcomes]
    counts = Counter(outcome.status for outcome in outcomes)
    return "\n".join([*lines, ", ".join(f"{number} {status}" for status, number in counts.items())])


def telling(bar: tqdm[Any]) -> Callable[[str], None]:
    """Return what prints text above a bar; nothing in it steers the terminal."""
    return lambda text: bar.write(printable(text))


def set_threads(threads: int | None) -> int:
    """Let PyTorch and the numba engine work with this many threads (default: physical cores); return the number."""
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be at least 1, found {threads}")
    number = threads or physical_cores()
    torch.set_num_threads(number)
    return number


def set_engine(choice: engine.Engine, *, training: bool = False, device: str = "cpu") -> str:
    """Choose who computes, compile it if this is its first use here, and return its name for the person.

    What is compiled is kept for the next time; a line and a bar say so while it happens.
    """
    engine.choose(choice)
    if choice == "torch" or device != "cpu" or not engine.available():
        return "PyTorch"
    if not engine.is_ready(training):
        sys.stderr.write("compiling the engine for this machine, once; this takes about half a minute\n")
        with tqdm(total=100, leave=False, disable=None, unit="%", bar_format="{l_bar}{bar}| {elapsed}") as bar:

            def progress(fraction: float) -> None:
                bar.update(round(100 * fraction) - bar.n)

            engine.make_ready(training, progress)
    return "numba engine"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script has."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads to work with (default: physical cores)")
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

    0 success; 2 bad input, told in one line; 1 a fault of ours; 130 interrupted. With ``--debug`` errors keep
    their traceback.
    """
    _prepare_output()
    arguments = parser.parse_args(argv)
    try:
        code = main(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone (`| head`): nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except MicronetError as error:
        if arguments.debug:
            raise
        code = _fail(f"error: {error}", 2)
    except Exception as error:
        if arguments.debug:
            raise
        code = _fail(f"internal error ({type(error).__name__}: {error}); --debug shows where", 1)
    sys.exit(code)


def _prepare_output() -> None:
    """Make standard output and error take any text at any time.

    A process that is started with one of them closed has None instead; and the name of a file need not be text.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # stays open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(line: str, code: int) -> int:
    sys.stderr.write(f"{line}\n")
    return code
