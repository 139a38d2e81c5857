"""What people said since the catalogue was made: labelled answers of the ledger, as training takes them.

A label of a product of the catalogue corrects its category, but never in the test split, which stays what
it was. Of all other products the vectors that were recorded with the answer are used, and a share of
them, chosen by a hash that never changes, is kept out of every training: fresh products that champion
and challenger are compared on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from aisle.columns import Columns
from aisle.ledger import LabelledPrediction, Ledger
from aisle.prediction import Source
from training.catalog import Catalog
from training.shop import Encoders, Shop
from training.splits import SplitSettings, assign_splits, places

FRESH = "fresh"  # the split that no training sees
FRESH_SHARE = 0.3
SALT = "labels"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledAnswers:
    """Products that are not in the catalogue, one row each: its category, its vectors ([N, D] and [N, E]
    float32, zero where `present_N2` says that there is none), its split, and what it looked like."""

    key_N: np.ndarray
    category_N: np.ndarray
    text_ND: np.ndarray
    image_NE: np.ndarray
    present_N2: np.ndarray
    split_N: np.ndarray
    columns: Sequence[Columns]

    def __len__(self) -> int:
        return len(self.key_N)

    def rows(self, index: np.ndarray) -> LabelledAnswers:
        """The products at `index`, a mask or positions."""
        positions = np.arange(len(self))[index]
        arrays = {
            name: getattr(self, name)[positions]
            for name in ("key_N", "category_N", "text_ND", "image_NE", "present_N2", "split_N")
        }
        return LabelledAnswers(**arrays, columns=[self.columns[i] for i in positions])


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Labels up to number `until`: `corrections` of the catalogue by product id, and `answers` beside it.
    `without_vectors` products were labelled and cannot be used: their answers were recorded without
    vectors, or by other encoders."""

    until: int
    answers: LabelledAnswers
    corrections: Mapping[str, str] = field(default_factory=dict)
    without_vectors: int = 0

    @property
    def held_out(self) -> int:
        return int((self.answers.split_N == FRESH).sum())

    @property
    def used(self) -> int:
        return len(self.answers) - self.held_out + len(self.corrections)

    def corrected(self, catalog: Catalog) -> Catalog:
        """The catalogue with `corrections` in place of its categories."""
        if not self.corrections:
            return catalog
        category = catalog.products.product_id.map(self.corrections).fillna(catalog.products.category)
        return replace(catalog, products=catalog.products.assign(category=category))

    def to_json(self) -> dict[str, int]:
        return {
            "until": self.until,
            "used": self.used,
            "corrections": len(self.corrections),
            "held_out": self.held_out,
            "without_vectors": self.without_vectors,
        }


def read_labels(
    ledger: Ledger,
    catalog: Catalog,
    splits: SplitSettings,
    *,
    until: int,
    text_encoder: tuple[str, int],
    image_encoder: tuple[str, int],
) -> Labels:
    """Labels with a number up to `until`, the last one of each product. `text_encoder` and `image_encoder`
    are the (revision, width) that vectors must be of."""
    last: dict[str, LabelledPrediction] = {}
    for one in ledger.labelled_predictions(until=until):
        key = one.prediction.product_id or one.prediction.prediction_id
        last.pop(key, None)
        last[key] = one
    in_catalog = set(catalog.products.product_id)
    new = {key: one for key, one in last.items() if key not in in_catalog}
    usable = {key: one for key, one in new.items() if _has_vectors(one, text_encoder[0], image_encoder[0])}
    categories = {key: one.label.category for key, one in last.items() if key in in_catalog}
    return Labels(
        until=until,
        answers=_answers(usable, splits, text_encoder[1], image_encoder[1]),
        corrections=_outside_the_test_split(categories, catalog, splits),
        without_vectors=len(new) - len(usable),
    )


def no_labels(text_dim: int, image_dim: int) -> Labels:
    """As if nobody had said anything."""
    return Labels(until=0, answers=_answers({}, SplitSettings(), text_dim, image_dim))


def fresh_or_split(keys: Sequence[str], splits: SplitSettings) -> np.ndarray:
    """FRESH or one of train, validation and calibration for each key, always the same one. The rest that
    FRESH leaves has no test split: the catalogue's stays the one and only."""
    place_N = places(pd.Series(list(keys), dtype=object), f"{splits.salt}/{SALT}")
    left = 1 - FRESH_SHARE
    shares = [FRESH_SHARE, *(left * s / (1 - splits.test) for s in (splits.calibration, splits.validation))]
    names = np.array([FRESH, "calibration", "validation", "train"], dtype=object)
    chosen_N: np.ndarray = names[np.searchsorted(np.cumsum(shares), place_N, side="right")]
    return chosen_N


def _has_vectors(one: LabelledPrediction, text_revision: str, image_revision: str) -> bool:
    """Every part that the answer was made from is there, by these encoders."""
    record = one.prediction
    parts = (
        (record.text_source, record.text_embedding, record.text_encoder == text_revision),
        (record.image_source, record.image_embedding, record.image_encoder == image_revision),
    )
    return all(source == Source.ABSENT or (vector is not None and same) for source, vector, same in parts)


def _answers(
    found: Mapping[str, LabelledPrediction], splits: SplitSettings, text_dim: int, image_dim: int
) -> LabelledAnswers:
    keys = list(found)
    records = [found[key].prediction for key in keys]
    text_ND = np.zeros((len(keys), text_dim), dtype=np.float32)
    image_NE = np.zeros((len(keys), image_dim), dtype=np.float32)
    present_N2 = np.zeros((len(keys), 2), dtype=np.float32)
    for row, record in enumerate(records):
        for column, (vectors, vector) in enumerate(
            ((text_ND, record.text_embedding), (image_NE, record.image_embedding))
        ):
            if vector is not None:
                vectors[row], present_N2[row, column] = vector, 1
    return LabelledAnswers(
        key_N=np.array(keys, dtype=object),
        category_N=np.array([found[key].label.category for key in keys], dtype=object),
        text_ND=text_ND,
        image_NE=image_NE,
        present_N2=present_N2,
        split_N=fresh_or_split(keys, splits),
        columns=[record.columns for record in records],
    )


def _outside_the_test_split(
    categories: Mapping[str, str], catalog: Catalog, splits: SplitSettings
) -> dict[str, str]:
    products = catalog.products[catalog.products.product_id.isin(list(categories))]
    kept = products[(assign_splits(products.group, splits) != "test").to_numpy()]
    return {product_id: categories[product_id] for product_id in kept.product_id}


def read_ledger_labels(shop: Shop, catalog: Catalog, pair: Encoders, until: int) -> Labels:
    """The ledger's labels up to number `until`; none where that is 0."""
    if until == 0:
        return no_labels(pair.text.dim, pair.image.dim)
    return read_labels(
        Ledger.open(shop.environment.ledger_url),
        catalog,
        SplitSettings(),
        until=until,
        text_encoder=(pair.text.revision, pair.text.dim),
        image_encoder=(pair.image.revision, pair.image.dim),
    )
