"""One look for the pages that training writes: a self-contained HTML file without a script.

A page is sections of blocks (text, facts, tables, figures, pictures); `page.html` lays them out. Every
string is escaped where it is put in; only `Markup` (our own drawings, training/charts.py) is not. The
content security policy allows nothing but the page's own style sheet and pictures in data URIs, so that
even an escape that was forgotten could load and run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Plain words; `warning` sets them apart."""

    kind: ClassVar[str] = "paragraph"
    words: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells; the first cell of a row names it. The first `words` columns are words, the others
    numbers, which stand to the right. A cell may be a drawing (Markup)."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    folded: bool = False  # closed until it is asked for: the numbers of a figure


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing and what it shows in words; `table` holds the same numbers to be read."""

    kind: ClassVar[str] = "figure"
    caption: str
    drawing: Markup
    table: Table | None = None
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """A product: `picture` is a data URI, or "" for none."""

    picture: str
    title: str
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Products side by side."""

    kind: ClassVar[str] = "gallery"
    cards: Sequence[Card]


Block = Paragraph | Facts | Table | Figure | Gallery


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it; `anchor` is its address in the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page. `made` is the time it was made at (UTC)."""

    title: str
    lead: str
    sections: Sequence[Section]
    made: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))

    def render(self) -> str:
        """The page as HTML."""
        style = (FOLDER / "page.css").read_text()
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template("page.html")
        return template.render(page=self, style=Markup(style), digest=digest)

    def write(self, path: Path) -> None:
        """Replace `path` by the page, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        html = self.render()
        part = path.with_name(path.name + ".part")
        part.write_text(html, encoding="utf-8")
        part.replace(path)
