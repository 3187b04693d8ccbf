"""The JSON record beside a result: hashes, versions, machine."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import stat
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from micronet.core.errors import FileError
from micronet.core.files import atomic_path
from micronet.core.names import valid
from micronet.core.version import __version__

__all__ = ["now", "read_sealed", "sha256_of", "versions", "write_json", "write_sealed"]

# A record may name some ten thousand files.
_LARGEST_RECORD = 16_000_000
# The end of a sealed record: the SHA-256 of its bytes, with noughts in the place of the seal itself.
_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"\n\}\n\Z')


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def sha256_of(*paths: Path, opened: Callable[[Path], BinaryIO] = _opened) -> str:
    """Return the SHA-256 of a file, or of several one after the other, in hexadecimal.

    FileError when one cannot be read. `opened` gives the stream of a file, from its beginning.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with opened(path) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise FileError(f"cannot read '{path}': {error.strerror}") from error
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, and the machine's platform."""
    found = {"micronet": __version__, "python": sys.version.split()[0], "platform": platform.platform()}
    return found | {
        name: _installed(name) for name in ("torch", "numpy", "scipy", "scikit-image", "numba", "nibabel", "tifffile")
    }


@functools.cache
def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; UTF-8, two blanks a level, names as `core.names.write_name` has them."""
    _write(path, _text(record))


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as `write_json` does, with a ``seal`` at its end that shows whether it was changed since."""
    blank = _text({**{key: value for key, value in record.items() if key != "seal"}, "seal": "0" * 64})
    _write(path, _sealed(blank, hashlib.sha256(blank).hexdigest().encode()))


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Return the record that `write_sealed` wrote; None where there is none, or one that was changed since."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_RECORD:
            return None
        found = path.read_bytes()
        seal = _SEAL.search(found)
        if seal is None or hashlib.sha256(_sealed(found, b"0" * 64)).hexdigest().encode() != seal[1]:
            return None
        content = json.loads(found)
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _sealed(text: bytes, seal: bytes) -> bytes:
    end = len(text) - len('"\n}\n')
    return text[: end - 64] + seal + text[end:]


def _text(record: Mapping[str, Any]) -> bytes:
    return valid(json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _write(path: Path, text: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(text)


def now() -> str:
    """Return the time with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
