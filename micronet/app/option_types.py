"""What an option of a command line may be: each type states its bounds once, and refuses all else in one line."""

from __future__ import annotations

import argparse
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micronet.core.classes import MOST_CLASSES, check_classes
from micronet.core.errors import FileError, InputError
from micronet.core.names import shortened
from micronet.io.checks import check_dtype, clean_axes, missing
from micronet.measure.cleaning import Cleaning
from micronet.measure.cutting import Cut

__all__ = [
    "THREADS",
    "Real",
    "Sizes",
    "Whole",
    "axes_option",
    "block_option",
    "bytes_option",
    "classes_option",
    "cluster_option",
    "commands_option",
    "device_option",
    "dtype_option",
    "input_option",
    "mask_option",
    "path_option",
    "plane_option",
    "range_option",
    "spacing_option",
    "text_option",
]

# Of what a person typed, in a message.
_SHOWN = 60
# µm: from less than an atom to a metre.
_SPACINGS = (1e-4, 1e6)
_LONGEST_AXIS, _MOST_VOXELS = 1_000_000, 1 << 40
_MOST_BYTES = 10**18
_MOST_PROCESSES = 1024
# What stands for a mask.
_STARTS = ("previous", "blank")
# What common file systems allow.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`.

    >>> Whole(1, 10)("7")
    7
    """

    low: int
    high: int

    def __call__(self, text: str) -> int:
        """Parse the text of an option."""
        # More digits than this are above any bound, and Python refuses thousands of them in words of its own.
        if re.fullmatch(r"[-+]?[0-9]{1,18}", text.strip()) and self.low <= int(text) <= self.high:
            return int(text)
        raise _refused(text, f"a whole number from {self.low} to {self.high}")


#: How many threads may be asked for; more than a machine has cores is slow, many thousands end the process.
THREADS = Whole(1, 1024)


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, which is left out where `below` says so.

    >>> Real(0, 1, below=True)("0.5")
    0.5
    """

    low: float
    high: float
    below: bool = False

    def __call__(self, text: str) -> float:
        """Parse the text of an option."""
        try:
            number = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            number = math.nan
        if self.low <= number <= self.high and not (self.below and number == self.high):
            return number
        raise _refused(text, f"a number from {self.low:g} to {'below ' if self.below else ''}{self.high:g}")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a volume, the slowest axis first: as many as one of `counts` says, and not `most` voxels or more.

    >>> Sizes((3,))("200,260,218")
    (200, 260, 218)
    """

    counts: tuple[int, ...]
    most: int = _MOST_VOXELS

    def __call__(self, text: str) -> tuple[int, ...]:
        """Parse the text of an option."""
        parts = [part.strip() for part in text.replace("x", ",").split(",")]
        if len(parts) in self.counts and all(re.fullmatch(r"[0-9]{1,7}", part) for part in parts):
            sizes = tuple(map(int, parts))
            if min(sizes) > 0 and max(sizes) <= _LONGEST_AXIS and math.prod(sizes) < self.most:
                return sizes
        number = " or ".join({2: "two", 3: "three", 4: "four"}[count] for count in self.counts)
        raise _refused(
            text, f"{number} sizes such as 200,260,218, slowest axis first, fewer than {self.most:.1g} voxels"
        )


def spacing_option(text: str) -> tuple[float, float, float]:
    """Parse ``--spacing``: three lengths Z,Y,X in µm, or one for all three.

    >>> spacing_option("4.5")
    (4.5, 4.5, 4.5)
    >>> spacing_option("5,2,2")
    (5.0, 2.0, 2.0)
    """
    parts = text.replace("x", ",").split(",")
    try:
        lengths = [Real(*_SPACINGS)(part) for part in parts]
    except argparse.ArgumentTypeError:
        lengths = []
    if len(lengths) == 1:
        lengths *= 3
    if len(lengths) != 3:
        low, high = _SPACINGS
        raise _refused(text, f"lengths Z,Y,X in µm such as 5,2,2, or one for all axes, from {low:g} to {high:g}")
    z, y, x = lengths
    return z, y, x


def bytes_option(text: str) -> int:
    """Parse ``--max-ram``: a number of bytes with its unit.

    >>> bytes_option("3GB"), bytes_option("1.5 GiB"), bytes_option("800m")
    (3000000000, 1610612736, 800000000)
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE | re.ASCII)
    if found:
        power = "kmgt".index(found[2].lower()) + 1
        number = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
        if 0 < number <= _MOST_BYTES:
            return number
    raise _refused(text, "a size with its unit, such as 3GB or 800MB")


def device_option(text: str) -> str:
    """Check ``--device``: cpu, or a CUDA device that is there."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise _refused(text, "cpu, cuda or cuda:N")
    if text == "cpu":
        return text
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(text.partition(":")[2] or 0) >= count:
        raise argparse.ArgumentTypeError(f"'{text}': PyTorch sees {count} CUDA devices here")
    return text


def axes_option(text: str) -> str:
    """Check ``--axes``: the letters of a file's axes, slowest first."""
    try:
        return clean_axes(text)
    except InputError:
        raise _refused(text, "Z, Y and X once each, slowest first, such as ZYX (T and C may join)") from None


def classes_option(text: str) -> tuple[str, ...]:
    """Parse ``--classes``: names of two or more.

    >>> classes_option("lumen, wall")
    ('lumen', 'wall')
    """
    try:
        names = check_classes(name.strip() for name in text.split(","))
    except InputError as error:
        raise _refused(text, f"names such as lumen,wall ({error})") from None
    if not 1 < len(names) < MOST_CLASSES:
        raise _refused(text, f"2 to {MOST_CLASSES - 1} names, such as lumen,wall")
    return names


