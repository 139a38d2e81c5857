"""GET /v1/predictions: what was answered, newest first, in pages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from starlette.datastructures import QueryParams

from aisle.ledger import Label, Ledger, PredictionFilter, PredictionRecord
from aisle.taxonomy import Taxonomy
from service.ledger_reader import LedgerReader
from service.ledger_wire import (
    Parameter,
    category_object,
    label_object,
    of_text,
    read_query,
    time_text,
)

DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
_CURSOR = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)-(\d{1,18})", re.ASCII)

Place = tuple[float, int]  # in the order of a page


def _yes_or_no(given: str) -> bool:
    return {"true": True, "false": False}[given]


def _share(given: str) -> float:
    value = float(given)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def _time(given: str) -> float:
    """Seconds since 1970 of a time of RFC 3339, or of a number of them."""
    try:
        value = float(given)
    except ValueError:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise
        value = moment.timestamp()
    if not math.isfinite(value) or abs(value) > 1e11:
        raise ValueError
    return value


def _limit(given: str) -> int:
    value = int(given)
    if not 1 <= value <= MAX_LIMIT:
        raise ValueError
    return value


def _cursor(given: str) -> Place:
    if (found := _CURSOR.fullmatch(given)) is None:
        raise ValueError
    return float(found[1]), int(found[2])


_A_TIME = "a time with its zone (RFC 3339), or seconds since 1970"


def _of_yes_or_no(into: str) -> Parameter:
    return Parameter(into=into, parse=_yes_or_no, wanted="true or false", schema={"type": "boolean"})


def _of_share(into: str) -> Parameter:
    schema = {"type": "number", "minimum": 0, "maximum": 1}
    return Parameter(into=into, parse=_share, wanted="a number from 0 to 1", schema=schema)


def _of_time(into: str) -> Parameter:
    return Parameter(into=into, parse=_time, wanted=_A_TIME, schema={"type": "string", "format": "date-time"})


PARAMETERS: Mapping[str, Parameter] = {
    "product_id": of_text("product_id"),
    "model": of_text("model"),
    "category": of_text("category"),
    "accepted": _of_yes_or_no("accepted"),
    "labelled": _of_yes_or_no("labelled"),
    "min_confidence": _of_share("min_confidence"),
    "max_confidence": _of_share("max_confidence"),
    "since": _of_time("since_s"),
    "until": _of_time("until_s"),
    "limit": Parameter(
        into="limit",
        parse=_limit,
        wanted=f"a whole number from 1 to {MAX_LIMIT:,}",
        schema={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    ),
    "cursor": Parameter(
        into="before", parse=_cursor, wanted="the `next` of an answer", schema={"type": "string"}
    ),
}


async def read_page(query: QueryParams, reader: LedgerReader, taxonomy: Taxonomy) -> dict[str, Any]:
    """The page that a query asks for. Raises RequestError."""
    given = read_query(query, PARAMETERS)
    limit, before = given.pop("limit", DEFAULT_LIMIT), given.pop("before", None)
    chosen = PredictionFilter(**given)

    def ask(ledger: Ledger) -> tuple[list[PredictionRecord], dict[str, Label]]:
        page = ledger.page_predictions(chosen, before=before, limit=limit + 1)  # one more says: there is more
        return page, ledger.labels_of(page[:limit])

    page, labels = await reader.ask(ask)
    shown = page[:limit]
    return {
        "predictions": [prediction_object(one, labels.get(one.prediction_id), taxonomy) for one in shown],
        "next": cursor_of(shown) if len(page) > limit else None,
    }


def cursor_of(page: Sequence[PredictionRecord]) -> str:
    """The place of the last record; `repr` of its time, because one digit less would be another place."""
    return f"{page[-1].at_s!r}-{page[-1].number}"


def prediction_object(record: PredictionRecord, label: Label | None, taxonomy: Taxonomy) -> dict[str, Any]:
    columns = record.columns
    return {
        "prediction_id": record.prediction_id,
        "at": time_text(record.at_s),
        "model": record.model,
        "role": record.role,
        "product_id": record.product_id,
        "title": record.title,
        "category": category_object(record.category, taxonomy),
        "confidence": record.confidence,
        "accepted": record.accepted,
        "vectors": {"text": record.text_source, "image": record.image_source},
        "latency_s": record.latency_s,
        "text_chars": columns.text_chars,
        "language": columns.language,
        "image_width": columns.image_width,
        "image_height": columns.image_height,
        "label": None if label is None else label_object(label, taxonomy),
    }
