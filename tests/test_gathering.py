"""When a batch waits for the pictures that are being read."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from pictures import jpeg
from PIL import Image
from tiny_service import TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.product import Product
from aisle.text import TextEncoder
from service.admission import Gate
from service.desk import Parcel
from service.gathering import LONGEST_S, LULL_S, PAUSE_S, PICTURE_S, Gathering, pays
from service.terms import Priority, Terms
from service.wire import Ask

BATCH = 4
PACE_S = 0.01


@dataclass(frozen=True)
class Waits:
    gathers: bool


PICTURE, OTHER = [Waits(True)], [Waits(False)]


class Worker:
    """A worker that has just computed a batch, at PACE_S a product, with its gathering."""

    def __init__(self, last_batch: int = BATCH) -> None:
        self.now_s = 100.0
        self.gate = Gate(max_queue=64, max_bulk=64, batch=BATCH, clock=lambda: self.now_s)
        self.gathering = Gathering(self.gate, clock=lambda: self.now_s)
        with self.gate.interactive(last_batch, 60):
            self.now_s += last_batch * PACE_S
            self.gate.completed(last_batch)

    def read_one(self) -> None:
        """A picture was read this moment."""
        with self.gathering.reading(1):
            pass


def test_pictures_wait_for_pictures() -> None:
    worker = Worker()
    worker.now_s += 1
    with worker.gate.interactive(9, 60):
        worker.read_one()
        assert not worker.gathering.goes_on([PICTURE], 0.0)
        with worker.gathering.reading(2):
            assert worker.gathering.goes_on([PICTURE], 0.0)
        assert not worker.gathering.goes_on([PICTURE], 0.0)


@pytest.mark.parametrize(
    "waiting",
    [[OTHER], [PICTURE, OTHER], [[*PICTURE, *OTHER]], [PICTURE] * BATCH],
    ids=["another", "another behind a picture", "a parcel of both", "a full batch"],
)
def test_who_gains_nothing_waits_for_nobody(waiting: Sequence[Sequence[Waits]]) -> None:
    worker = Worker()
    with worker.gate.interactive(9, 60), worker.gathering.reading(2):
        worker.read_one()
        assert not worker.gathering.goes_on(waiting, 0.0)


@pytest.mark.parametrize(("under_way", "longest_s"), [(4, 4 * PACE_S / 2), (30, LONGEST_S)])
def test_nobody_is_held_for_longer_than_the_gate_reckons_with(under_way: int, longest_s: float) -> None:
    worker = Worker()
    worker.now_s += 1
    with worker.gate.interactive(under_way, 60), worker.gathering.reading(3):
        worker.read_one()
        assert worker.gathering.goes_on([PICTURE], longest_s - 0.001)
        assert not worker.gathering.goes_on([PICTURE], longest_s + 0.001)


@pytest.mark.parametrize(("pictures", "lull_s"), [(1, PICTURE_S), (20, LULL_S)])
def test_slow_pictures_are_not_waited_for(pictures: int, lull_s: float) -> None:
    worker = Worker()
    worker.now_s += 1
    with worker.gate.interactive(30, 60), worker.gathering.reading(pictures):
        for _ in range(3):  # batch after batch, and none waits for longer than the one before
            worker.read_one()
            worker.now_s += lull_s - 0.001
            assert worker.gathering.goes_on([PICTURE], lull_s - 0.001)
            worker.now_s += 0.002
            assert not worker.gathering.goes_on([PICTURE], lull_s + 0.001)
            worker.gate.completed(1)
            worker.now_s += 1


def test_a_batch_waits_a_moment_for_those_that_were_just_answered() -> None:
    worker = Worker(last_batch=3)
    with worker.gate.interactive(3, 60):
        worker.now_s += PAUSE_S - 0.001
        assert worker.gathering.goes_on([PICTURE], 0.0)
        assert not worker.gathering.goes_on([PICTURE] * 3, 0.0)  # all are here
        worker.now_s += 0.002
        assert not worker.gathering.goes_on([PICTURE], 0.0)


def test_a_lone_client_waits_for_nobody() -> None:
    worker = Worker(last_batch=1)
    with worker.gate.interactive(1, 60):
        worker.read_one()
        assert not worker.gathering.goes_on([PICTURE], 0.0)


@pytest.mark.parametrize(
    ("device", "reading_threads", "cores", "wanted"),
    [("cpu", 2, 2, True), ("cpu", 4, 2, True), ("cpu", 2, 8, False), ("cuda", 64, 8, False)],
)
def test_batches_wait_where_no_core_is_idle_meanwhile(
    device: str, reading_threads: int, cores: int, wanted: bool
) -> None:
    assert pays(device, reading_threads=reading_threads, cores=cores) is wanted


@pytest.mark.parametrize(
    ("quick", "slow", "wanted"),
    [
        (Priority.INTERACTIVE, Priority.INTERACTIVE, True),
        (Priority.INTERACTIVE, Priority.BULK, False),
        (Priority.BULK, Priority.INTERACTIVE, False),
    ],
)
def test_interactive_pictures_wait_for_interactive_ones(
    tiny_text_encoder: TextEncoder,
    tiny_image_encoder: ImageEncoder,
    quick: Priority,
    slow: Priority,
    wanted: bool,
) -> None:
    """While the slow picture is being read, the quick one comes to the queue."""
    service = TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder))
    service.gate.measured(products=1, seconds=1.0)
    queue, said = service.dispatch.batch_infer, []

    async def watched(items: Sequence[Parcel]) -> list:
        said.append(service.desk.gathering.goes_on(items, 0.0))
        return await queue(items)

    service.dispatch.batch_infer = watched  # type: ignore[method-assign, assignment]

    async def both() -> None:
        asks = ((slow, large_png()), (quick, jpeg("red")))
        await asyncio.gather(
            *(
                service.desk.classify([Product(image=image)], Ask(top_k=1), Terms(priority=priority))
                for priority, image in asks
            )
        )

    asyncio.run(both())
    assert said == [wanted, False]  # of the slow one nobody is left to wait for


def large_png() -> bytes:
    """A picture that is read for a tenth of a second or more."""
    rows, columns = np.ogrid[:4_000, :4_000]
    file = io.BytesIO()
    Image.fromarray(((rows * columns) % 251).astype(np.uint8)).convert("RGB").save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()
