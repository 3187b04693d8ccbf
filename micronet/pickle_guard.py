"""Looks through the pickle inside a weight or session file before PyTorch reads it.

PyTorch's own restricted reader runs no code, but it builds whatever else it is asked for: a byte array of any length, a
tensor without data, a key whose hash takes years. A state dict needs almost none of that, so a few names suffice.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

from micronet.errors import FileError

__all__ = ["check_archive"]

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
_MOST_OPCODES = 1_000_000
# A tuple of a tuple, each twice the same, takes twice as long to hash with every level. PyTorch hardly repeats any.
_MOST_REPEATED_TUPLES = 24


def check_archive(path: Path, kind: str, what: str, largest: int) -> None:
    """Raise FileError unless a file is a zip archive of `torch.save` that holds nothing but plain values and tensors.

    Parameters
    ----------
    path : Path
    kind, what : str
        For the message: ``"weight"`` or ``"session"``, and what such a file is of.
    largest : int
        Most bytes that it may unpack to.
    """
    with path.open("rb") as stream:
        start = stream.read(2)
    if start != b"PK":
        # The format of PyTorch before 1.6, or any other pickle: told apart for the message alone, never loaded.
        try:
            content = path.read_bytes()
            foreign = _foreign(content)
        except Exception:  # no pickle at all
            raise FileError(f"'{path}' is not a {kind} file that PyTorch can read") from None
        if foreign is not None and not content.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"):
            raise _more_than_weights(path, foreign)
        raise FileError(
            f"'{path}' is not a {kind} file that is read: a pickle, as PyTorch wrote before 1.6; "
            "save it again with torch.save(torch.load(file, weights_only=True), ...) of a newer PyTorch"
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        claimed = sum(entry.file_size for entry in entries)
        if claimed > largest:
            raise FileError(f"'{path}' unpacks to {claimed:,} bytes: too large for {what}")
        names = [entry.filename.casefold() for entry in entries]
        if len(set(names)) < len(names):
            raise FileError(f"'{path}' is not a {kind} file that is read: a name stands twice in it")
        for entry in entries:
            if entry.filename.endswith(".pkl") and (foreign := _foreign(archive.read(entry))) is not None:
                raise _more_than_weights(path, foreign)


def _more_than_weights(path: Path, foreign: str) -> FileError:
    return FileError(
        f"'{path}' holds more than weights (a pickle with code or foreign objects: {foreign}) and was not loaded; "
        "save a plain state dict with torch.save(model.state_dict(), ...)"
    )


def _foreign(content: bytes) -> str | None:
    """Return what in a pickle no state dict needs, None where there is nothing."""
    tuples: set[int] = set()
    texts = ["", ""]
    odd, last, repeated = None, "", 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if number > _MOST_OPCODES:
            return f"more than {_MOST_OPCODES:,} objects"
        if name in ("GLOBAL", "STACK_GLOBAL"):
            wanted = str(argument) if name == "GLOBAL" else " ".join(texts)
            if wanted not in _GLOBALS:
                return wanted[:80]
        elif name.endswith("UNICODE"):
            texts = [texts[1], str(argument)]
        elif name in ("BINPUT", "LONG_BINPUT") and last in _TUPLES:
            tuples.add(int(argument or 0))
        elif name in ("BINGET", "LONG_BINGET"):
            repeated += int(argument or 0) in tuples
        if name not in _OPCODES:
            odd = odd or name  # a name further on tells more
        last = name
    return "tuples of tuples" if repeated > _MOST_REPEATED_TUPLES else odd
