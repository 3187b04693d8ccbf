"""A lock that lets one training session at a time write into a folder."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from micronet.core.errors import FileError, setting

__all__ = ["FolderLock"]

_MOST = 100
# What a lock file holds while its session lives, and after one that was killed.
_OURS = re.compile(r"process [0-9]+")


class FolderLock:
    """Lets one session at a time train a network in a folder.

    The system drops the lock when its process ends, however that happens, so that no stale lock can remain; the
    file's content only tells a person who holds it, which filelock's own file does not. It goes when the session ends.
    """

    def __init__(self, folder: Path, network: str) -> None:
        self._path = folder / f".{network}.lock"
        self._network = network
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        descriptor, locked = self._opened()
        if not locked:
            # Windows lets nobody read the first byte, which is what is locked.
            os.lseek(descriptor, 1, os.SEEK_SET)
        holder = os.read(descriptor, _MOST).decode("utf-8", "replace").strip()
        if locked and holder and not _OURS.fullmatch(holder):
            os.close(descriptor)
            raise FileError(f"'{self._path}' is in the way: it is no lock of ours; it is not replaced, move it")
        if not locked:
            os.close(descriptor)
            raise FileError(
                f"another session ({holder or 'of an unknown process'}) trains {self._network} in "
                f"'{self._path.parent}'; end it first, or choose another folder {setting('checkpoints')}"
            )
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"\nprocess {os.getpid()}\n".encode())
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                self._path.unlink()
            with contextlib.suppress(OSError):
                unlock_descriptor(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> tuple[int, bool]:
        """Return the open file, and whether it is locked; not one that another session has removed meanwhile."""
        while True:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise FileError(f"cannot write '{self._path}': {error.strerror}") from error
            locked = _lock(descriptor)
            with contextlib.suppress(OSError):
                if not locked or os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    return descriptor, locked
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock, or return False when another process has it; where nothing can be locked, True."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:  # some network file systems have no locks
        return True
