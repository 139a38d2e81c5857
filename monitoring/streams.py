"""The streams that are watched: the drift reference of a bundle and a window of predictions as the same
set of arrays, one row a product.

| kind      | array                        | none                                         |
|-----------|------------------------------|----------------------------------------------|
| embedding | [N, D] float32               | a row of NaN: no such part, or not sampled   |
| number    | [N] float32                  | NaN                                          |
| category  | [N] int16, places in a list  | NOT_THERE                                    |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np

from aisle.bundle import Bundle
from aisle.columns import LANGUAGES, NONE, NUMBERS, column_arrays
from aisle.ledger import PredictionRecord
from aisle.prediction import Source
from aisle.taxonomy import Taxonomy

NOT_THERE = -1
NO_YES = ("no", "yes")


class Kind(StrEnum):
    EMBEDDING = "embedding"
    NUMBER = "number"
    CATEGORY = "category"


KINDS: Mapping[str, Kind] = {
    "text_embedding": Kind.EMBEDDING,
    "image_embedding": Kind.EMBEDDING,
    "category": Kind.CATEGORY,
    "confidence": Kind.NUMBER,
    "text_chars": Kind.NUMBER,
    "language": Kind.CATEGORY,
    "description_missing": Kind.CATEGORY,
    "text_missing": Kind.CATEGORY,
    "image_missing": Kind.CATEGORY,
    "image_width": Kind.NUMBER,
    "image_height": Kind.NUMBER,
    "brightness": Kind.NUMBER,
}
STREAMS = tuple(KINDS)
Streams = Mapping[str, np.ndarray]


def reference_streams(bundle: Bundle) -> Streams:
    """What the bundle's held-out products look like. A bundle that is older than the cheap columns has
    fewer streams."""
    held = bundle.reference
    if "probabilities" not in held:
        return {}
    streams = {
        "text_embedding": _only_present(held["text"], held["present"][:, 0]),
        "image_embedding": _only_present(held["image"], held["present"][:, 1]),
        "category": held["probabilities"].argmax(axis=1).astype(np.int16),
        "confidence": held["probabilities"].max(axis=1).astype(np.float32),
        "text_missing": (held["present"][:, 0] == 0).astype(np.int16),
        "image_missing": (held["present"][:, 1] == 0).astype(np.int16),
        **_column_streams(held),
    }
    return {name: streams[name] for name in STREAMS if name in streams}


def window_streams(records: Sequence[PredictionRecord], bundle: Bundle) -> Streams:
    """What `records` look like, beside the reference of the bundle that answered them."""
    codes = {code: place for place, code in enumerate(bundle.taxonomy.codes)}
    text_there = np.array([record.text_source != Source.ABSENT for record in records], dtype=bool)
    image_there = np.array([record.image_source != Source.ABSENT for record in records], dtype=bool)
    streams = {
        "text_embedding": _stacked([r.text_embedding for r in records], bundle.text_encoder.dim),
        "image_embedding": _stacked([r.image_embedding for r in records], bundle.image_encoder.dim),
        "category": np.array([codes.get(r.category, NOT_THERE) for r in records], dtype=np.int16),
        # The reference holds float16: between its steps, equal confidences would look like drift.
        "confidence": np.array([r.confidence for r in records], dtype=np.float16).astype(np.float32),
        "text_missing": (~text_there).astype(np.int16),
        "image_missing": (~image_there).astype(np.int16),
        **_column_streams(column_arrays([record.columns for record in records])),
    }
    return {name: streams[name] for name in STREAMS}


def each_product_once(records: Sequence[PredictionRecord]) -> list[PredictionRecord]:
    """The last prediction of each product, in their order. Drift is of products: one that is asked for a
    hundred times would count as a hundred that moved alike, and no test could be right about a window."""
    last: dict[object, PredictionRecord] = {}
    for record in records:
        key = _product_key(record)
        last.pop(key, None)
        last[key] = record
    return list(last.values())


def known_rows(values: np.ndarray) -> np.ndarray:
    """The rows that are there."""
    if values.ndim == 2:
        return values[np.isfinite(values).all(axis=1)]
    if values.dtype.kind == "i":
        return values[values != NOT_THERE]
    return values[np.isfinite(values)]


def value_names(stream: str, taxonomy: Taxonomy) -> Sequence[str]:
    """What the places of a category stream mean."""
    if stream == "category":
        return [c.name if c.name == c.code else f"{c.code} {c.name}" for c in taxonomy]
    return LANGUAGES if stream == "language" else NO_YES


def _product_key(record: PredictionRecord) -> object:
    if record.product_id is not None:
        return record.product_id
    if record.text_embedding is None and record.image_embedding is None:
        return ("prediction", record.prediction_id)
    vectors = (record.text_embedding, record.image_embedding)
    return tuple(b"" if vector is None else vector.tobytes() for vector in vectors)


def _column_streams(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    streams = {name: arrays[name].astype(np.float32) for name in NUMBERS if name in arrays}
    for name in ("language", "description_missing"):
        if name in arrays:
            places = arrays[name].astype(np.int16)
            streams[name] = np.where(places == NONE, np.int16(NOT_THERE), places)
    return streams


def _only_present(vectors_ND: np.ndarray, present_N: np.ndarray) -> np.ndarray:
    chosen_ND: np.ndarray = np.where(present_N[:, None] > 0, vectors_ND.astype(np.float32), np.float32("nan"))
    return chosen_ND


def _stacked(vectors: Sequence[np.ndarray | None], dim: int) -> np.ndarray:
    """[N, dim]; NaN where there is none, or one that another encoder made."""
    stacked_ND = np.full((len(vectors), dim), np.nan, dtype=np.float32)
    for row, vector in enumerate(vectors):
        if vector is not None and len(vector) == dim:
            stacked_ND[row] = vector
    return stacked_ND
