"""Which volume a file is of: by the record of the script of ours that wrote it, else by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from micronet.core.provenance import read_sealed
from micronet.io.checks import is_store
from micronet.io.formats import volume_stem

__all__ = ["is_result", "result_name", "result_record", "volume_name", "volume_of"]

# What the published files, and ours, put around the name of a volume.
_DRESS = re.compile(r"(?:annotation_|E5D_)?(?P<name>.+?)(?:_iso_full)?(?:_probability)?")
# And what a training session does: run, step and, of a network that refines, passes.
_OF_SESSION = re.compile(r"u-net(?:-[0-9]+)?_[0-9]+_(?P<u>.+)|ur-net(?:-[0-9]+)?_[0-9]+_(?P<ur>.+)_[0-9]+")
# What stands at the end of the names of what belongs to a result; each result has the record <stem>.json.
_PARTS = ("_probability", "_labels", "_look", "_preview")
_RESULT_NAMES = ("_probability.nrrd", "_probability.ome.zarr", "_labels.tif", "_look.seg.nrrd")
_MAKERS = ("infer.py", "teach.py", "training")


def volume_name(path: Path) -> str:
    """Return the name of the volume that a prediction or annotation is of, without what files put around it.

    >>> [volume_name(Path(n)) for n in ("annotation_07_iso_full.seg.nrrd", "E5D_07_probability.nrrd", "b.nii.gz")]
    ['07', '07', 'b']
    >>> [volume_name(Path(n)) for n in ("u-net_150_07.seg.nrrd", "ur-net-2_48_07_10_probability.nrrd")]
    ['07', '07']
    """
    match = _DRESS.fullmatch(volume_stem(path))
    name = match["name"] if match else volume_stem(path)
    session = _OF_SESSION.fullmatch(name)
    return (session["u"] or session["ur"]) if session else name


def volume_of(path: Path) -> str:
    """Return the name of the volume that a file is of: as the record of its result has it, else as `volume_name`."""
    told = (result_record(path) or {}).get("volume")
    # Names of files are made of it, and a record comes from outside.
    sound = isinstance(told, str) and told.isprintable() and told == Path(told).name and told != ".."
    return str(told) if sound else volume_name(path)


def result_name(path: Path) -> str:
    """Return what the files of one result share: their names without what tells them apart."""
    stem = volume_stem(path)
    return next((stem.removesuffix(part) for part in _PARTS if stem.endswith(part) and stem != part), stem)


def result_record(path: Path) -> dict[str, Any] | None:
    """Return the record of the result of a network that a file belongs to; None where it belongs to none.

    A file that was changed in size since is a person's.
    """
    record = read_sealed(path.with_name(f"{result_name(path)}.json"))
    if record is None or record.get("made_by") not in _MAKERS:
        return None
    outputs = record.get("outputs")
    marks = [one for one in outputs if isinstance(one, dict)] if isinstance(outputs, list) else []
    sizes = [mark.get("bytes") for mark in marks if mark.get("name") == path.name]
    try:
        files = [file for file in path.rglob("*") if file.is_file()] if is_store(path) else [path]
        return record if sum(file.stat().st_size for file in files) in sizes else None
    except OSError:
        return None


def is_result(path: Path) -> bool:
    """Whether a file is the result of a network rather than something to look at: by its name, or by a record."""
    return path.name.endswith(_RESULT_NAMES) or result_record(path) is not None
