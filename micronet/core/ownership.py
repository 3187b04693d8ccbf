"""Whose a file is: what we wrote we may replace or remove, all else is a person's and stays.

One rule for every script and the prompts. Before anything is computed the outputs of all inputs of a call are planned
(`Outputs`) and checked (`check_outputs`): none may be a file that the call reads, or be written twice; one that exists
is replaced, or removed because it is out of date, only where a record beside it names it with a size and a SHA-256
that it still has. Everything else is a person's. What a person has changed is foreign from then on, and so is what was
recorded without hashes.

**Nothing is half-written, and nothing of ours becomes foreign.** Outputs are written into a hidden folder beside their
place and moved when all are whole. Before the first is moved, a hidden journal (``.<record>.writing``) names what
stands there and what will; the record comes last and ends the journal. Killed anywhere in between, whatever stands
there is named by the record or by the journal, and the next run takes both at their word.

**What a hostile record can do.** A record is a file from outside, and its seal guards against accident, not intent:
anyone can compute it. So a record never gives us a name: we ask it about our own names, which follow from the call.
The most that a crafted record allows is that a file under one of those names, in the folder of that record and with
exactly the bytes that its maker knew, counts as ours. Whoever can write that record can replace that file as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import make_folder
from micronet.core.names import folded, read_name, write_name
from micronet.core.provenance import read_sealed, sha256_of, write_sealed

__all__ = ["ELSEWHERE", "RECORD_KEYS", "REPLACE", "Mark", "Outputs", "check_outputs"]

#: What helps where a file is in the way, and where it is an earlier result.
ELSEWHERE = f"write elsewhere {setting('output')}"
REPLACE = f"replace it {setting('force')}, or {ELSEWHERE}"

#: What every record holds beside what its maker tells.
RECORD_KEYS = ("made_by", "outputs", "seal")

# What stands around a name while it is written: ".0a1b2c3d.tmp." and, of the journal, "." and ".writing".
_TEMPORARY, _JOURNAL = 14, ".writing"
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Mark:
    """What a record says of a file: its name (relative to the folder of the outputs), size in bytes and SHA-256.

    An output may be a folder, such as an OME-Zarr: it is ours as a whole, with the files and bytes that it had.
    """

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str) -> Mark:
        """Return the mark of a file, or of a folder with all that is in it; FileError when it cannot be read."""
        if path.is_dir():
            return cls(name, *_folder_mark(path))
        return cls(name, path.stat().st_size, sha256_of(path))


class Outputs:
    """The files that one piece of work writes, and the record that names them.

    Parameters
    ----------
    folder : Path
        Where they go; it is made when the first is written.
    record : str
        Name of the record, relative to the folder.
    made_by : str
        What the record says wrote it; one that something else wrote is not replaced.
    names : iterable of str, optional
        The files that are written, relative to the folder. None where they are known only later.
    outdated : iterable of str
        Files that an earlier run may have written and this one does not: they go where they are ours.
    advice : str
        What the message says that helps.
    lasting : bool
        The record stays while files are replaced; else there is none until all are whole.
    """

    def __init__(
        self,
        folder: Path,
        record: str,
        made_by: str,
        names: Iterable[str] | None = (),
        *,
        outdated: Iterable[str] = (),
        advice: str = ELSEWHERE,
        lasting: bool = False,
    ) -> None:
        self.folder = folder
        self.record_path = folder / record
        self.names = None if names is None else tuple(names)
        self.outdated = tuple(outdated)
        self._made_by, self._advice, self._lasting = made_by, advice, lasting
        self._journal = self.record_path.with_name(f".{self.record_path.name}{_JOURNAL}")
        self._written: dict[str, Mark] = {}

    @property
    def paths(self) -> list[Path]:
        """What is written: the files and the record."""
        return [*(self.folder / name for name in self.names or ()), self.record_path]

    def read(self) -> dict[str, Any] | None:
        """Return the record, None where there is none.

        Raises
        ------
        FileError
            If a file of that name is no record of the same maker, or was changed since.
        """
        found = self._sealed(self.record_path)
        if found is None and os.path.lexists(self.record_path):
            raise self._foreign(self.record_path, read_sealed(self.record_path) is None)
        return found

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise FileError where a file that is not ours stands at the place of an output, of the record included."""
        with _locked(self.folder):
            if os.path.lexists(self._journal) and read_sealed(self._journal) is None:
                raise self._foreign(self._journal, True)
            marks = self._marks()
            for name in (self.names or ()) if names is None else names:
                path = self.folder / name
                if os.path.lexists(path) and not _is_one_of(path, marks.get(name, ())):
                    raise self._foreign(path, name in marks)

    def owns(self, name: str) -> bool:
        """Whether a file stands there, and is ours."""
        with _locked(self.folder):
            return _is_one_of(self.folder / name, self._marks().get(name, ()))

    def check_names(self) -> None:
        """Raise FileError where a name is longer than the file system takes, temporary names included."""
        for path in self.paths:
            parent = _existing(path.parent)
            try:
                most = os.pathconf(parent, "PC_NAME_MAX")
            except (OSError, ValueError, AttributeError):  # AttributeError: Windows
                most = _LONGEST_NAME
            needed = len(os.fsencode(path.name)) + _TEMPORARY
            if path == self.record_path:
                needed += len(self._journal.name) - len(path.name)
            if needed > most:
                raise FileError(
                    f"'{path.name}' would be too long a name in '{path.parent}': with what is put before it while "
                    f"it is written {needed} bytes, {most} at most; give the input a shorter name"
                )

    def check_room(self) -> None:
        """Raise FileError where nothing can be written; leaves no trace."""
        for folder in {path.parent: None for path in self.paths}:
            try:
                with tempfile.TemporaryFile(dir=_existing(folder)):
                    pass
            except OSError as error:
                raise FileError(f"cannot write into '{folder}': {error.strerror or error}") from error

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Give a folder to write outputs into; they take their places when the block ends well.

        May be used several times, for what is done bit by bit; `finish` then writes the record.

        Raises
        ------
        FileError
            If something cannot be written, or a file at the place of an output is not ours (any more); those in place
            are then as they were.
        """
        make_folder(self.record_path.parent)
        staging = self.record_path.with_name(f".{secrets.token_hex(4)}.tmp.{self.record_path.name}.d")
        try:
            with _writing_into(self.folder):
                for parent in {(staging / name).parent for name in self.names or ()} | {staging}:
                    parent.mkdir(parents=True, exist_ok=True)
            yield staging
            with _writing_into(self.folder), _locked(self.folder):
                self._commit(staging)
        except FileError as error:  # of a writer, which knows only this folder
            raise FileError(str(error).replace(f"{staging.name}{os.sep}", "")) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def expect(self, mark: Mark) -> None:
        """Note what a file will be, before it is changed in place; what it is now stays ours too."""
        with _writing_into(self.folder), _locked(self.folder):
            marks = self._marks()
            marks[mark.name] = [*marks.get(mark.name, ())[-1:], mark]
            self._write(self._journal, {}, marks)
        self._written.pop(mark.name, None)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files where they are ours, and leave them where they are not."""
        marks = self._marks()
        for name in names:
            path = self.folder / name
            if _is_one_of(path, marks.get(name, ())):
                with contextlib.suppress(OSError):  # it goes the next time
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def withdraw(self) -> None:
        """Remove what is ours where what was to follow failed: a part of a result is none."""
        with contextlib.suppress(FileError), _writing_into(self.folder), _locked(self.folder):
            self.remove(self.names or ())
            if not any(os.path.lexists(self.folder / name) for name in self._marks()):
                self._journal.unlink(missing_ok=True)

    def finish(self, content: Mapping[str, Any]) -> None:
        """Write the record, with the name, size and hash of every output; what is out of date and ours goes.

        FileError when that cannot be done; the outputs are in place, and ours, all the same.
        """
        make_folder(self.folder)
        with _writing_into(self.folder), _locked(self.folder):
            # Of what might have been written, too, and was not: a surface of nothing, a volume that failed.
            left = self.outdated if self._lasting else (*self.outdated, *(self.names or ()))
            self.remove(name for name in left if name not in self._written)
            known = {
                name: _of_that_size(self.folder / name, marks)
                for name, marks in self._marks().items()
                if os.path.lexists(self.folder / name)
            }
            written = {name: [mark] for name, mark in self._written.items()}
            mine = {name: marks for name, marks in written.items() if not self._is_others(marks[0])}
            self._write(self.record_path, content, written | known | mine)
            self._journal.unlink(missing_ok=True)

    def _is_others(self, mark: Mark) -> bool:
        """Whether a call at the same time has put its own file in the place of one of this call."""
        path = self.folder / mark.name
        return os.path.lexists(path) and _bytes(path) != mark.bytes

    def _commit(self, staging: Path) -> None:
        folders = {staging / name for name in self.names or () if (staging / name).is_dir()}
        found = [
            path.relative_to(staging).as_posix()
            for path in sorted(staging.rglob("*"))
            if path in folders or (path.is_file() and not folders.intersection(path.parents))
        ]
        # The names as planned: some disks give them back in another normal form.
        names = found if self.names is None else [name for name in self.names if (staging / name).exists()]
        if len(names) != len(found):
            raise AssertionError(f"written {found}, planned {self.names}")
        new = {name: Mark.of(staging / name, name) for name in names}
        marks = self._marks()  # again: a person may have come in between
        for name, mark in new.items():
            path = self.folder / name
            if os.path.lexists(path) and not _is_one_of(path, [*marks.get(name, ()), mark]):
                raise self._foreign(path, name in marks)
        both = {name: [*marks.get(name, ()), *([new[name]] if name in new else [])] for name in marks | new}
        self._write(self._journal, {}, both)
        if not self._lasting:
            self.record_path.unlink(missing_ok=True)  # from here on the old result is no longer whole
        for name in new:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (self.folder / name).is_dir():  # ours: it makes way, and goes with what else was temporary
                os.rename(self.folder / name, staging / f"{name}.before")
            os.replace(staging / name, self.folder / name)
        self._written |= new

    def _marks(self) -> dict[str, list[Mark]]:
        """Return what the record and the journal say, by name."""
        found: dict[str, list[Mark]] = {}
        for content in (self.read(), self._sealed(self._journal)):
            told = (content or {}).get("outputs")
            for one in told if isinstance(told, list) else []:
                mark = _mark(one)
                if mark is not None and mark not in found.setdefault(mark.name, []):
                    found[mark.name].append(mark)
        return found

    def _write(self, path: Path, content: Mapping[str, Any], marks: Mapping[str, Sequence[Mark]]) -> None:
        told = [asdict(mark) | {"name": write_name(mark.name)} for several in marks.values() for mark in several]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, {**content, "made_by": self._made_by, "outputs": told})

    def _sealed(self, path: Path) -> dict[str, Any] | None:
        found = read_sealed(path)
        return found if found is not None and found.get("made_by") == self._made_by else None

    def _foreign(self, path: Path, changed: bool) -> FileError:
        why = "no record beside it says that we wrote it"
        if changed:
            why = "we did not write it, or it was changed since"
        elif path == self.record_path:
            why = "it is the record of something else"
        return FileError(f"'{path}' is in the way: {why}; it is not replaced, {self._advice}")


