"""The names of BentoML that the bridge leans on, and that its dispatcher does what we say of it."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cached_property
from typing import Any

import attr
import bentoml
import pytest
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from _bentoml_sdk.method import APIMethod
from bentoml._internal.marshal.dispatcher import CorkDispatcher, NonBlockSema, Optimizer

from service.bentoml_bridge import BridgedService, Dispatcher, service_class
from service.errors import RequestError

MAX_BATCH = 8
LONG_MS = 60_000


def test_bentoml_has_the_names_the_bridge_uses() -> None:
    assert bentoml.__version__ == "1.4.39"
    assert list(inspect.signature(Service.to_asgi).parameters) == ["self", "is_main"]
    assert callable(Service.inject_config)
    assert "dispatchers" in inspect.getsource(ServiceAppFactory.__init__)
    cork = CorkDispatcher(1_000, 4, fallback=lambda: None)
    assert (cork.max_batch_size, cork.max_latency, len(cork._queue)) == (4, 1.0, 0)
    assert callable(cork.get_batch_size)
    assert isinstance(vars(CorkDispatcher)["_wake_event"], cached_property)  # so that it can be set
    methods = (CorkDispatcher.controller, CorkDispatcher.train_optimizer, CorkDispatcher.inbound_call)
    waits = "".join(map(inspect.getsource, methods))
    assert set(re.findall(r"_wake_event\.(\w+)", waits)) == {"wait_for", "notify_all"}
    assert {"acquire", "is_locked", "release"} <= set(dir(NonBlockSema))
    assert len(cork.optimizer.o_stat) == 0
    assert callable(cork.optimizer.trigger_refresh)
    assert "self._service_instance = self.service()" in inspect.getsource(ServiceAppFactory.create_instance)
    assert "func" in {field.name for field in attr.fields(APIMethod)}
    assert Optimizer.N_SKIPPED_SAMPLE == 2  # it trains on 2 + 6 single batches, then on 1, 2 and 3


def make_service(max_latency_ms: int = 10_000) -> BridgedService:
    quiet = {"enabled": False}  # BentoML's metrics are one set a process

    @bentoml.service(name="doubler", service_class=service_class(lambda app: app), metrics=quiet)
    class Doubler:
        def __init__(self) -> None:
            self.sizes: list[int] = []
            self.gate = threading.Event()
            self.gate.set()

        @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=max_latency_ms)
        def double(self, items: list[Any]) -> list[Any]:
            self.gate.wait(5)
            self.sizes.append(len(items))
            return [2 * item for item in items]

    service: BridgedService = Doubler
    return service


def in_worker(
    service: BridgedService, work: Callable[[Dispatcher, Any], Awaitable[None]], **options: float
) -> None:
    """Run `work` inside the service's app, as a worker would."""

    async def run() -> None:
        service.to_asgi()
        factory = service.factory
        factory._service_instance = service()
        dispatcher = Dispatcher(service, "double", **options)
        await work(dispatcher, factory._service_instance)
        dispatcher.close()
        for cork in factory.dispatchers.values():
            cork.shutdown()

    asyncio.run(run())


def test_results_come_back_in_the_order_of_the_items() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.sizes.clear()
        sizes = [1, 5, 8, 3, 7, 7, 1, 8, 2, 6]  # BentoML cuts jobs where a batch is full
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        jobs = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
        results = await asyncio.gather(*map(dispatcher.batch_infer, jobs))
        assert results == [[2 * item for item in job] for job in jobs]
        assert sum(instance.sizes) == sum(sizes)
        assert max(instance.sizes) == MAX_BATCH

    in_worker(make_service(), work)


def test_the_largest_batch_can_be_set() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        dispatcher.max_batch = 3
        instance.sizes.clear()
        await dispatcher.batch_infer(list(range(7)))
        assert instance.sizes == [3, 3, 1]

    in_worker(make_service(), work)


def test_a_lone_item_is_not_held_back_after_a_burst() -> None:
    async def work(dispatcher: Dispatcher, _: Any) -> None:
        await dispatcher.lead_through_training(1)
        optimizer = dispatcher._cork.optimizer
        for _ in range(Optimizer.N_KEPT_SAMPLE):
            optimizer.log_outbound(n=MAX_BATCH, wait=5.0, duration=0.001)
        optimizer.trigger_refresh()
        # BentoML alone would wait 0.95 x 5 s for company.
        assert await asyncio.wait_for(dispatcher.batch_infer([1]), timeout=2.0) == [2]

    in_worker(make_service(), work)


def test_what_waits_for_a_batch_is_known() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.gate.clear()
        first = asyncio.ensure_future(dispatcher.batch_infer([1]))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(dispatcher.batch_infer([1, 2, 3]))
        await asyncio.sleep(0.05)
        assert list(dispatcher.waiting()) == [1, 2, 3]
        instance.gate.set()
        assert await first == [2]
        assert await second == [2, 4, 6]
        assert not list(dispatcher.waiting())

    in_worker(make_service(), work)


