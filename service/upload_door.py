"""POST /v1/classify/upload: one product as a multipart form, so that a browser or curl can send a file.

Parts are taken as they are: the title `123` is text. (BentoML's own form parsing reads it as a number.)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from aisle.errors import ProductError
from aisle.prediction import DEFAULT_TOP_K
from aisle.product import Product
from service.desk import Given
from service.errors import RequestError
from service.json_door import check_content_type
from service.wire import MAX_TOP_K, Ask

TEXT_FIELDS = ("product_id", "title", "description", "top_k", "explain")
FIELDS = (*TEXT_FIELDS, "image")
_MAX_TEXT_BYTES = 256 * 1024  # above what any text field may hold, so that the product's own limit answers
_BOOLEANS = {"true": True, "false": False}
_TOP_K = TypeAdapter(Annotated[int, Field(ge=1, le=MAX_TOP_K)])


async def read_upload(headers: Mapping[str, str], body: bytes) -> tuple[Given, Ask]:
    """The product of a form, and what is wanted of its answer. Raises RequestError for a fault of the form
    itself."""
    content_type = headers.get("content-type", "")
    check_content_type(content_type, "/v1/classify/upload", "multipart/form-data")
    charset = _charset(content_type)
    if charset not in ("utf-8", "utf8"):  # the parser would decode with any of Python's codecs
        raise RequestError(
            415, "charset", field="Content-Type", found=f"charset {charset[:40]!r}", wanted="charset utf-8"
        )
    form = await _parse(headers, body)
    try:
        _check_fields(form)
        ask = Ask(top_k=_read_top_k(form), explain=_read_explain(form))
        return await _read_product(form), ask
    finally:
        await form.close()


def _charset(content_type: str) -> str:
    _, parameters = parse_options_header(content_type)
    return parameters.get(b"charset", b"utf-8").decode("latin-1").lower()


async def _parse(headers: Mapping[str, str], body: bytes) -> FormData:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers(headers), stream(), max_files=1, max_fields=len(TEXT_FIELDS), max_part_size=_MAX_TEXT_BYTES
    )
    parser.spool_max_size = len(body) + 1  # the body is in memory already: no temporary file
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise RequestError(
            400,
            "form_broken",
            field="body",
            found=error.message.rstrip("."),
            wanted="a form of " + _list(FIELDS),
        ) from error


def _check_fields(form: FormData) -> None:
    names = [name for name, _ in form.multi_items()]
    for name, value in form.multi_items():
        if name not in FIELDS:
            wanted = f"one of {_list(FIELDS)}"
            raise RequestError(422, "field_unknown", field=name[:60], found="an unknown field", wanted=wanted)
        if names.count(name) > 1:
            raise RequestError(
                422, "field_twice", field=name, found=f"{names.count(name)} parts of this name", wanted="one"
            )
        if isinstance(value, UploadFile) != (name == "image"):
            found, wanted = ("text", "a file") if name == "image" else ("a file", "text")
            raise RequestError(422, "value_wrong", field=name, found=found, wanted=wanted)


def _read_top_k(form: FormData) -> int:
    text = form.get("top_k", str(DEFAULT_TOP_K))
    try:
        return _TOP_K.validate_python(text)
    except ValidationError as error:
        wanted = f"a whole number from 1 to {MAX_TOP_K}"
        raise RequestError(
            422, "value_wrong", field="top_k", found=repr(str(text)[:60]), wanted=wanted
        ) from error


def _read_explain(form: FormData) -> bool:
    text = str(form.get("explain", "false"))
    if text not in _BOOLEANS:
        wanted = " or ".join(_BOOLEANS)
        raise RequestError(422, "value_wrong", field="explain", found=repr(text[:60]), wanted=wanted)
    return _BOOLEANS[text]


async def _read_product(form: FormData) -> Given:
    image = form.get("image")
    data = await image.read() if isinstance(image, UploadFile) else None
    try:
        return Product(
            product_id=str(form["product_id"]) if form.get("product_id") else None,
            title=str(form.get("title", "")),
            description=str(form.get("description", "")),
            image=data or None,  # a browser sends an empty file for a picture that was not chosen
        )
    except ProductError as error:
        return error


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
