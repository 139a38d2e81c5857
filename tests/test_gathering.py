"""When a batch waits for the pictures that are being read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
from pictures import jpeg
from tiny_service import TinyService, tiny_classifier

from aisle.classifier import Item
from aisle.columns import Columns
from aisle.image import ImageEncoder
from aisle.product import Product
from aisle.text import TextEncoder
from service.admission import Gate
from service.desk import Job, Parcel
from service.engine import Engine
from service.gathering import LONGEST_S, PAUSE_S, Gathering
from service.terms import Priority, Terms
from service.wire import Ask

BATCH = 4
PACE_S = 0.01
NO_COLUMNS = Columns(
    text_chars=None,
    language=None,
    description_missing=None,
    image_width=None,
    image_height=None,
    brightness=None,
)


def parcel(*, picture: bool) -> Parcel:
    pixels_HWC = np.zeros((8, 8, 3), np.uint8) if picture else None
    item = Item(text="a", product_id="7", pixels_HWC=pixels_HWC)
    return [Job(item=item, columns=NO_COLUMNS, engine=cast(Engine, None))]


PICTURE, TEXT = parcel(picture=True), parcel(picture=False)


class Worker:
    """A gate of a worker that has just computed a batch, at PACE_S a product, and its gathering."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.gate = Gate(max_queue=64, max_bulk=64, batch=BATCH, clock=lambda: self.now_s)
        with self.gate.interactive(10, 60):
            self.now_s += 10 * PACE_S
            self.gate.completed(10)
        self.gathering = Gathering(self.gate)


def test_pictures_wait_for_pictures() -> None:
    worker = Worker()
    worker.now_s += 1
    with worker.gate.interactive(3, 60):
        assert not worker.gathering.goes_on([PICTURE], 0.0)
        with worker.gathering.reading(2):
            assert worker.gathering.goes_on([PICTURE], 0.0)
        assert not worker.gathering.goes_on([PICTURE], 0.0)


@pytest.mark.parametrize(
    "waiting",
    [[TEXT], [PICTURE, TEXT], [[*PICTURE, *TEXT]], [PICTURE] * BATCH],
    ids=["a text", "a text behind a picture", "a parcel of both", "a full batch"],
)
def test_who_gains_nothing_waits_for_nobody(waiting: Sequence[Parcel]) -> None:
    worker = Worker()
    with worker.gate.interactive(3, 60), worker.gathering.reading(2):
        assert not worker.gathering.goes_on(waiting, 0.0)


@pytest.mark.parametrize(("under_way", "longest_s"), [(2, 2 * PACE_S), (30, LONGEST_S)])
def test_nobody_is_held_for_longer_than_was_reckoned_with(under_way: int, longest_s: float) -> None:
    worker = Worker()
    worker.now_s += 1
    with worker.gate.interactive(under_way, 60), worker.gathering.reading(1):
        assert worker.gathering.goes_on([PICTURE], longest_s - 0.001)
        assert not worker.gathering.goes_on([PICTURE], longest_s + 0.001)


def test_a_batch_waits_a_moment_for_those_that_were_just_answered() -> None:
    worker = Worker()
    with worker.gate.interactive(1, 60):
        worker.now_s += 0.9 * PAUSE_S
        assert worker.gathering.goes_on([PICTURE], 0.0)
        worker.now_s += 0.2 * PAUSE_S
        assert not worker.gathering.goes_on([PICTURE], 0.0)


@pytest.mark.parametrize(("priority", "wanted"), [(Priority.INTERACTIVE, 2), (Priority.BULK, 0)])
def test_pictures_of_interactive_requests_are_waited_for(
    tiny_text_encoder: TextEncoder,
    tiny_image_encoder: ImageEncoder,
    priority: Priority,
    wanted: int,
) -> None:
    service = TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder), max_queue=4)
    pool = service.desk._pool
    run, seen = pool.run, []

    async def watched(calls: Sequence[Callable[[], object]]) -> list[object]:
        seen.append(service.desk.gathering._pictures)
        return await run(calls)

    pool.run = watched  # type: ignore[method-assign, assignment]
    products = [Product(image=jpeg("red")), Product(image=jpeg("blue")), Product(title="a")]
    asyncio.run(service.desk.classify(products, Ask(top_k=1), Terms(priority=priority)))
    assert seen == [wanted]
    assert service.desk.gathering._pictures == 0
