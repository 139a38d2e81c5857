"""POST /v1/classify: a JSON body to products."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from aisle.errors import ProductError
from aisle.product import Product
from service.desk import Given
from service.errors import RequestError, shortened
from service.wire import MAX_PRODUCTS, MAX_TOP_K, Ask, ClassifyIn, Envelope, ProductIn

_WANTED = {
    "body": "an object with products",
    "products": f"a list of 1 to {MAX_PRODUCTS} products",
    "top_k": f"a whole number from 1 to {MAX_TOP_K}",
    "explain": "true or false",
    "product": "an object with product_id, title, description or image",
    "image": "a string with the base64 of an image file",
}
_BASE64_WANTED = "base64 without line breaks and without a data: prefix"
_JSON_NAMES = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


def read_json(content_type: str, body: bytes) -> tuple[list[Given], Ask]:
    """Products of a request, and what it wants of each answer. Raises RequestError for a fault of the
    envelope.

    A well-formed body is read in one pass, base64 included; only one with a fault is read product by
    product, so that the fault stays with its product.
    """
    check_content_type(content_type, "/v1/classify")
    try:
        request = ClassifyIn.model_validate_json(body)
    except ValidationError:
        return _read_faulty(body)
    return [_product_of(product) for product in request.products], _ask(request)


def check_content_type(content_type: str, path: str, wanted: str = "application/json") -> None:
    """Raises RequestError (415) unless it is the one that is wanted, whatever its parameters."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != wanted:
        found = repr(media_type[:60]) if media_type else "none"
        raise RequestError(
            415, "content_type", field="Content-Type", found=found, wanted=f"{wanted} for {path}"
        )


def parse_json(body: bytes) -> Any:
    """The values of a JSON body. Raises RequestError where it is none."""
    try:
        return from_json(body)
    except ValueError as error:
        try:
            # What is JSON, and only some value of it is wrong: half of a surrogate pair, a huge number.
            return json.loads(body, parse_int=_number, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            found = "an empty body" if not body else f"broken JSON ({error})"
            raise RequestError(
                400, "json_broken", field="body", found=found, wanted="one JSON object"
            ) from error


def encodable_json(data: Any) -> bytes | None:
    """A parsed value as JSON again; None where a string of it holds half of a surrogate pair."""
    try:
        return to_json(data)
    except ValueError:
        return None


def broken_text(data: Any, whole: str) -> tuple[str, str]:
    """The field of an object, or `whole`, that holds half of a surrogate pair; and what was found."""
    fields = data.items() if isinstance(data, dict) else ()
    broken = [name for name, value in fields if name.isascii() and encodable_json(value) is None]
    return (shortened(broken[0]) if broken else whole), "half of a surrogate pair"


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _ask(request: ClassifyIn | Envelope) -> Ask:
    return Ask(top_k=request.top_k, explain=request.explain)


def _read_faulty(body: bytes) -> tuple[list[Given], Ask]:
    data = parse_json(body)
    try:
        envelope = Envelope.model_validate(with_one_unknown(data, Envelope))
    except ValidationError as error:
        raise _envelope_error(error.errors(include_url=False)[0]) from error
    return [_read_product(product) for product in envelope.products], _ask(envelope)


def _read_product(data: Any) -> Given:
    data = with_one_unknown(data, ProductIn)
    encoded = encodable_json(data)
    if encoded is None:
        field, found = broken_text(data, "product")
        return ProductError("text_broken", field=field, found=found, wanted="Unicode text")
    try:
        return _product_of(ProductIn.model_validate_json(encoded))
    except ValidationError as error:
        return _product_error(error.errors(include_url=False)[0])


def _product_of(given: ProductIn) -> Given:
    try:
        return Product(
            product_id=given.product_id,
            title=given.title or "",
            description=given.description or "",
            image=given.image,
        )
    except ProductError as error:
        return error


def _envelope_error(detail: ErrorDetails) -> RequestError:
    field = field_of(detail, "body")
    if detail["type"] == "extra_forbidden":
        return RequestError(
            422, "field_unknown", field=field, found="an unknown field", wanted=_one_of(Envelope)
        )
    if detail["type"] == "missing":
        return RequestError(422, "field_missing", field=field, found="nothing", wanted=_WANTED[field])
    if detail["type"] in ("too_short", "too_long"):
        found = f"{len(detail['input'])} products"
        return RequestError(422, "product_count", field=field, found=found, wanted=_WANTED[field])
    return RequestError(
        422, "value_wrong", field=field, found=describe(detail["input"]), wanted=_WANTED[field]
    )


def _product_error(detail: ErrorDetails) -> ProductError:
    field = field_of(detail, "product")
    if detail["type"] == "extra_forbidden":
        wanted = _one_of(ProductIn)
        return ProductError("field_unknown", field=field, found="an unknown field", wanted=wanted)
    found = describe(detail["input"])
    if detail["type"] == "bytes_invalid_encoding":
        why = detail["msg"].rpartition(": ")[2].rstrip(".")
        return ProductError("base64_broken", field=field, found=f"{found} ({why})", wanted=_BASE64_WANTED)
    wanted = _WANTED.get(field, "a string")
    return ProductError("value_wrong", field=field, found=found, wanted=wanted)


def with_one_unknown(data: Any, model: type[BaseModel]) -> Any:
    """An object without its unknown fields but the first: of each pydantic makes an error, which took seconds
    for some MB of them."""
    if not isinstance(data, dict) or len(data) <= len(model.model_fields):
        return data
    known = {name: value for name, value in data.items() if name in model.model_fields}
    unknown = next(name for name in data if name not in model.model_fields)
    return {**known, unknown: data[unknown]}


def field_of(detail: ErrorDetails, whole: str) -> str:
    """The field that a validation error is of; `whole` where it is of no field."""
    name = ".".join(str(part) for part in detail["loc"])
    return shortened(name) or whole


def _one_of(model: type[ProductIn] | type[Envelope]) -> str:
    return "one of " + ", ".join(model.model_fields)


def describe(value: Any) -> str:
    """A JSON value as an error shows it: its type, and the value itself where it is short."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"a string of {len(value):,} characters"
    name = _JSON_NAMES[type(value)]
    return name if isinstance(value, list | dict) else f"{name} ({shortened(str(value).lower())})"
