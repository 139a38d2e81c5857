"""Products that a catalogue holds more than once: the same text, or the same picture.

Variants of one product are expected; twins in different groups are not: they are an easy test question whose
answer was trained on, and where their categories differ one of them is filed wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

EXAMPLES = 12


@dataclass(frozen=True, kw_only=True)
class Example:
    """Some of the products of a set of twins that are filed under different categories."""

    product_ids: tuple[str, ...]
    title: str
    categories: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Sets of equal products in more than one group, found among `looked_at` products.

    `products` are in such a set; `disagreeing` sets hold more than one category; `leaked` products of the
    test split have a twin that is trained on.
    """

    kind: str
    looked_at: int
    sets: int
    products: int
    disagreeing: int
    leaked: int
    examples: tuple[Example, ...]


def find_twins(kind: str, products: pd.DataFrame, key: pd.Series, split: pd.Series) -> Twins:
    """Twins by `key`, a string for each product ("" for one that has no such part), indexed like `products`
    and `split`."""
    known = products.assign(key=key, split=split)[key != ""]
    groups = known.groupby("key").group.transform("nunique")
    twins = known[groups > 1]
    by_key = twins.groupby("key")
    filed = twins[twins.category != ""].groupby("key").category.nunique()
    trained = by_key.split.transform(lambda split: (split == "train").any()) if len(twins) else twins.split
    return Twins(
        kind=kind,
        looked_at=len(known),
        sets=int(by_key.ngroups),
        products=len(twins),
        disagreeing=int((filed > 1).sum()),
        leaked=int(((twins.split == "test") & trained.astype(bool)).sum()) if len(twins) else 0,
        examples=_examples(twins, filed[filed > 1].index.tolist()),
    )


def _examples(twins: pd.DataFrame, keys: Sequence[str]) -> tuple[Example, ...]:
    found = []
    for key in list(keys)[:EXAMPLES]:
        rows = twins[twins.key == key]
        found.append(
            Example(
                product_ids=tuple(rows.product_id[:6]),
                title=str(rows.title.iloc[0]),
                categories=tuple(sorted(set(rows.category) - {""}))[:6],
            )
        )
    return tuple(found)


def text_keys(products: pd.DataFrame) -> pd.Series:
    """Title and description without case and spacing; "" where there is neither."""
    joined = products.title + " " + products.description
    return joined.str.casefold().str.split().str.join(" ")