def check_outputs(planned: Sequence[Outputs], inputs: Iterable[Path], tells_case: bool | None = None) -> None:
    """Check the outputs of a call before anything is computed.

    Parameters
    ----------
    planned : sequence of Outputs
        Of all inputs of the call.
    inputs : iterable of Path
        Every file that the call reads: volumes with what belongs to them, masks, annotations, weights and their cards,
        data sets. A folder among them, or an OME-Zarr that one of them lies in, is a volume as a whole.
    tells_case : bool, optional
        Whether the disk takes names that differ in case, or in how accents are composed, for two; by default it is
        tried.

    Raises
    ------
    InputError
        If an output would replace one of the inputs, or two outputs would be one file on that disk.
    FileError
        If a file that is not ours stands at the place of an output, a name would be too long, or an output would lie
        inside a volume that is a folder: it would be another volume then.
    """
    inputs = list(inputs)
    read = {identity: path for path in inputs if (identity := _identity(path)) is not None}
    _check_outside(planned, _volume_folders(inputs))

    def source_of(path: Path) -> Path | None:
        identity = _identity(path)
        return None if identity is None else read.get(identity)

    claimed: dict[tuple[object, str], Path] = {}
    apart: dict[Path, bool] = {}  # whether names that differ in case are two files there; tried once a folder
    for outputs in planned:
        outputs.check_names()
        for path in outputs.paths:
            if (source := source_of(path)) is not None:
                raise InputError(f"'{path}' would replace '{source}', which this call reads; {ELSEWHERE}")
            if path.parent not in apart:
                apart[path.parent] = _tells_case(path.parent) if tells_case is None else tells_case
            other = claimed.setdefault(_place(path, apart[path.parent]), path)
            if other is not path:
                one = f"'{path}'" if other == path else f"'{other}' and '{path}', one file on this disk,"
                raise InputError(f"two inputs would both write {one}; run them apart {setting('output')}")
    for outputs in planned:
        outputs.check()
        for name in outputs.outdated:
            source = source_of(outputs.folder / name)
            if source is not None and outputs.owns(name):
                raise InputError(f"'{source}' is read by this call, which would remove it as out of date; {ELSEWHERE}")


