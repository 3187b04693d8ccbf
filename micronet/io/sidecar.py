"""The JSON beside a scan or a volume: what it says of the numbers, and of what was made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from micronet.core.errors import InputError, setting
from micronet.core.names import existing, read_name, same_name
from micronet.io import volume_stem
from micronet.io.checks import is_store

__all__ = ["LOGARITHMS", "MADE_BY", "read_record", "refuse_second_log", "scan_name", "stated_domain"]


#: What the record of a structural volume says that made it.
MADE_BY = "prepare.py"
#: Domains that are logarithms; to whatever base they are the same after normalisation.
LOGARITHMS = ("log", "db")


_MOST_JSON = 1 << 20


def scan_name(path: Path) -> str:
    """Return the name of a raw scan's results: its own, without folder and suffix."""
    return path.resolve().name if path.is_dir() and not is_store(path) else volume_stem(path)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is none that can be read."""
    try:
        if path.stat().st_size > _MOST_JSON:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def stated_domain(path: Path) -> tuple[str | None, Path]:
    """Return the domain that the JSON beside a scan states, None where there is none, and that file.

    ``scan.json`` speaks for ``scan.tif`` and ``scan.nrrd`` alike; but a record of `MADE_BY` only for the volume that
    was made.
    """
    beside = existing(path.resolve().with_name(f"{scan_name(path)}.json"))
    found = read_record(beside) or {}
    output = found.get("output")
    told = read_name(str(output.get("file"))) if isinstance(output, dict) else ""
    if found.get("made_by") == MADE_BY and not same_name(told, path.name):
        return None, beside
    domain = found.get("domain")
    return (domain.strip().lower() if isinstance(domain, str) else None), beside


def refuse_second_log(path: Path) -> None:
    """Raise InputError where the JSON beside a volume says that its numbers are logarithms already."""
    stated, beside = stated_domain(path)
    if stated in LOGARITHMS:
        raise InputError(
            f"'{path}': '{beside.name}' beside it says that it holds logarithms already (domain {stated}), and the "
            f'logarithm is asked for again; leave intensity = "log" away {setting("intensity")}'
        )
