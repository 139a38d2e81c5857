"""What products take of gate and queue, and that answers come back in their order."""

from __future__ import annotations

import asyncio
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_service import TinyService, tiny_classifier, vectors

from aisle.errors import ProductError
from aisle.image import ImageEncoder
from aisle.prediction import Prediction, Source
from aisle.product import Product
from aisle.text import TextEncoder
from service.desk import IDS_A_PLACE, Given, Parcel, Ticket, places, portions
from service.errors import RequestError
from service.terms import Priority, Terms
from service.wire import Ask

WITH_TEXT = Product(title="a")
ID_ALONE = Product(product_id="7")
NONE = ProductError("not_an_object", field="product", found="a list", wanted="an object")
requests = st.lists(st.sampled_from([WITH_TEXT, ID_ALONE, NONE]), min_size=1, max_size=80)


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> TinyService:
    return TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder), max_queue=4)


@pytest.mark.parametrize(
    ("products", "wanted"),
    [
        ([WITH_TEXT] * 3, 3),
        ([ID_ALONE], 1),
        ([ID_ALONE] * IDS_A_PLACE, 1),
        ([ID_ALONE] * IDS_A_PLACE + [WITH_TEXT] * 2, 3),
        ([ID_ALONE] * (IDS_A_PLACE + 1) + [WITH_TEXT] * 2, 4),
        ([Product(product_id="7", image=b"x")] * 2, 2),
    ],
)
def test_ids_alone_share_a_place(products: list[Given], wanted: int) -> None:
    assert places(products) == wanted


@given(requests, st.integers(1, 9))
def test_portions_are_the_request_cut_where_a_batch_is_full(products: list[Given], size: int) -> None:
    cut = list(portions(products, size))
    assert list(chain.from_iterable(cut)) == products
    assert all(places(portion) <= size for portion in cut)
    for portion, following in pairwise(cut):
        assert places([*portion, following[0]]) > size


@pytest.mark.parametrize("priority", list(Priority))
def test_every_product_gets_its_own_answer(service: TinyService, priority: Priority) -> None:
    parcels: list[Parcel] = []
    queue = service.dispatch.batch_infer

    async def watched(items: list[Parcel]) -> list:
        parcels.extend(items)
        return await queue(items)

    service.dispatch.batch_infer = watched  # type: ignore[method-assign, assignment]
    held = {f"id{number}": vectors(service.classifier) for number in range(0, 60, 2)}
    service.pantry.held = held
    products = [
        Product(title=f"text {number}") if number % 7 == 0 else Product(product_id=f"id{number}")
        for number in range(60)
    ]
    reply = asyncio.run(service.desk.classify(products, Ask(top_k=1), Terms(priority=priority)))
    for product, outcome in zip(products, reply.outcomes, strict=True):
        if product.title:
            assert isinstance(outcome, Prediction)
            assert outcome.text_source is Source.COMPUTED
        elif product.product_id in held:
            assert isinstance(outcome, Prediction)
            assert outcome.text_source is Source.STORED
        else:
            assert isinstance(outcome, ProductError)
            assert outcome.reason == "nothing_known"
    assert sum(map(len, parcels)) == 60
    assert len(parcels) <= 9 + 51 // IDS_A_PLACE + 9  # a portion's last parcel may be half empty


def test_every_portion_of_a_bulk_request_began_when_the_request_came(service: TinyService) -> None:
    began: list[float] = []
    queue = service.dispatch.batch_infer

    async def watched(items: list[Parcel]) -> list:
        began.extend(job.ticket.began for parcel in items for job in parcel)
        return await queue(items)

    service.dispatch.batch_infer = watched  # type: ignore[method-assign, assignment]
    asyncio.run(service.desk.classify([WITH_TEXT] * 12, Ask(top_k=1), Terms(priority=Priority.BULK)))
    assert len(began) == 12
    assert len(set(began)) == 1


def test_a_parcel_that_is_shed_is_shed_with_all_its_products(service: TinyService) -> None:
    late = RequestError(429, "latency", field="request", found="a wait", wanted="none")

    async def shed(items: list[Parcel]) -> list:
        assert [len(parcel) for parcel in items] == [1, IDS_A_PLACE, 2]
        assert all(isinstance(job.ticket, Ticket) for parcel in items for job in parcel)
        return [late] * len(items)

    service.dispatch.batch_infer = shed  # type: ignore[method-assign, assignment]
    products = [ID_ALONE] * (IDS_A_PLACE + 2) + [WITH_TEXT]
    reply = asyncio.run(service.desk.classify(products, Ask(top_k=1)))
    assert reply.outcomes == [late] * (IDS_A_PLACE + 3)
    assert service.sample("aisle_shed_products_total", reason="latency") == IDS_A_PLACE + 3
