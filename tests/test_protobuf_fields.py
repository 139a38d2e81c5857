"""Fields of a protobuf message are counted as protobuf itself would."""

from __future__ import annotations

import random

import pytest

from service.protobuf_fields import has_more_fields
from service.protos import classifier_pb2 as pb
from service.protos import inference_pb2 as oip


@pytest.mark.parametrize("products", [0, 1, 5, 256, 300])
def test_products_and_settings_are_fields(products: int) -> None:
    rng = random.Random(27)
    request = pb.ClassifyRequest(
        products=[pb.Product(title="a" * rng.randrange(300), image=b"\x00" * 200) for _ in range(products)],
        top_k=300,
        explain=True,
    )
    message = request.SerializeToString()
    assert not has_more_fields(message, products + 2)
    assert has_more_fields(message, products + 1)


def test_tensors_are_fields() -> None:
    request = oip.ModelInferRequest(model_name="a", raw_input_contents=[b"x" * 1_000] * 4)
    assert not has_more_fields(request.SerializeToString(), 5)
    assert has_more_fields(request.SerializeToString(), 4)


def test_groups_hide_nothing() -> None:
    assert has_more_fields(b"\x0b\x0c" + b"\x0a\x00" * 20, 20)


def test_fixed_numbers_are_passed_over() -> None:
    assert not has_more_fields(b"\x09" + b"\x0a" * 8 + b"\x0d" + b"\x0a" * 4, 2)


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\xff", b"\x08", b"\x0f" * 9, b"\x80" * 99, b""])
def test_what_is_no_protobuf_is_the_parsers_to_refuse(message: bytes) -> None:
    assert not has_more_fields(message, 1)
