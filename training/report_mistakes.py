"""The report's worst mistakes: the surest of the wrong answers, with what a person needs to judge them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aisle.product import Product
from training.catalog import Catalog
from training.charts import shortened
from training.page import Block, Card, Gallery, Paragraph
from training.thumbnails import thumbnail
from training.verdicts import NONE, Verdicts

MISTAKES = 24  # pictures of about 5 kB each
_TITLE_CHARS = 120


def mistakes(verdicts: Verdicts, catalog: Catalog, row_N: np.ndarray, names: Sequence[str]) -> list[Block]:
    """The wrong answers of the highest confidence, about the products in rows `row_N` of the catalogue."""
    wrong = int((~verdicts.correct_N).sum())
    if not wrong:
        return [Paragraph(words="No test product was answered wrongly.")]
    worst = verdicts.worst(MISTAKES)
    words = Paragraph(
        words=f"The {len(worst):,} surest of {wrong:,} wrong answers. Look at the label too: "
        "some of these may be products that were filed wrongly."
    )
    products = [catalog.product(int(row)) for row in row_N[worst]]
    cards = [
        _card(product, verdicts.rows(np.array([at])), names)
        for product, at in zip(products, worst, strict=True)
    ]
    return [words, Gallery(cards=cards)]


def _card(product: Product, verdict: Verdicts, names: Sequence[str]) -> Card:
    [label], [answer] = verdict.label_N, verdict.answer_N
    accepted = "accepted" if verdict.accepted_N[0] else "left to a person"
    facts = [
        ("label", names[label]),
        ("answered", f"{names[answer]}, {verdict.confidence_N[0]:.1%} sure, {accepted}"),
    ]
    for part, alone in (("text", verdict.text_answer_N[0]), ("picture", verdict.image_answer_N[0])):
        facts.append((f"{part} alone says", names[alone] if alone != NONE else f"(no {part})"))
    facts.append(("product", product.product_id or ""))
    return Card(
        picture=thumbnail(product.image),
        title=shortened(product.title.strip() or product.description.strip() or "(no text)", _TITLE_CHARS),
        facts=facts,
    )