def _volume_folders(inputs: Sequence[Path]) -> dict[tuple[int, int], Path]:
    """Return the folders that are one volume each, by identity."""
    above = {folder for parent in {path.parent for path in inputs} for folder in (parent, *parent.parents)}
    stores = [folder for folder in above if folder.name.lower().endswith(".zarr")]
    folders = [path for path in (*stores, *inputs) if path.is_dir()]
    return {identity: path for path in folders if (identity := _identity(path)) is not None}


def _check_outside(planned: Sequence[Outputs], volumes: Mapping[tuple[int, int], Path]) -> None:
    """Raise FileError where an output would lie inside one of these folders, through links too."""
    for folder in {path.parent: None for outputs in planned for path in outputs.paths} if volumes else ():
        volume = _around(folder, volumes)
        if volume is not None:
            here = not folder.is_absolute() and _around(Path(), volumes) is not None
            raise FileError(
                f"'{folder}' lies inside '{volume}', a volume that this call reads and that has to stay as it is; "
                f"{'start from another folder, or ' if here else ''}{ELSEWHERE}"
            )


def _around(folder: Path, volumes: Mapping[tuple[int, int], Path]) -> Path | None:
    """Return which of some folders a folder is, or lies in; None where it is none of them."""
    place = Path(os.path.realpath(folder))
    found = (volumes.get(identity) for one in (place, *place.parents) if (identity := _identity(one)) is not None)
    return next((volume for volume in found if volume is not None), None)