def test_what_would_come_too_late_is_shed_as_a_429_that_says_when_to_retry() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.gate.clear()
        running = asyncio.ensure_future(dispatcher.batch_infer([1]))
        await asyncio.sleep(0.05)
        late = asyncio.ensure_future(dispatcher.batch_infer([2, 3]))
        await asyncio.sleep(0.5)
        instance.gate.set()
        assert await running == [2]
        for shed in await late:
            assert isinstance(shed, RequestError)
            assert (shed.status, shed.reason, shed.headers) == (429, "latency", {"Retry-After": "1"})

    in_worker(make_service(max_latency_ms=200), work)


def test_an_error_of_the_method_reaches_the_caller() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        with pytest.raises(TypeError):
            await dispatcher.batch_infer([None])

    in_worker(make_service(), work)


def test_a_deadline_that_passes_while_a_product_waits_is_a_deadline_and_no_refusal() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.gate.clear()
        running = asyncio.ensure_future(dispatcher.batch_infer([1]))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await dispatcher.batch_infer([2])
        instance.gate.set()
        assert await running == [2]

    in_worker(make_service(), work)


def test_what_waits_is_not_shed_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.gate.clear()
        waiting = [asyncio.create_task(dispatcher.batch_infer([0]))]
        await asyncio.sleep(0.05)  # a batch of its own; the others wait for it
        waiting += [asyncio.create_task(dispatcher.batch_infer([number])) for number in (1, 2)]
        await asyncio.sleep(0.05)
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + 3_600)
        await asyncio.sleep(0.05)
        instance.gate.set()
        assert [list(await task) for task in waiting] == [[0], [2], [4]]

    in_worker(make_service(), work)


LONG_S = 30.0  # between looks: what happens sooner was not seen by one


def test_the_end_of_a_batch_is_heard_and_not_looked_for() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        for number in range(20):
            instance.gate.clear()
            running = asyncio.ensure_future(dispatcher.batch_infer([number]))
            await asyncio.sleep(0.01)
            behind = asyncio.ensure_future(dispatcher.batch_infer([-number]))
            await asyncio.sleep(0.01)
            instance.gate.set()
            async with asyncio.timeout(5):
                assert (await running, await behind) == ([2 * number], [-2 * number])

    in_worker(make_service(LONG_MS), work, look_s=LONG_S)


def test_a_batch_is_held_for_more_as_long_as_the_rule_says_so() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.sizes.clear()
        held: list[float] = []
        dispatcher.hold_while(lambda waiting, _: len(list(waiting)) < 3, held.append)
        asked = []
        for number in range(3):
            assert not any(one.done() for one in asked)
            asked.append(asyncio.ensure_future(dispatcher.batch_infer([number])))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert await asyncio.gather(*asked) == [[0], [2], [4]]
        assert instance.sizes == [3]
        assert [seconds >= 0.09 for seconds in held] == [True]

    in_worker(make_service(LONG_MS), work, look_s=LONG_S)


def test_a_batch_that_is_held_begins_when_the_rule_ends_though_nothing_comes() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        told: list[float] = []

        def rule(waiting: Iterator[Any], held_s: float) -> bool:
            told.append(held_s)
            return held_s < 0.1

        dispatcher.hold_while(rule, lambda held_s: None)
        async with asyncio.timeout(5):
            assert await dispatcher.batch_infer([1]) == [2]
        assert told[0] < 0.1
        assert told[-1] >= 0.1
        assert told == sorted(told)

    in_worker(make_service(LONG_MS), work, look_s=LONG_S)


def test_two_batches_at_once_are_as_many_as_may_be() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        dispatcher.allow_at_once(2)
        await dispatcher.lead_through_training(1)
        dispatcher.max_batch = 1
        instance.gate.clear()
        asked = [asyncio.ensure_future(dispatcher.batch_infer([number])) for number in range(5)]
        await asyncio.sleep(0.1)
        assert sorted(dispatcher.waiting()) == [2, 3, 4]
        instance.gate.set()
        async with asyncio.timeout(5):
            assert [list(await one) for one in asked] == [[0], [2], [4], [6], [8]]

    in_worker(make_service(LONG_MS), work, look_s=LONG_S)


def test_all_that_waited_too_long_are_shed_at_once() -> None:
    async def work(dispatcher: Dispatcher, instance: Any) -> None:
        await dispatcher.lead_through_training(1)
        instance.gate.clear()
        running = asyncio.ensure_future(dispatcher.batch_infer([1]))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        late = [asyncio.ensure_future(dispatcher.batch_infer([number])) for number in range(40)]
        shed = [await one for one in late]
        assert time.monotonic() - began < 1.0  # one a look would be two seconds
        reasons = [outcome.reason for [outcome] in shed if isinstance(outcome, RequestError)]
        assert reasons == ["latency"] * 40
        instance.gate.set()
        assert await running == [2]

    in_worker(make_service(max_latency_ms=200), work)
