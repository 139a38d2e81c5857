"""What the ledger holds, as records; and how each is a row.

Shapes: D and E embedding widths of text and image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
from sqlalchemy import JSON, CompoundSelect, Select, bindparam, func, literal_column, select, union_all

from aisle.columns import Columns
from aisle.errors import LedgerError
from aisle.ledger_tables import TITLE_CHARS, labels, predictions
from aisle.prediction import Role

CHAMPION, CANARY, SHADOW = (role.value for role in Role)  # plain text, as the tables hold them
CHALLENGER = "challenger"  # the other role of a deployment
DRIFT_STATE = "drift.state"  # the kind of events in which the monitor tells of its last window


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictionRecord:
    """One answer. `number` orders the ledger and is 0 before it is written. `role` is what the model was to
    the product: champion, canary or shadow. `title` is the beginning of the product's; `latency_s` is from
    the request, once it was read, to the answer, waits included. Embeddings are float16 [D] and [E]; None
    where the modality was absent or this answer was not sampled."""

    prediction_id: str
    at_s: float
    model: str
    product_id: str | None
    category: str
    confidence: float
    accepted: bool
    text_source: str
    image_source: str
    text_encoder: str
    image_encoder: str
    columns: Columns
    role: str = CHAMPION
    title: str | None = None
    latency_s: float | None = None
    text_embedding: np.ndarray | None = None
    image_embedding: np.ndarray | None = None
    number: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The true category of a prediction or of a product; exactly one of the two ids is given."""

    category: str
    source: str
    prediction_id: str | None = None
    product_id: str | None = None
    at_s: float = 0.0
    number: int = 0

    def __post_init__(self) -> None:
        if (self.prediction_id is None) == (self.product_id is None):
            raise LedgerError(
                f"label: found prediction_id {self.prediction_id!r} and product_id {self.product_id!r}, "
                "wanted exactly one of them"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledPrediction:
    """A prediction with the last label that was given for it or, else, for its product."""

    label: Label
    prediction: PredictionRecord

    @property
    def correct(self) -> bool:
        return self.label.category == self.prediction.category


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    number: int
    at_s: float
    kind: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """From `at_s` on, `model` has this role; `mode` (shadow or canary) and `share` are a challenger's."""

    number: int
    at_s: float
    model: str
    reason: str
    role: str = CHAMPION
    mode: str | None = None
    share: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownProduct:
    """A product that was answered, with its last answer."""

    product_id: str
    first_at_s: float
    last_at_s: float
    title: str | None
    prediction_id: str
    model: str
    category: str
    confidence: float
    accepted: bool


_COLUMN_NAMES = tuple(item.name for item in fields(Columns))
_NOT_PLAIN = ("columns", "number", "title", "text_embedding", "image_embedding")
_PLAIN_NAMES = tuple(item.name for item in fields(PredictionRecord) if item.name not in _NOT_PLAIN)
_LABEL_PREFIX = "label_"
# The columns of a row, in its order. Rows are tuples: thousands are made a second, and a dictionary of names
# takes four times as long.
PREDICTION_NAMES = (*_PLAIN_NAMES, *_COLUMN_NAMES, "title", "text_embedding", "image_embedding")
_ANSWER_NAMES = ("product_id", "prediction_id", "model", "category", "confidence", "accepted")
PRODUCT_NAMES = (*_ANSWER_NAMES, "first_at_s", "last_at_s", "title")
_plain_values = attrgetter(*_PLAIN_NAMES, *(f"columns.{name}" for name in _COLUMN_NAMES))
_answer_values = attrgetter(*_ANSWER_NAMES)


def prediction_row(record: PredictionRecord) -> tuple[Any, ...]:
    """The values of PREDICTION_NAMES."""
    vectors = _packed(record.text_embedding), _packed(record.image_embedding)
    return (*_plain_values(record), _beginning(record.title), *vectors)


def product_rows(records: Sequence[PredictionRecord]) -> list[tuple[Any, ...]]:
    """The values of PRODUCT_NAMES for each product that the records answer, with the last answer; sorted by
    id, so that two writers never wait for each other in a circle."""
    rows: dict[str, tuple[Any, ...]] = {}
    for record in sorted(records, key=lambda record: record.at_s):
        if record.product_id is not None and record.role != SHADOW:
            *_, first_at_s, _, title = rows.get(record.product_id, (record.at_s, None, None))
            seen = (first_at_s, record.at_s, _beginning(record.title) or title)
            rows[record.product_id] = (*_answer_values(record), *seen)
    return [rows[product_id] for product_id in sorted(rows)]


def _beginning(title: str | None) -> str | None:
    return title[:TITLE_CHARS] if title else None


def prediction_of(row: Mapping[str, Any]) -> PredictionRecord:
    plain = {name: row[name] for name in (*_PLAIN_NAMES, "title", "number")}
    record = PredictionRecord(columns=Columns(**{name: row[name] for name in _COLUMN_NAMES}), **plain)
    return replace(
        record,
        text_embedding=_unpacked(row.get("text_embedding")),
        image_embedding=_unpacked(row.get("image_embedding")),
    )


def _packed(vector: np.ndarray | None) -> bytes | None:
    return None if vector is None else vector.astype("<f2", copy=False).tobytes()


def _unpacked(data: bytes | None) -> np.ndarray | None:
    return None if data is None else np.frombuffer(data, dtype="<f2")


@cache
def newest_labels_query(dialect: str) -> CompoundSelect[Any]:
    """The numbers of the newest label of each source of each of the bound lists `prediction_id` and
    `product_id`."""
    return union_all(_newest_of("prediction_id", dialect), _newest_of("product_id", dialect))


def _newest_of(id_name: str, dialect: str) -> Select[Any]:
    """From the last source to the one before it, by the index of these ids: what is read is of how many
    sources there are, however many labels. No joins, and one order throughout that only this index has:
    PostgreSQL would read all labels for a join, or look for one source's newest from the last number down,
    where it thinks that most labels are of one product."""
    each = func.json_each if dialect == "sqlite" else func.json_array_elements_text
    given = each(bindparam(id_name, type_=JSON)).table_valued("value")
    last = labels.c.source.desc(), labels.c.number.desc()

    def newest(column: Any, *conditions: Any) -> Any:  # a bound 1 might be any limit to PostgreSQL's planner
        return select(column).where(*conditions).order_by(*last).limit(literal_column("1")).scalar_subquery()

    source, named = labels.c.source, labels.c[id_name]
    first = newest(source, named == given.c.value).label("source")
    said = select(given.c.value.label("id"), first).cte(f"said_of_{id_name}", recursive=True)
    before = newest(source, named == said.c.id, source < said.c.source)
    said = said.union_all(select(said.c.id, before).where(said.c.source.is_not(None)))
    number = newest(labels.c.number, named == said.c.id, source <= said.c.source)
    return select(number).where(said.c.source.is_not(None))


def labelled_query() -> Select[Any]:
    renamed = [column.label(_LABEL_PREFIX + column.name) for column in labels.columns]
    return select(predictions, *renamed)


def labelled_of(row: Mapping[str, Any]) -> LabelledPrediction:
    label = Label(**{item.name: row[_LABEL_PREFIX + item.name] for item in fields(Label)})
    return LabelledPrediction(label=label, prediction=prediction_of(row))


def without_number(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "number"}
