"""Threads that requests share in turns: one request of 256 pictures delays another's by one picture."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class FairPool:
    """Used from one event loop. What its caller no longer waits for is not begun."""

    def __init__(self, threads: int, *, name: str) -> None:
        self._threads = threads
        self._busy = 0
        self._lanes: deque[deque[tuple[Callable[[], Any], asyncio.Future[Any]]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The result of each call, in order. Raises what the first that fails raises."""
        loop = asyncio.get_running_loop()
        lane = deque((call, loop.create_future()) for call in calls)
        futures = [future for _, future in lane]
        self._lanes.append(lane)
        self._fill()
        try:
            return await asyncio.gather(*futures)
        finally:
            lane.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        """Give idle threads the next call of the next request."""
        while self._busy < self._threads and self._lanes:
            lane = self._lanes.popleft()
            if not lane:
                continue
            call, future = lane.popleft()
            self._lanes.append(lane)
            self._busy += 1
            done = asyncio.get_running_loop().run_in_executor(self._pool, call)
            done.add_done_callback(functools.partial(self._finish, future))

    def _finish(self, future: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        self._busy -= 1
        self._fill()
        if done.cancelled():
            future.cancel()
        elif future.done():
            done.exception()  # nobody waits for it any more
        elif error := done.exception():
            future.set_exception(error)
        else:
            future.set_result(done.result())
