"""The JSON record beside a result: hashes, versions, machine."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from micronet import __version__
from micronet.errors import FileError
from micronet.io.atomic import atomic_path
from micronet.names import valid

__all__ = ["make_folder", "sha256_of", "versions", "write_json"]


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several one after the other, in hexadecimal.

    FileError when one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise FileError(f"cannot read '{path}': {error.strerror}") from error
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder for output, with those above it; FileError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder '{path}': {error.strerror}") from error


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, and the machine's platform."""
    found = {"micronet": __version__, "python": sys.version.split()[0], "platform": platform.platform()}
    for name in ("torch", "numpy", "scipy", "scikit-image", "numba", "nibabel", "tifffile"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; UTF-8, two blanks a level, names as `micronet.names.write_name` has them."""
    with atomic_path(path) as temporary:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(valid(text), encoding="utf-8")
