"""Write a page: one HTML file that holds its pictures, its style and its script, and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from micronet.core.errors import printable
from micronet.core.files import atomic_path
from micronet.report.page.scroller import AGREED_COLOUR, Shown
from micronet.report.panels import ANNOTATION_COLOUR, MASK_COLOUR

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["LARGEST_PAGE", "Markup", "Section", "figure", "note", "table", "write_page"]

#: No page is larger, in bytes.
LARGEST_PAGE = 3_000_000
# Left for markup around the volumes and for what the record holds.
_SPARE = 60_000
_LARGEST_RECORD = 150_000
_NUMBER = re.compile(r"-?[0-9][0-9,.]*(e[+-]?[0-9]+)?( ?(%|µm[²³]?|s))?( to [0-9∞][0-9,.]*)?|[–∞]")


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading of its own; its parts lie beside each other where there is room."""

    heading: str
    parts: Sequence[Markup]


def note(text: str, *, warning: bool = False) -> Markup:
    """Return a paragraph."""
    return _part("note", text, warning=warning)


def figure(source: str, caption: str) -> Markup:
    """Return a picture given as a data URI, with its caption, which also is read to those who do not see it."""
    return _part("figure", source, caption)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], details: Sequence[str] = ()) -> Markup:
    """Return a table; the first column names the row, and columns of numbers are set to the right.

    `details` are sentences, one a row, that stand under its name.
    """
    columns = [
        {"name": name, "number": bool(number) and all(_NUMBER.fullmatch(row[number]) for row in rows)}
        for number, name in enumerate(header)
    ]
    named = [(_breakable(row[0]), *row[1:]) for row in rows]
    return _part("table", columns, named, details)


def _breakable(name: str) -> Markup:
    """Return a name that may break into lines behind what stands between its words, and nowhere else."""
    words = re.split(r"(?<=[_./+-])", printable(name))
    return Markup("<wbr>").join(words)


def write_page(
    path: str | os.PathLike[str],
    title: str,
    facts: Sequence[str],
    volumes: Sequence[Shown],
    sections: Sequence[Section],
    record: Mapping[str, Any],
    *,
    warnings: Sequence[str] = (),
) -> None:
    """Write a page of volumes to scroll through, sections of tables and plots, and the record of how it was made.

    Parameters
    ----------
    path : path
        The HTML file. It appears whole or not at all, and replaces an older one.
    title : str
    facts : sequence of str
        Short sentences under the title.
    volumes : sequence of Shown
        They share the room that is there: the more of them, the coarser each should be.
    sections : sequence of Section
    record : mapping
        As JSON has it; shown in full at the end, or its beginning where it is very long.
    warnings : sequence of str
        Shown above all else.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    manifest = _manifest(record)
    marked_sections = Markup("").join(_part("section", section.heading, section.parts) for section in sections)
    room = LARGEST_PAGE - _SPARE - len(marked_sections.encode()) - len(manifest.encode())
    shown = [volume.encoded(room // len(volumes)) for volume in volumes]
    style, script = (_file(name) for name in ("report.css", "report.js"))
    colours = {"mask": MASK_COLOUR, "annotation": ANNOTATION_COLOUR, "agreed": AGREED_COLOUR}
    page = _templates().get_template("report.html")
    whole = page.render(
        title=title,
        facts=facts,
        warnings=warnings,
        sections=marked_sections,
        manifest=manifest,
        data={"volumes": shown, "colours": colours},
        # Ours, and their hashes are of every letter.
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(whole, encoding="utf-8")


def _manifest(record: Mapping[str, Any]) -> Markup:
    text = printable(json.dumps(record, indent=2, ensure_ascii=False))
    kept = text
    while (size := len(escape(kept).encode())) > _LARGEST_RECORD:
        kept = kept[: len(kept) * _LARGEST_RECORD // size]
    return escape(kept if kept == text else f"{kept}\n… the rest is in the .json file beside this page")


@cache
def _templates() -> Environment:
    # Takes 30 ms, and few of those who score ask for a page.
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(_file)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_shown
    )


def _shown(value: Any) -> Any:
    """Return a value as it is put into a page: text in which nothing is hidden, to be escaped after this."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _part(name: str, *values: Any, **more: Any) -> Markup:
    """Return a macro of ``parts.html``, filled in."""
    part: Markup = getattr(_templates().get_template("parts.html").module, name)(*values, **more)
    return part


def _file(name: str) -> str:
    return files("micronet.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy calls this text by: nothing else runs on the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