def _mark(told: Any) -> Mark | None:
    """Return what a record says of one file, None where that is nothing we wrote."""
    if not isinstance(told, dict):
        return None
    name, size, digest = (told.get(key) for key in ("name", "bytes", "sha256"))
    if isinstance(name, str) and isinstance(size, int) and isinstance(digest, str):
        return Mark(read_name(name), size, digest)
    return None


def _is_one_of(path: Path, marks: Iterable[Mark]) -> bool:
    """Whether a file is what one of the marks says; it is read only where a size agrees, and never through a link."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if stat.S_ISDIR(status.st_mode):
        return any((mark.bytes, mark.sha256) == _folder_mark(path) for mark in marks)
    digests = {mark.sha256 for mark in marks if mark.bytes == status.st_size}
    return stat.S_ISREG(status.st_mode) and bool(digests) and sha256_of(path) in digests


def _folder_mark(folder: Path) -> tuple[int, str]:
    """Return the bytes of all files in a folder, and a hash of their names and contents; no link is followed."""
    digest, files = hashlib.sha256(), _files_in(folder)
    for file in files:
        whole = "" if file.is_symlink() or not file.is_file() else sha256_of(file)
        digest.update(f"{file.relative_to(folder).as_posix()}\0{whole}\0".encode(errors="surrogateescape"))
    return sum(file.lstat().st_size for file in files), digest.hexdigest()


def _folder_bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in _files_in(folder))


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]


def _of_that_size(path: Path, marks: Sequence[Mark]) -> Sequence[Mark]:
    """Return the marks that a file can have, of those before and after a change that a kill may have prevented."""
    size = _bytes(path)
    return [mark for mark in marks if mark.bytes == size] or marks


def _bytes(path: Path) -> int:
    return _folder_bytes(path) if path.is_dir() else path.lstat().st_size


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what two names of one file share: links, and names on a disk that does not tell case, included."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _place(path: Path, tells_case: bool) -> tuple[object, str]:
    """Return what two paths share that the disk takes for one."""
    folder: object = _identity(path.parent)
    if folder is None:
        whole = os.path.realpath(path.parent)
        folder = whole if tells_case else folded(whole)
    return folder, path.name if tells_case else folded(path.name)


def _tells_case(folder: Path) -> bool:
    """Whether the disk of a folder takes names that differ in case for two; False where that cannot be tried."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".Case", dir=_existing(folder)) as tried:
            name = Path(tried.name)
            return not os.path.lexists(name.with_name(name.name.swapcase()))
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write into '{folder}': {error.strerror or error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes of ours from changing the records of a folder meanwhile, where it can be locked."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # none yet, or none that may be read: what follows will tell
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
