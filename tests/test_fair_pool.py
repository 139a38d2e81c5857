"""Threads that requests share in turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from service.fair_pool import FairPool


def test_results_come_in_the_order_of_the_calls() -> None:
    async def run() -> list[int]:
        pool = FairPool(3, name="t")
        return await pool.run([lambda i=i: i * i for i in range(20)])

    assert asyncio.run(run()) == [i * i for i in range(20)]


def test_a_small_request_waits_for_one_call_of_a_large_one_and_not_for_all() -> None:
    order: list[str] = []

    def call(name: str) -> Callable[[], None]:
        def work() -> None:
            time.sleep(0.002)
            order.append(name)

        return work

    async def run() -> None:
        pool = FairPool(1, name="t")
        large = asyncio.ensure_future(pool.run([call("large")] * 50))
        await asyncio.sleep(0)  # its lane stands first
        await asyncio.gather(pool.run([call("small")]), large)

    asyncio.run(run())
    assert order.index("small") <= 3
    assert order.count("large") == 50


def test_what_nobody_waits_for_is_not_begun() -> None:
    done: list[int] = []
    release = threading.Event()

    def slow() -> None:
        release.wait(10)
        done.append(1)

    async def run() -> None:
        pool = FairPool(1, name="t")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.run([slow] * 10)
        release.set()
        assert await pool.run([lambda: 7]) == [7]

    asyncio.run(run())
    assert len(done) == 1


def test_an_error_is_its_callers_alone() -> None:
    def broken() -> int:
        raise ValueError("this one")

    async def run() -> list[int]:
        pool = FairPool(2, name="t")
        with pytest.raises(ValueError, match="this one"):
            await pool.run([broken, lambda: 1])
        return await pool.run([lambda: 2])

    assert asyncio.run(run()) == [2]
