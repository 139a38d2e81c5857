"""GET /v1/predictions: what was answered, newest first, in pages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import QueryParams

from aisle.ledger import Label, Ledger, PredictionFilter, PredictionRecord
from aisle.taxonomy import Taxonomy
from service.errors import RequestError
from service.ledger_reader import LedgerReader

DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
MAX_TEXT_CHARS = 256
_CURSOR = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)-(\d{1,18})", re.ASCII)

Place = tuple[float, int]  # in the order of a page


def _text(given: str) -> str:
    if not 0 < len(given) <= MAX_TEXT_CHARS or "\0" in given:
        raise ValueError
    given.encode()
    return given


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


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """`into` is its name in PredictionFilter or in `read_page`; `parse` raises ValueError, KeyError or
    OverflowError; `schema` is OpenAPI's."""

    into: str
    parse: Callable[[str], Any]
    wanted: str
    schema: Mapping[str, Any]


def _of_text(into: str) -> Parameter:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}
    return Parameter(into=into, parse=_text, wanted=f"1 to {MAX_TEXT_CHARS} characters", schema=schema)


def _of_yes_or_no(into: str) -> Parameter:
    return Parameter(into=into, parse=_yes_or_no, wanted="true or false", schema={"type": "boolean"})


def _of_share(into: str) -> Parameter:
    schema = {"type": "number", "minimum": 0, "maximum": 1}
    return Parameter(into=into, parse=_share, wanted="a number from 0 to 1", schema=schema)


def _of_time(into: str) -> Parameter:
    return Parameter(into=into, parse=_time, wanted=_A_TIME, schema={"type": "string", "format": "date-time"})


PARAMETERS: Mapping[str, Parameter] = {
    "product_id": _of_text("product_id"),
    "model": _of_text("model"),
    "category": _of_text("category"),
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
        return page, ledger.labels_of([record.prediction_id for record in page[:limit]])

    page, labels = await reader.ask(ask)
    shown = page[:limit]
    return {
        "predictions": [prediction_object(one, labels.get(one.prediction_id), taxonomy) for one in shown],
        "next": cursor_of(shown) if len(page) > limit else None,
    }


def read_query(query: QueryParams, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Values by what their parameters go `into`. Raises RequestError (422)."""
    values: dict[str, Any] = {}
    for name, given in query.multi_items():
        if name not in parameters:
            wanted = f"of {', '.join(parameters)}"
            raise _wrong("query", f"a parameter {_clipped(name)}", wanted)
        parameter = parameters[name]
        if parameter.into in values:
            raise _wrong(name, "it twice", "it once")
        try:
            values[parameter.into] = parameter.parse(given)
        except (ValueError, KeyError, OverflowError) as error:
            raise _wrong(name, _clipped(given), parameter.wanted) from error
    return values


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


def label_object(label: Label, taxonomy: Taxonomy) -> dict[str, Any]:
    category = category_object(label.category, taxonomy)
    return {"category": category, "source": label.source, "at": time_text(label.at_s)}


def category_object(code: str, taxonomy: Taxonomy) -> dict[str, Any]:
    """`name` is None of a code that the model in service does not know."""
    name = taxonomy[taxonomy.index(code)].name if code in taxonomy.codes else None
    return {"code": code, "name": name}


def time_text(at_s: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _wrong(field: str, found: str, wanted: str) -> RequestError:
    return RequestError(422, "value_wrong", field=field, found=found, wanted=wanted)


def _clipped(given: str) -> str:
    return repr(given if len(given) <= 60 else given[:60] + "...")
