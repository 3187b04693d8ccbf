"""Looks through a weight or session file before PyTorch reads it, and gives PyTorch what was looked at, nothing else.

Two readers of one zip archive may see two lists of files in it (Python's looks for the list before the end record,
PyTorch's where that record points to). So the file is read once, its entries are checked and unpacked into an archive
made here, and PyTorch gets that one.

PyTorch's own restricted reader runs no code, but it builds whatever else it is asked for: a byte array of any length, a
tensor without data, a key whose hash takes years. A state dict needs almost none of that, so a few names suffice.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from micronet.core.errors import FileError

__all__ = ["checked_archive"]

_GLOBALS = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {f"torch {kind}Storage" for kind in "Float Double Half BFloat16 Long Int Short Char Byte Bool".split()}
)
# What `torch.save` writes, in protocol 2.
_OPCODES = frozenset(
    """PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET EMPTY_TUPLE TUPLE
    TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS NONE NEWTRUE NEWFALSE BININT
    BININT1 BININT2 LONG1 BINFLOAT BINUNICODE""".split()
)
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
# A tuple of a tuple, each twice the same, takes twice as long to hash with every level. PyTorch hardly repeats any.
_MOST_REPEATED_TUPLES = 24
# Of the most bytes that a file may unpack to: one object of the pickle for so many, and so large a part for the pickle.
_BYTES_PER_OBJECT = 400
_PICKLES_SHARE = 4

# The files in an archive of `torch.save` that PyTorch reads, without the folder they lie in. Digits alone, as PyTorch
# takes `data/A` for `data/a`: by either name it would be read, and kept, once more.
_RECORD = re.compile(
    r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/[0-9]+"
)
# A session has about 400.
_MOST_ENTRIES = 10_000
_LIST_ENTRY = b"PK\x01\x02"  # how an entry of the list at the end begins
_LOCAL_HEADER, _LONGEST_DESCRIPTOR = 30, 24
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK = 1 << 20


def checked_archive(path: Path, kind: str, what: str, largest: int) -> io.BytesIO:
    """Return an archive of `torch.save`, made anew from a file's, that holds nothing but plain values and tensors.

    Parameters
    ----------
    path : Path
    kind, what : str
        For the message: ``"weight"`` or ``"session"``, and what such a file is of.
    largest : int
        Most bytes that the file may have, and may unpack to.

    Returns
    -------
    BytesIO
        At its beginning.

    Raises
    ------
    FileError
        If the file is larger, is no such archive, is damaged, or holds anything else.
    """
    content = _read(path, what, largest)
    if not content.startswith(b"PK"):
        raise _no_archive(path, kind, content, largest)
    if content.count(_LIST_ENTRY) > _MOST_ENTRIES:
        raise FileError(f"'{path}' is not a {kind} file that is read: more than {_MOST_ENTRIES:,} files in it")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        claimed = sum(entry.file_size for entry in entries)
        if claimed > largest:
            raise FileError(f"'{path}' unpacks to {claimed:,} bytes: too large for {what}")
        names = [entry.filename.casefold() for entry in entries]
        if len(set(names)) < len(names):
            raise FileError(f"'{path}' is not a {kind} file that is read: a name stands twice in it")
        if len({name.partition("/")[0] for name in names}) != 1:
            raise FileError(f"'{path}' is not a {kind} file that PyTorch can read: its files lie in no common folder")
        if any(entry.compress_type not in _PACKINGS or entry.flag_bits & 1 for entry in entries):
            raise FileError(f"'{path}' is not a {kind} file that is read: it is encrypted, or packed as zip rarely is")
        if not _fill_the_file(entries, content, archive.start_dir):
            raise FileError(f"'{path}' is not a {kind} file that is read: there are bytes in it that belong to no file")
        return _made_anew(archive, entries, path, largest)


def _read(path: Path, what: str, largest: int) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        if size <= largest:
            stream.seek(0)
            return stream.read(size)
    raise FileError(f"'{path}' has {size:,} bytes: too large for {what}")


def _no_archive(path: Path, kind: str, content: bytes, largest: int) -> FileError:
    """Return what to say of the format of PyTorch before 1.6, and of any other pickle: it is never loaded."""
    try:
        foreign = _foreign(content, largest)
    except Exception:  # no pickle at all
        return FileError(f"'{path}' is not a {kind} file that PyTorch can read")
    if foreign is not None and not content.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"):
        return _more_than_weights(path, foreign)
    return FileError(
        f"'{path}' is not a {kind} file that is read: a pickle, as PyTorch wrote before 1.6; "
        "save it again with torch.save(torch.load(file, weights_only=True), ...) of a newer PyTorch"
    )


def _fill_the_file(entries: list[zipfile.ZipInfo], content: bytes, end: int) -> bool:
    """Return whether the entries lie one behind the other from the first byte on to `end`, where their list begins."""
    at = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if not at <= entry.header_offset <= at + _LONGEST_DESCRIPTOR:
            return False
        names = struct.unpack_from("<HH", content, entry.header_offset + _LOCAL_HEADER - 4)
        at = entry.header_offset + _LOCAL_HEADER + sum(names) + entry.compress_size
    return at <= end <= at + _LONGEST_DESCRIPTOR


def _made_anew(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], path: Path, largest: int) -> io.BytesIO:
    """Return a plain archive of what PyTorch reads; FileError where a checksum differs or the pickle is not plain."""
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as target:
        for entry in entries:
            record = entry.filename.partition("/")[2]
            chunks = _unpacked(archive, entry, path)
            if record == "data.pkl":
                if entry.file_size > largest // _PICKLES_SHARE:
                    raise FileError(f"'{path}': the list of what is in it has {entry.file_size:,} bytes: too large")
                pickled = b"".join(chunks)
                if (foreign := _foreign(pickled, largest)) is not None:
                    raise _more_than_weights(path, foreign)
                chunks = iter([pickled])
            if _RECORD.fullmatch(record):
                with target.open(f"archive/{record}", "w") as sink:
                    sink.writelines(chunks)
            else:
                deque(chunks, maxlen=0)  # for its checksum
    result.seek(0)
    return result


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    """Yield the content of an entry piece by piece; FileError where its size or checksum is not what is stated."""
    left = entry.file_size
    try:
        with archive.open(entry) as stream:
            while chunk := stream.read(_CHUNK):  # reads no further than the size that is stated
                left -= len(chunk)
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError):
        left = -1
    if left:
        raise FileError(f"'{path}' is damaged: '{entry.filename}' in it is not what was written; take another copy")


def _more_than_weights(path: Path, foreign: str) -> FileError:
    return FileError(
        f"'{path}' holds more than weights (a pickle with code or foreign objects: {foreign}) and was not loaded; "
        "save a plain state dict with torch.save(model.state_dict(), ...)"
    )


def _foreign(content: bytes, largest: int) -> str | None:
    """Return what in the pickle of a file that may unpack to `largest` bytes no state dict needs; None for nothing."""
    tuples: set[int] = set()
    texts = ["", ""]
    odd, last, repeated = None, "", 0
    most = largest // _BYTES_PER_OBJECT
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if number > most:
            return f"more than {most:,} objects"
        if name in ("GLOBAL", "STACK_GLOBAL"):
            wanted = str(argument) if name == "GLOBAL" else " ".join(texts)
            if wanted not in _GLOBALS:
                return wanted[:80]
        elif name.endswith("UNICODE"):
            texts = [texts[1], str(argument)]
            if "\0" in texts[1]:  # PyTorch reads a tensor's name up to there: one tensor under any number of names
                odd = odd or "a text that is cut short"
        elif name in ("BINPUT", "LONG_BINPUT") and last in _TUPLES:
            tuples.add(int(argument or 0))
        elif name in ("BINGET", "LONG_BINGET"):
            repeated += int(argument or 0) in tuples
        if name not in _OPCODES:
            odd = odd or name  # a name further on tells more
        last = name
    return "tuples of tuples" if repeated > _MOST_REPEATED_TUPLES else odd
