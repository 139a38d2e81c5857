"""Threads that requests share in turns: one request of 256 pictures delays another's by one picture."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class FairPool:
    """A request wakes the event loop once, when all its calls are done: each time costs a turn of the loop,
    which threads that hold the interpreter lock make slow. What nobody waits for any more is not begun."""

    def __init__(self, threads: int, *, name: str) -> None:
        self._waiting: deque[_Lane] = deque()  # each with a call that is not begun
        self._change = threading.Condition()
        self._closed = False
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    async def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The result of each call, in order. Raises what the last that fails raises."""
        if not calls:
            return []
        lane = _Lane(calls, asyncio.get_running_loop())
        with self._change:
            self._waiting.append(lane)
            self._change.notify(len(calls))
        try:
            return await lane.done
        except asyncio.CancelledError:
            lane.wanted = False
            raise

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _work(self) -> None:
        while (begun := self._next()) is not None:
            lane, number = begun
            lane.run(number)
            lane = begun = None  # type: ignore[assignment]  # pictures are not kept while we wait

    def _next(self) -> tuple[_Lane, int] | None:
        """The next call of the next request; None once the pool is closed."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return None
                lane = self._waiting.popleft()
                if not lane.wanted:
                    continue
                number = lane.begin()
                if lane.left_to_begin:
                    self._waiting.append(lane)
                return lane, number


class _Lane:
    """The calls of one request. `begin` is called under the pool's lock."""

    def __init__(self, calls: Sequence[Callable[[], Any]], loop: asyncio.AbstractEventLoop) -> None:
        self.calls = calls
        self.loop = loop
        self.done: asyncio.Future[list[Any]] = loop.create_future()
        self.wanted = True
        self.left_to_begin = len(calls)
        self._left_to_end = len(calls)
        self._results: list[Any] = [None] * len(calls)
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def begin(self) -> int:
        self.left_to_begin -= 1
        return len(self.calls) - 1 - self.left_to_begin

    def run(self, number: int) -> None:
        try:
            self._results[number] = self.calls[number]()
        except BaseException as error:
            self._failure = error
        with self._lock:
            self._left_to_end -= 1
            last = self._left_to_end == 0
        if last:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                self.loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if self.done.done():
            return
        if self._failure is not None:
            self.done.set_exception(self._failure)
        else:
            self.done.set_result(self._results)
