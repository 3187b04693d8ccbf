"""Write a file under a temporary name and give it its own name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from micronet.core.errors import FileError

__all__ = ["atomic_path", "free_bytes", "make_folder"]

# Bytes; what common file systems allow.
_LONGEST_NAME = 255
# Those that begin no character in UTF-8.
_INNER_BYTES = bytes(range(0x80, 0xC0))


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, else remove it.

    The temporary name is hidden, lies in the same folder (so that the renaming is one step) and keeps every
    suffix of `path`, for libraries that choose the format by it. Two processes never share a name.

    Parameters
    ----------
    path : path-like
        The file to write; one that exists is replaced, and stays as it was if the block fails.

    Yields
    ------
    Path
        Where the block writes.

    Raises
    ------
    FileError
        If the folder is missing, or the file cannot be created, written or renamed.
    """
    target = Path(path)
    try:
        no_folder, is_folder = not target.parent.is_dir(), target.is_dir()
    except OSError as error:  # a name that no file can have
        raise FileError(f"cannot write '{target}': {error.strerror}") from error
    if no_folder:
        raise FileError(f"cannot write '{target}': the folder '{target.parent}' does not exist")
    if is_folder:
        raise FileError(f"cannot write '{target}': it is a folder")
    prefix = f".{secrets.token_hex(4)}.tmp."
    # A name of full length has no room for the prefix: its beginning gives way, cut where a character begins.
    name = os.fsencode(target.name)[-(_LONGEST_NAME - len(prefix)) :].lstrip(_INNER_BYTES)
    temporary = target.with_name(prefix + os.fsdecode(name))
    try:
        yield temporary
        os.replace(temporary, target)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write '{target}': {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk there is none, and saying so would hide the error
            temporary.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return how much room there is on the disk of a folder, which need not be there yet."""
    here = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(here).free


def make_folder(path: Path) -> None:
    """Make a folder for output, with those above it; FileError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder '{path}': {error.strerror}") from error
