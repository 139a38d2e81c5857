"""Rows as a feed gives them, checked one by one; what is wrong with them is counted and shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd
from rich.text import Text

from aisle.errors import ProductError
from aisle.product import Product

COLUMNS = ("product_id", "title", "description", "image", "category", "group")
EXAMPLES = 3  # shown of every finding


@dataclass(kw_only=True)
class Finding:
    """How many rows had one fault, and what the first of them looked like."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What became of the rows: `read` = `kept` + the rows of all `dropped`.

    `dropped` and `noted` go from a reason to its finding; a noted row is kept, with a part less.
    """

    read: int
    kept: int
    dropped: dict[str, Finding]
    noted: dict[str, Finding]

    def __str__(self) -> str:
        dropped = sum(finding.rows for finding in self.dropped.values())
        lines = [f"{self.read:,} rows read, {self.kept:,} kept, {dropped:,} dropped"]
        for verdict, findings in (("dropped", self.dropped), ("kept", self.noted)):
            for reason, finding in sorted(findings.items(), key=lambda item: -item[1].rows):
                lines.append(f"  {verdict} {finding.rows:,}: {reason}")
                lines.extend(f"    {example}" for example in finding.examples)
        return "\n".join(lines)

    def __rich__(self) -> Text:
        return Text(str(self))


def check_rows(rows: pd.DataFrame, image_root: Path, malformed: Finding) -> tuple[pd.DataFrame, ReadReport]:
    """Keep what can be a product. `rows` has COLUMNS, all str, and the rows' numbers as its index;
    `malformed` are the rows that could not even be split into fields.

    Dropped: what Product refuses, ids seen before, products with neither text nor a picture.
    Noted: pictures that are not there or lie outside `image_root` (blanked), rows without a category.
    """
    checker = _Checker(image_root)
    kept = [row for row in map(checker.check, _tuples(rows)) if row is not None]
    dropped = checker.dropped | ({"row_malformed": malformed} if malformed.rows else {})
    report = ReadReport(read=len(rows) + malformed.rows, kept=len(kept), dropped=dropped, noted=checker.noted)
    return pd.DataFrame(kept, columns=list(COLUMNS), dtype=object), report


def _tuples(rows: pd.DataFrame) -> Iterable[tuple[int, tuple[str, ...]]]:
    return zip(rows.index, zip(*(rows[name] for name in COLUMNS), strict=True), strict=True)


class _Checker:
    """The findings so far, and the ids seen."""

    def __init__(self, image_root: Path) -> None:
        self.image_root = image_root
        self.dropped: dict[str, Finding] = {}
        self.noted: dict[str, Finding] = {}
        self._line_of: dict[str, int] = {}

    def check(self, numbered: tuple[int, tuple[str, ...]]) -> tuple[str, ...] | None:
        """The row to keep, or None."""
        line, (product_id, title, description, image, category, group) = numbered
        product_id, image, category, group = (s.strip() for s in (product_id, image, category, group))
        where = f"row {line} ({product_id[:40]})"
        try:
            Product(product_id=product_id, title=title, description=description)
        except ProductError as error:
            self._drop(error.reason, f"{where}: {error}")
            return None
        if product_id in self._line_of:
            self._drop("product_id_repeated", f"{where}: first seen in row {self._line_of[product_id]}")
            return None
        found = self._picture(image)
        if not (title.strip() or description.strip() or found):
            lost = f", image {image} missing" if image else ""
            self._drop("product_empty", f"{where}: no title, no description, no picture{lost}")
            return None
        self._note_parts(where, image=image, found=found, category=category)
        self._line_of[product_id] = line
        return product_id, title, description, found, category, group or product_id

    def _picture(self, image: str) -> str:
        """`image`, or "" when no such file lies below the root."""
        if not image or _leaves_root(image):
            return ""
        return image if (self.image_root / image).is_file() else ""

    def _note_parts(self, where: str, *, image: str, found: str, category: str) -> None:
        if image and not found:
            reason = "image_outside" if _leaves_root(image) else "image_missing"
            self.noted.setdefault(reason, Finding()).add(f"{where}: {image}, kept without a picture")
        if not category:
            self.noted.setdefault("category_missing", Finding()).add(f"{where}: it will train nothing")

    def _drop(self, reason: str, example: str) -> None:
        self.dropped.setdefault(reason, Finding()).add(example)


def _leaves_root(image: str) -> bool:
    """An absolute path or one with '..' could name any file of the machine."""
    path = PurePosixPath(image.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