def clean_option(text: str) -> Cleaning:
    """Parse ``--clean``: a smallest volume in µm³, largest, holes, or several of them.

    >>> str(clean_option("500,holes"))
    '500,holes'
    """
    try:
        return Cleaning.of(text)
    except InputError:
        raise _refused(text, "µm³, largest, holes, or several of them, such as 500,largest,holes") from None


def block_option(text: str) -> tuple[int, int, int]:
    """Parse ``--block``: the edge of cubic blocks in voxels, or three lengths Z,Y,X.

    >>> block_option("8"), block_option("2,8,8")
    ((8, 8, 8), (2, 8, 8))
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) in (1, 3) and all(re.fullmatch(r"[0-9]{1,4}", part) for part in parts):
        z, y, x = map(int, parts if len(parts) == 3 else parts * 3)
        if min(z, y, x) > 0 and max(z, y, x) > 1:
            return z, y, x
    raise _refused(text, "voxels along an edge of the blocks, such as 8, or along Z,Y,X, such as 2,8,8")


def cut_option(text: str) -> Cut:
    """Parse ``--threshold-method``: otsu, triangle, or a percentile.

    >>> str(cut_option("percentile:95"))
    'percentile:95'
    """
    try:
        return Cut.of(text)
    except InputError:
        raise _refused(text, "otsu, triangle, or percentile:P with P below 100, such as percentile:95") from None


def resample_option(text: str) -> float | str:
    """Parse ``--resample``: a voxel size in µm; "network" for that of the weights, which is meant without a value."""
    if text == "network":
        return text
    try:
        return Real(*_SPACINGS)(text)
    except argparse.ArgumentTypeError:
        raise _refused(text, "a voxel size in µm such as 4.5, or none; an INPUT goes before the option") from None


def part_option(text: str) -> tuple[int, int]:
    """Parse ``--part``: which part of how many.

    >>> part_option("2/8")
    (2, 8)
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if found and 1 <= int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    raise _refused(text, "a part and how many there are, such as 2/8; the first is 1/8")


def cluster_option(text: str) -> str:
    """Check ``--cluster``: how many processes, the address of a scheduler, or its file.

    >>> cluster_option("8"), cluster_option("tcp://10.0.0.1:8786"), cluster_option("scheduler.json")
    ('8', 'tcp://10.0.0.1:8786', 'scheduler.json')
    """
    if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) and 1 <= int(text) <= _MOST_PROCESSES:
        return str(int(text))
    if re.fullmatch(r"(tcp|tls|ucx|ws|wss)://[^\s/]+", text) or text.endswith(".json"):
        return text
    raise _refused(
        text,
        f"processes on this machine, 1 to {_MOST_PROCESSES}, the address of a scheduler such as tcp://host:8786, or "
        "its file such as scheduler.json",
    )


def dtype_option(text: str) -> str:
    """Check ``--dtype``: a type of voxels that numpy knows and we read."""
    try:
        if re.fullmatch(r"[<>=|]?[A-Za-z]{1,10}[0-9]{0,2}", text):
            check_dtype(np.dtype(text), Path())
            return text
    except (TypeError, ValueError, OSError):
        pass
    raise _refused(text, "a voxel type such as uint8, uint16, float32 or >u2")


def path_option(text: str) -> Path:
    """Check a path: a name that a file can have.

    An empty one, such as a variable of a shell that is not set, would be taken for the folder one is in.
    """
    path = Path(text_option(text))
    if max(map(len, map(os.fsencode, path.parts)), default=0) > _LONGEST_NAME or len(os.fsencode(path)) > _LONGEST_PATH:
        raise _refused(text, f"a name of at most {_LONGEST_NAME} bytes, a path of at most {_LONGEST_PATH}")
    return path


def input_option(text: str) -> Path:
    """Check the path of something that is read; `check_given` looks whether it is there."""
    return path_option(text)


def mask_option(text: str) -> Path:
    """Check what the refinement starts from: a file, or one of two words."""
    return path_option(text)


def check_given(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Raise FileError, which names the option, where a file that it gives is not there: only here that is known."""
    for action in parser._actions:
        given = getattr(arguments, action.dest, None) if action.type in (input_option, mask_option) else None
        for path in given if isinstance(given, list) else [given]:
            word = action.type is mask_option and str(path) in _STARTS
            if path is not None and not word and not os.path.exists(path):
                raise FileError(
                    f"{missing(path)} ({action.option_strings[-1] if action.option_strings else action.metavar})"
                )


def commands_option(text: str) -> str:
    """Take the commands of ``--run`` as they are, none as well; `training.commands` says what is wrong with one."""
    return text


def text_option(text: str) -> str:
    """Check a text: not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, expected a name")
    return text


def plane_option(text: str) -> tuple[str, int]:
    """Parse ``--slice``: an axis and a plane, counted from 0.

    >>> plane_option("z=108")
    ('z', 108)
    """
    found = re.fullmatch(r"\s*([zyxZYX])\s*=\s*([0-9]{1,6})\s*", text, re.ASCII)
    if found is None:
        raise _refused(text, "an axis and a plane, counted from 0, such as z=108")
    return found[1].lower(), int(found[2])


def range_option(text: str) -> tuple[str, int, int]:
    """Parse ``--crop``: an axis, the first voxel shown, and the first that is not.

    >>> range_option("y=0:160")
    ('y', 0, 160)
    """
    found = re.fullmatch(r"\s*([zyxZYX])\s*=\s*([0-9]{1,6})\s*:\s*([0-9]{1,6})\s*", text, re.ASCII)
    if found is None or int(found[2]) >= int(found[3]):
        raise _refused(text, "an axis and from which voxel up to which it is shown, such as y=0:160")
    return found[1].lower(), int(found[2]), int(found[3])


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"'{shortened(text, _SHOWN)}': expected {expected}")
