"""Who may enter, and in which order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from service.admission import BULK_SHARE, Gate
from service.errors import RequestError

BATCH = 8


@pytest.fixture
def gate() -> Gate:
    return Gate(max_queue=4 * BATCH, max_bulk=100, batch=BATCH)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(bounded())


def test_interactive_products_enter_until_the_queue_is_full(gate: Gate) -> None:
    with gate.interactive(30, 1), gate.interactive(2, 1):
        assert gate.under_way == 32
        with pytest.raises(RequestError) as caught, gate.interactive(1, 1):
            pass
        assert (caught.value.status, caught.value.reason) == (429, "queue_full")
    assert gate.under_way == 0


def test_who_could_not_be_answered_in_time_is_refused_at_once(gate: Gate) -> None:
    gate.measured(products=8, seconds=0.8)
    with gate.interactive(5, timeout_s=2):
        assert gate.refusal(3, timeout_s=1.1) is None
        refusal = gate.refusal(3, timeout_s=0.9)
        assert refusal is not None
        assert refusal.reason == "queue_slow"
        assert str(refusal) == "request: found an answer that may take 1 s, wanted one within 0.9 s"


def test_a_wait_is_until_the_whole_batch_is_computed(gate: Gate) -> None:
    gate.measured(products=8, seconds=0.8)
    with gate.interactive(8, timeout_s=60):
        assert gate.refusal(1, timeout_s=2.1) is None
        for products in (1, 8):  # the second batch fills up while the first is computed
            refusal = gate.refusal(products, timeout_s=1.9)
            assert refusal is not None
            assert str(refusal) == "request: found an answer that may take 2 s, wanted one within 1.9 s"


def test_a_request_that_fills_a_batch_of_its_own_is_not_reckoned_as_two(gate: Gate) -> None:
    gate.measured(products=8, seconds=0.8)
    with gate.interactive(1, timeout_s=60):
        assert gate.refusal(8, timeout_s=1.2) is None


def test_bulk_leaves_interactive_requests_their_time(gate: Gate) -> None:
    """Its products stop at two batches: they do not fill up the one that an interactive request is in."""

    async def work() -> None:
        gate.measured(products=8, seconds=0.8)
        with gate.bulk_request(40):
            async with gate.bulk(8), gate.bulk(8):
                assert gate.under_way == 16
                assert gate.refusal(1, timeout_s=2.2) is None
                assert gate.refusal(1, timeout_s=2.0) is not None

    run(work())


@pytest.mark.parametrize(("promised_s", "reason"), [(0.8, "deadline_short"), (0.7, "queue_slow")])
def test_who_is_refused_though_an_answer_is_as_near_as_promised_chose_too_little(
    promised_s: float, reason: str
) -> None:
    gate = Gate(max_queue=4 * BATCH, max_bulk=100, batch=BATCH, promised_s=promised_s)
    gate.measured(products=8, seconds=0.8)
    with gate.interactive(5, timeout_s=2):
        refusal = gate.refusal(1, timeout_s=0.5)
        assert refusal is not None
        assert str(refusal) == "request: found an answer that may take 0.75 s, wanted one within 0.5 s"
        assert (refusal.status, refusal.reason) == (429, reason)


def test_an_idle_worker_tries_however_slow_it_was(gate: Gate) -> None:
    gate.measured(products=1, seconds=8)  # a stall
    assert gate.refusal(1, timeout_s=1) is None
    with gate.interactive(1, timeout_s=1):
        assert gate.refusal(1, timeout_s=1) is not None


def test_the_advice_when_to_come_back_grows_with_the_queue(gate: Gate) -> None:
    gate.measured(products=10, seconds=1)
    with gate.interactive(32, 60):
        refusal = gate.refusal(1)
        assert refusal is not None
        assert refusal.headers == {"Retry-After": "4"}  # 32 products of 0.1 s


def test_the_pace_follows_the_traffic(gate: Gate) -> None:
    for _ in range(50):
        gate.measured(products=8, seconds=0.8)
    assert gate.pace_s == pytest.approx(0.1)
    for _ in range(50):
        gate.measured(products=8, seconds=0.08)
    assert gate.pace_s == pytest.approx(0.01, rel=0.1)


def test_the_pace_is_of_all_that_happens_while_there_is_work() -> None:
    now = [100.0]
    gate = Gate(max_queue=32, max_bulk=100, batch=BATCH, clock=lambda: now[0])
    now[0] += 50  # nothing to do
    with gate.interactive(8, timeout_s=60):
        now[0] += 0.5  # pictures are decoded, then a batch is computed
        gate.completed(4)
        assert gate.pace_s == pytest.approx(0.125)
        now[0] += 0.5
        gate.completed(4)
        assert gate.pace_s == pytest.approx(0.125)
    now[0] += 50
    with gate.interactive(8, timeout_s=60):
        now[0] += 1
        gate.completed(8)
    assert gate.pace_s == pytest.approx(0.125)


def test_bulk_takes_two_batches_and_then_waits(gate: Gate) -> None:
    async def work() -> None:
        done = asyncio.Event()

        async def portion() -> None:
            async with gate.bulk(BATCH):
                await done.wait()

        tasks = [asyncio.create_task(portion()) for _ in range(5)]
        await asyncio.sleep(0)
        assert gate.under_way == 2 * BATCH
        with gate.interactive(BATCH, 1):  # there is room for these
            pass
        done.set()
        await asyncio.gather(*tasks)
        assert gate.under_way == 0

    run(work())


def test_a_bulk_request_that_is_given_up_leaves_no_trace(gate: Gate) -> None:
    async def work() -> None:
        async def portion() -> None:
            async with gate.bulk(BATCH):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(portion()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in random.Random(0).sample(tasks, 5):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        async with gate.bulk(BATCH):  # the next one is not kept waiting
            assert gate.under_way == BATCH
        assert gate.under_way == 0

    run(work())


def test_bulk_is_not_starved_by_interactive_requests_that_fill_the_queue(gate: Gate) -> None:
    """About one in BULK_SHARE + 1 answers is bulk, though interactive requests would take all."""

    async def work() -> None:
        answered = {"interactive": 0, "bulk": 0}
        over = asyncio.Event()

        async def interactive() -> None:
            while not over.is_set():
                try:
                    with gate.interactive(1, 60):
                        await asyncio.sleep(0.001)
                        answered["interactive"] += 1
                except RequestError:
                    await asyncio.sleep(0.001)

        async def bulk() -> None:
            while not over.is_set():
                async with gate.bulk(BATCH):
                    await asyncio.sleep(0.001)
                    answered["bulk"] += BATCH

        tasks = [asyncio.create_task(interactive()) for _ in range(80)]
        await asyncio.sleep(0.01)
        assert gate.refusal(1) is not None
        tasks += [asyncio.create_task(bulk()) for _ in range(4)]
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*tasks)
        share = answered["interactive"] / answered["bulk"]
        assert BULK_SHARE / 2 < share < BULK_SHARE * 2, answered
        assert gate.under_way == 0

    run(work())


def test_any_order_of_entering_leaving_and_giving_up_keeps_the_bounds() -> None:
    async def work() -> None:
        chance = random.Random(1)
        gate = Gate(max_queue=4 * BATCH, max_bulk=60, batch=BATCH)

        async def client() -> None:
            for _ in range(30):
                try:
                    if chance.random() < 0.5:
                        with gate.interactive(chance.randint(1, BATCH), 60):
                            await asyncio.sleep(chance.random() / 500)
                    else:
                        products = chance.randint(1, 3 * BATCH)
                        with gate.bulk_request(products):
                            async with (
                                asyncio.timeout(chance.random() / 100),
                                gate.bulk(min(BATCH, products)),
                            ):
                                await asyncio.sleep(chance.random() / 500)
                except (RequestError, TimeoutError):
                    await asyncio.sleep(0)
                assert 0 <= gate.under_way <= gate.max_queue

        await asyncio.gather(*(client() for _ in range(60)))
        assert (gate.under_way, gate.bulk_products) == (0, 0)

    run(work())
