"""Everything that can be wrong with a request: each fault answered with field, found and wanted, and
the neighbours of a bad product answered as if it were not there."""

# ruff: noqa: E501 - in a table, a row is a line

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import jpeg
from PIL import Image
from tiny_service import MAX_BODY_BYTES, TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from service.wire import ClassifyOut, RefusedOut

GOOD_BEFORE = {"title": "blue notebook"}
GOOD_AFTER = {"title": "wooden train", "image": base64.b64encode(jpeg("red")).decode()}


@pytest.fixture(scope="module")
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> TinyService:
    return TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(side: int) -> bytes:
    """A small PNG file of side x side black pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side + 1) * 64), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def noisy_jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(file, "JPEG")
    return file.getvalue()


# fmt: off
# product, reason, field, what found says, what wanted says
BAD_PRODUCTS: dict[str, tuple[Any, str, str, str, str]] = {
    "empty": ({}, "product_empty", "product", "no title", "at least one of them"),
    "only blanks": (
        {"title": "  ", "description": "\n"},
        "product_empty",
        "product",
        "no title",
        "at least one",
    ),
    "only markup": ({"title": "<br/>"}, "product_empty", "product", "cleaning leaves nothing", "words"),
    "half of a surrogate pair": (
        {"title": "a\ud800b"},
        "text_broken",
        "title",
        "half of a surrogate pair",
        "Unicode text",
    ),
    "half of a surrogate pair in a list": (
        {"title": ["\udfff"]},
        "text_broken",
        "title",
        "half of a surrogate pair",
        "Unicode text",
    ),
    "a field that is half of a surrogate pair": (
        {"\ud800": 1},
        "text_broken",
        "product",
        "half of a surrogate pair",
        "Unicode text",
    ),
    "unknown id alone": (
        {"product_id": "nobody"},
        "nothing_known",
        "product_id",
        "no text and no image",
        "an id",
    ),
    "unknown field": (
        {"title": "a", "price": 3},
        "field_unknown",
        "price",
        "an unknown field",
        "one of product_id, title",
    ),
    "title of 100 kB": (
        {"title": "x" * 100_000},
        "text_too_long",
        "title",
        "100,000 characters",
        "at most 1,000",
    ),
    "description of 100 kB": (
        {"description": "é" * 100_000},
        "text_too_long",
        "description",
        "100,000 char",
        "at most 20,000",
    ),
    "braces in the id": (
        {"product_id": "a{b}"},
        "product_id_brace",
        "product_id",
        "'a{b}'",
        "an id without { and }",
    ),
    "empty id": (
        {"product_id": "", "title": "a"},
        "product_id_empty",
        "product_id",
        "an empty id",
        "1 or more",
    ),
    "long id": ({"product_id": "7" * 201}, "text_too_long", "product_id", "201 characters", "at most 200"),
    "title a number": ({"title": 123}, "value_wrong", "title", "a number (123)", "a string"),
    "title a list": ({"title": ["a"]}, "value_wrong", "title", "a list", "a string"),
    "id a number": (
        {"product_id": 3804725264},
        "value_wrong",
        "product_id",
        "a number (3804725264)",
        "a string",
    ),
    "description true": ({"description": True}, "value_wrong", "description", "a boolean (true)", "a string"),
    "image a number": ({"image": 5}, "value_wrong", "image", "a number (5)", "base64 of an image file"),
    "product a string": (
        "notebook",
        "value_wrong",
        "product",
        "a string of 8 characters",
        "an object with product_id",
    ),
    "product null": (None, "value_wrong", "product", "null", "an object with product_id"),
    "broken base64": (
        {"image": "@@@@"},
        "base64_broken",
        "image",
        "a string of 4 characters",
        "base64 without",
    ),
    "data url": (
        {"image": "data:image/png;base64,AAAA"},
        "base64_broken",
        "image",
        "a string of 26",
        "data: prefix",
    ),
    "empty image": ({"title": "a", "image": ""}, "image_format", "image", "", "JPEG"),
    "text file as image": ({"image": b64(b"hello, world\n" * 20)}, "image_format", "image", "", "JPEG"),
    "svg as image": (
        {"image": b64(b"<svg xmlns='http://www.w3.org/2000/svg'/>")},
        "image_format",
        "image",
        "",
        "JPEG",
    ),
    "truncated jpeg": ({"image": b64(noisy_jpeg()[:-2_000])}, "image_truncated", "image", "", ""),
    "png bomb": (
        {"image": b64(png_bomb(30_000))},
        "image_too_many_pixels",
        "image",
        "900,000,000",
        "25,000,000",
    ),
}


@pytest.mark.parametrize("name", BAD_PRODUCTS)
def test_a_bad_product_alone_is_refused(service: TinyService, name: str) -> None:
    product, reason, field, found, wanted = BAD_PRODUCTS[name]
    answer = service.classify([product])
    assert answer.status_code == 422
    RefusedOut.model_validate(answer.json())
    error = answer.json()["error"]
    assert (error["reason"], error["field"]) == (reason, field)
    assert found in error["found"]
    assert wanted in error["wanted"]
    assert error["message"] == f"{field}: found {error['found']}, wanted {error['wanted']}"
    assert answer.json()["results"] == [{"error": error}]


@pytest.mark.parametrize("name", BAD_PRODUCTS)
def test_the_neighbours_of_a_bad_product_are_untouched(service: TinyService, name: str) -> None:
    product, reason, *_ = BAD_PRODUCTS[name]
    alone = service.classify([GOOD_BEFORE, GOOD_AFTER]).json()["results"]
    answer = service.classify([GOOD_BEFORE, product, GOOD_AFTER])
    assert answer.status_code == 200
    ClassifyOut.model_validate(answer.json())
    before, bad, after = answer.json()["results"]
    assert bad["error"]["reason"] == reason
    for found, wanted in zip([before, after], alone, strict=True):
        assert found["category"] == wanted["category"]
        assert found["confidence"] == pytest.approx(wanted["confidence"], abs=1e-4)


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


GOOD = {"products": [GOOD_BEFORE]}
# fmt: off
# body, content type, status, reason, field, found, wanted
BAD_ENVELOPES: dict[str, tuple[bytes, str, int, str, str, str, str]] = {
    "empty body": (b"", "application/json", 400, "json_broken", "body", "an empty body", "one JSON object"),
    "cut json": (b'{"products": [{"ti', "application/json", 400, "json_broken", "body", "broken JSON", "one JSON"),
    "not utf-8": (b'{"products": [{"title": "\xff"}]}', "application/json", 400, "json_broken", "body", "broken", "JSON"),
    "two values": (b"{} {}", "application/json", 400, "json_broken", "body", "broken JSON", "one JSON object"),
    "deep nesting": (b"[" * 100_000, "application/json", 400, "json_broken", "body", "broken JSON", "one JSON"),
    "a list": (b"[]", "application/json", 422, "value_wrong", "body", "a list", "an object with products"),
    "null": (b"null", "application/json", 422, "value_wrong", "body", "null", "an object with products"),
    "no products": (body({}), "application/json", 422, "field_missing", "products", "nothing", "a list of 1 to 256"),
    "0 products": (body({"products": []}), "application/json", 422, "product_count", "products", "0 products", "1 to 256"),
    "257 products": (body({"products": [GOOD_BEFORE] * 257}), "application/json", 422, "product_count", "products", "257 products", "1 to 256"),
    "products an object": (body({"products": GOOD_BEFORE}), "application/json", 422, "value_wrong", "products", "an object", "a list of 1 to 256"),
    "many unknown fields": (body({**GOOD, "topk": 3} | {f"k{i}": i for i in range(9_999)}), "application/json", 422, "field_unknown", "topk", "unknown", "one of products"),
    "unknown field": (body({**GOOD, "topk": 3}), "application/json", 422, "field_unknown", "topk", "unknown", "one of products"),
    "top_k 0": (body({**GOOD, "top_k": 0}), "application/json", 422, "value_wrong", "top_k", "a number (0)", "1 to 100"),
    "top_k 101": (body({**GOOD, "top_k": 101}), "application/json", 422, "value_wrong", "top_k", "a number (101)", "1 to 100"),
    "top_k text": (body({**GOOD, "top_k": "5"}), "application/json", 422, "value_wrong", "top_k", "a string of 1", "1 to 100"),
    "top_k true": (body({**GOOD, "top_k": True}), "application/json", 422, "value_wrong", "top_k", "a boolean", "1 to 100"),
    "form body": (b"a=b", "application/x-www-form-urlencoded", 415, "content_type", "Content-Type", "'application/x-", "json"),
    "no content type": (body(GOOD), "", 415, "content_type", "Content-Type", "none", "application/json"),
    "too large": (b"x" * (MAX_BODY_BYTES + 1), "application/json", 413, "body_too_large", "body", "8,388,609 bytes", "at most 8,388,608"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD_ENVELOPES)
def test_a_bad_envelope_is_refused(service: TinyService, name: str) -> None:
    content, content_type, status, reason, field, found, wanted = BAD_ENVELOPES[name]
    headers = {"content-type": content_type} if content_type else {}
    answer = service.client.post("/v1/classify", content=content, headers=headers)
    assert answer.status_code == status
    RefusedOut.model_validate(answer.json())
    error = answer.json()["error"]
    assert (error["reason"], error["field"]) == (reason, field)
    assert found in error["found"]
    assert wanted in error["wanted"]


UPLOAD = "/v1/classify/upload"
Part = tuple[str, tuple[str | None, bytes]]  # a file name makes a part a file
# fmt: off
BAD_UPLOADS: dict[str, tuple[list[Part], int, str, str, str, str]] = {
    "nothing": ([("title", (None, b""))], 422, "product_empty", "product", "no title", "at least one"),
    "unknown field": ([("price", (None, b"3"))], 422, "field_unknown", "price", "unknown field", "one of product_id"),
    "title twice": ([("title", (None, b"a")), ("title", (None, b"b"))], 422, "field_twice", "title", "2 parts", "one"),
    "title as a file": ([("title", ("a.txt", b"a"))], 422, "value_wrong", "title", "a file", "text"),
    "image as text": ([("image", (None, b"a"))], 422, "value_wrong", "image", "text", "a file"),
    "two images": ([("image", ("a.jpg", b"a")), ("image", ("b.jpg", b"b"))], 400, "form_broken", "body", "Too many files", "a form of"),
    "top_k text": ([("title", (None, b"a")), ("top_k", (None, b"x"))], 422, "value_wrong", "top_k", "'x'", "1 to 100"),
    "title of 100 kB": ([("title", (None, b"x" * 100_000))], 422, "text_too_long", "title", "100,000", "at most 1,000"),
    "title of 1 MB": ([("title", (None, b"x" * 2**20))], 400, "form_broken", "body", "maximum size", "a form of"),
    "text file as image": ([("image", ("a.jpg", b"hello"))], 422, "image_format", "image", "", "JPEG"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_a_bad_upload_is_refused(service: TinyService, name: str) -> None:
    parts, status, reason, field, found, wanted = BAD_UPLOADS[name]
    answer = service.client.post(UPLOAD, files=parts)
    assert answer.status_code == status
    RefusedOut.model_validate(answer.json())
    error = answer.json()["error"]
    assert (error["reason"], error["field"]) == (reason, field)
    assert found in error["found"]
    assert wanted in error["wanted"]


@pytest.mark.parametrize(
    ("content_type", "content", "status", "reason"),
    [
        ("application/json", b"{}", 415, "content_type"),
        ("multipart/form-data; boundary=x; charset=unicode_escape", b"--x--", 415, "charset"),
        ("multipart/form-data; boundary=x; charset=utf-7", b"--x--", 415, "charset"),
        ("multipart/form-data", b"", 400, "form_broken"),
        ("multipart/form-data; boundary=x", b"nonsense", 400, "form_broken"),
    ],
)
def test_what_is_no_form_is_refused(
    service: TinyService, content_type: str, content: bytes, status: int, reason: str
) -> None:
    answer = service.client.post(UPLOAD, content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PRODUCTS = JSON_VALUES | st.dictionaries(
    st.sampled_from(["product_id", "title", "description", "image", "price"]), JSON_VALUES, max_size=4
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(product=PRODUCTS)
def test_no_product_whatever_harms_its_neighbour_or_the_server(service: TinyService, product: Any) -> None:
    content = json.dumps({"products": [GOOD_BEFORE, product]}).encode()
    answer = service.client.post(
        "/v1/classify", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    ClassifyOut.model_validate(answer.json())
    assert "category" in answer.json()["results"][0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(envelope=JSON_VALUES)
def test_no_envelope_whatever_gets_a_5xx(service: TinyService, envelope: Any) -> None:
    headers = {"content-type": "application/json"}
    answer = service.client.post("/v1/classify", content=json.dumps(envelope).encode(), headers=headers)
    assert 400 <= answer.status_code < 500
    RefusedOut.model_validate(answer.json())


def test_a_number_of_5000_digits_is_its_products_fault(service: TinyService) -> None:
    products = f'[{json.dumps(GOOD_BEFORE)}, {{"title": {"9" * 5_000}}}]'
    answer = service.client.post(
        "/v1/classify",
        content=f'{{"products": {products}}}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200
    error = answer.json()["results"][1]["error"]
    assert (error["reason"], error["field"], error["wanted"]) == ("value_wrong", "title", "a string")


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"products": [1,]}'])
def test_what_is_no_json_stays_the_requests_fault(service: TinyService, body: bytes) -> None:
    answer = service.client.post("/v1/classify", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "json_broken")


def test_an_id_alone_is_not_blamed_while_the_store_is_away_and_a_product_without_id_is(
    service: TinyService,
) -> None:
    service.pantry.available = False
    try:
        known, bare = service.classify([{"product_id": "1"}, {"title": "<br>"}]).json()["results"]
    finally:
        service.pantry.available = True
    assert known["error"]["reason"] == "features_unavailable"
    assert bare["error"]["reason"] == "product_empty"
