"""SIGTERM reaches the server a moment later, and at once when it is sent again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from service.drain import LINGER_S, Drain, last_words


@pytest.fixture
def heard() -> Iterator[list[float]]:
    """When the server's own handler was called."""
    moments: list[float] = []
    before = signal.signal(signal.SIGTERM, lambda *_: moments.append(time.monotonic()))
    yield moments
    signal.signal(signal.SIGTERM, before)


def test_the_server_hears_of_its_end_when_clients_have_been_told(heard: list[float]) -> None:
    async def run() -> None:
        drain = Drain()
        told: list[float] = []
        drain.listen(asyncio.get_running_loop(), lambda: told.append(time.monotonic()))
        began = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(LINGER_S / 2)
        assert (drain.begun, heard) == (True, [])
        await asyncio.sleep(LINGER_S)
        assert LINGER_S <= told[0] - began <= heard[0] - began

    asyncio.run(run())


def test_who_says_it_twice_is_heard_at_once(heard: list[float]) -> None:
    async def run() -> None:
        drain = Drain()
        drain.listen(asyncio.get_running_loop(), lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        assert len(heard) == 1

    asyncio.run(run())


def test_the_end_waits_for_the_last_words_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.drain.LAST_WORDS_S", 0.2)
    waiting = iter([True, True, False])
    asyncio.run(last_words(lambda: next(waiting)))
    assert list(waiting) == []
    began = time.monotonic()
    asyncio.run(last_words(lambda: True))
    assert time.monotonic() - began >= 0.2
