"""Write a page: one HTML file that holds its pictures, its style and its script, and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from micronet.errors import printable
from micronet.io.atomic import atomic_path
from micronet.page.shown import Shown
from micronet.report import ANNOTATION_COLOUR, MASK_COLOUR

__all__ = ["LARGEST_PAGE", "Html", "Section", "figure", "note", "table", "write_page"]

#: No page is larger, in bytes.
LARGEST_PAGE = 3_000_000
# Left for markup around the volumes and for what the record holds.
_SPARE = 60_000
_LARGEST_RECORD = 150_000
# What both contours enclose (Okabe & Ito 2008, with the colours of the contours).
_AGREED_COLOUR = "#009E73"
_NUMBER = re.compile(r"-?[0-9][0-9,.]*(e[+-]?[0-9]+)?( ?(%|µm[²³]?|s))?|[–∞]")


def escape(text: str) -> str:
    """Return text as markup that shows it, whatever is in it."""
    return html.escape(printable(text))


class Html(str):
    """Markup that is safe as it stands; the functions of this module make it and escape all else."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading of its own; its parts lie beside each other where there is room."""

    heading: str
    parts: Sequence[Html]


def note(text: str, *, warning: bool = False) -> Html:
    """Return a paragraph."""
    return Html(f'<p class="{"warning" if warning else "note"}">{escape(text)}</p>')


def figure(source: str, caption: str) -> Html:
    """Return a picture given as a data URI, with its caption, which also is read to those who do not see it."""
    return Html(
        f'<figure class="plot"><img src="{escape(source)}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """Return a table; the first column names the row, and columns of numbers are set to the right."""
    kinds = [
        ' class="number"' if number and all(_NUMBER.fullmatch(row[number]) for row in rows) else ""
        for number in range(len(header))
    ]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return Html(f'<div class="scroll" tabindex="0"><table>{top}<tbody>{body}</tbody></table></div>')


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
    marked_sections = "".join(map(_section, sections))
    room = LARGEST_PAGE - _SPARE - len(marked_sections.encode()) - len(manifest.encode())
    shown = [volume.encoded(room // len(volumes)) for volume in volumes]
    style, script = (_part(name) for name in ("report.css", "report.js"))
    colours = {"mask": MASK_COLOUR, "annotation": ANNOTATION_COLOUR, "agreed": _AGREED_COLOUR}
    page = Template(_part("report.html")).substitute(
        title=escape(title),
        facts="".join(f"<li>{escape(fact)}</li>" for fact in facts),
        warnings="".join(note(f"Warning: {warning}", warning=True) for warning in warnings),
        sections=marked_sections,
        manifest=manifest,
        # Within a script "</script>" and "<!--" would be read as markup.
        data=json.dumps({"volumes": shown, "colours": colours}, ensure_ascii=True).replace("<", "\\u003c"),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _section(section: Section) -> str:
    return f'<section><h2>{escape(section.heading)}</h2><div class="beside">{"".join(section.parts)}</div></section>'


def _manifest(record: Mapping[str, Any]) -> Html:
    text = json.dumps(record, indent=2, ensure_ascii=False)
    kept = text
    while (size := len(escape(kept).encode())) > _LARGEST_RECORD:
        kept = kept[: len(kept) * _LARGEST_RECORD // size]
    return Html(escape(kept if kept == text else f"{kept}\n… the rest is in the .json file beside this page"))


def _part(name: str) -> str:
    return files("micronet.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy calls this text by: nothing else runs on the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
