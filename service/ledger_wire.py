"""What every question to the ledger has in common: how it is read from a query, and answered as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import QueryParams

from aisle.ledger import Label
from aisle.taxonomy import Taxonomy
from service.errors import RequestError, shortened

MAX_TEXT_CHARS = 256


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """`into` is the name of its value; `parse` raises ValueError, KeyError or OverflowError; `schema` is
    OpenAPI's."""

    into: str
    parse: Callable[[str], Any]
    wanted: str
    schema: Mapping[str, Any]


def of_text(into: str) -> Parameter:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}
    return Parameter(into=into, parse=_text, wanted=f"1 to {MAX_TEXT_CHARS} characters", schema=schema)


def read_query(query: QueryParams, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Values by what their parameters go `into`. Raises RequestError (422)."""
    values: dict[str, Any] = {}
    for name, given in query.multi_items():
        if name not in parameters:
            wanted = f"one of {', '.join(parameters)}"
            raise _wrong("query", f"a parameter {_quoted(name)}", wanted)
        parameter = parameters[name]
        if parameter.into in values:
            raise _wrong(name, "it twice", "it once")
        try:
            values[parameter.into] = parameter.parse(given)
        except (ValueError, KeyError, OverflowError) as error:
            raise _wrong(name, _quoted(given), parameter.wanted) from error
    return values


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


def _text(given: str) -> str:
    if not 0 < len(given) <= MAX_TEXT_CHARS or "\0" in given:
        raise ValueError
    given.encode()
    return given


def _wrong(field: str, found: str, wanted: str) -> RequestError:
    return RequestError(422, "value_wrong", field=field, found=found, wanted=wanted)


def _quoted(given: str) -> str:
    return repr(shortened(given))
