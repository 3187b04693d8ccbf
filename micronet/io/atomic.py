"""Write a file under a temporary name and give it its own name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from micronet.errors import FileError

__all__ = ["atomic_path"]


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
    if not target.parent.is_dir():
        raise FileError(f"cannot write '{target}': the folder '{target.parent}' does not exist")
    if target.is_dir():
        raise FileError(f"cannot write '{target}': it is a folder")
    temporary = target.with_name(f".{secrets.token_hex(4)}.tmp.{target.name}")
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
