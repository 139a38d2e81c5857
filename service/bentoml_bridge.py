"""Every private name of BentoML that Aisle leans on. tests/test_bentoml_bridge.py says which, and fails
when a new version moves one.

A worker's dispatcher (adaptive batching) is used in its own process: `bentoml.depends` and the
instance's own proxy would send every call through HTTP again, and lose some (see DECISIONS.md).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.marshal import dispatcher as marshal
from bentoml._internal.marshal.dispatcher import NonBlockSema, Optimizer
from bentoml._internal.server.http.access import AccessLogMiddleware
from bentoml.exceptions import ServiceUnavailable
from starlette.types import ASGIApp

from service.errors import overloaded

LOOK_S = 0.05  # between looks for what has waited too long, while a batch is computed
HOLD_LOOK_S = 0.002  # between looks whether a batch is still to wait


class BridgedService(Service):
    """A BentoML service that keeps its app factory, where the dispatchers live."""

    factory: ServiceAppFactory

    @staticmethod
    def wrap(app: ASGIApp) -> ASGIApp:
        return app

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        self.inject_config()
        self.factory = ServiceAppFactory(self, is_main=is_main)
        return self.wrap(self.factory())


def service_class(wrap: Callable[[ASGIApp], ASGIApp]) -> type[BridgedService]:
    """A class for `@bentoml.service(service_class=...)` whose whole app, BentoML's middlewares
    included, stands inside `wrap`. `wrap` is called in workers only."""
    return type("AisleService", (BridgedService,), {"wrap": staticmethod(wrap)})


def access_logged(app: ASGIApp) -> ASGIApp:
    """`app` with BentoML's line for each request, but for what asks all the time how we are."""
    return AccessLogMiddleware(
        app,
        has_request_content_length=True,
        has_request_content_type=True,
        has_response_content_length=True,
        has_response_content_type=True,
        skip_paths=("/livez", "/readyz", "/metrics"),
    )


def speaks_tls() -> bool:
    """Whether this worker's HTTP server was told to: its certificate is an option of its command."""
    return "--ssl-certfile" in sys.argv


class _Unpredicting(Optimizer):
    """BentoML's latency model without what it decides by it.

    It holds a lone request back by the mean wait of the last fifty batches' first requests: after a burst of
    64 at once, single requests took 115 ms where they take 11. And it sheds by a latency that it predicts
    from the number of jobs, which says nothing where jobs are of 1 to max_batch_size items. What queues
    while a batch is computed makes the next batch, and what `hold_while` waits for; the gate sheds, by items.
    What is left of BentoML's shedding is the honest part: a job that has waited max_latency.
    """

    o_a = o_b = wait = property(lambda _: 0.0, lambda _, value: None)


class _Steady:
    """BentoML's dispatcher measures by the time of day how long jobs have waited: when the clock was set an
    hour ahead, all that waited was shed."""

    time = staticmethod(time.monotonic)


class _Wake:
    """What BentoML's dispatcher waits on, in place of its condition: until there is work, and a batch may
    begin. It used to look for the end of the batch before a thousand times a second, and each look takes the
    interpreter's lock from who computes. Now it looks every LOOK_S, for what has waited too long.
    A batch that may begin waits while `holds` says so, which is told for how many seconds it has waited;
    `on_held` hears for how many it did in the end.
    """

    holds: Callable[[float], bool] = staticmethod(lambda held_s: False)
    on_held: Callable[[float], None] = staticmethod(lambda held_s: None)

    def __init__(self, may_begin: Callable[[], bool], look_s: float) -> None:
        self._may_begin = may_begin
        self._look_s = look_s
        self._waiting: asyncio.Future[None] | None = None
        self._looks = False
        self._work = 0  # at the last look

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None

    def notify_all(self) -> None:
        """There is work, or a batch has ended."""
        if self._may_begin() or not self._looks:
            self._wake()

    async def wait_for(self, has_work: Callable[[], int]) -> None:
        loop = asyncio.get_running_loop()
        work = has_work()
        if 0 < work < self._work:  # less than at the last look: one was shed, and the next may be due
            self._work = work
            return
        while not (work and self._may_begin()):
            self._looks = bool(work)
            await self._woken(self._look_s if work else None)
            work = has_work()
            if work and self._looks:
                break
        if self._may_begin():
            began = loop.time()
            while self.holds(loop.time() - began):
                await self._woken(HOLD_LOOK_S)
            self.on_held(loop.time() - began)
        self._work = has_work()

    async def _woken(self, look_s: float | None) -> None:
        """Wait until something is told, at most `look_s` seconds."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        look = None if look_s is None else loop.call_later(look_s, self._wake)
        try:
            await self._waiting
        finally:
            if look is not None:
                look.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Turns(NonBlockSema):
    """How many batches may be under way; `on_turn` hears when one has ended."""

    def __init__(self, count: int, on_turn: Callable[[], None]) -> None:
        super().__init__(count)
        self._on_turn = on_turn

    def release(self) -> None:
        super().release()
        self._on_turn()


class Dispatcher:
    """Adaptive batching of one batchable method, reached without HTTP.

    BentoML finds the method's signature anew for each request, and a job's size by importing pandas, PIL and
    others to compare its type with theirs: a sixth of the event loop's time. Here the method is found once,
    and a job is a list.
    """

    def __init__(self, service: BridgedService, method: str, *, look_s: float = LOOK_S) -> None:
        marshal.time = _Steady
        self._work = functools.partial(service.apis[method].func, service.factory._service_instance)
        self._cork = cork = service.factory.dispatchers[method]
        cork.optimizer = _Unpredicting(cork.max_latency)
        cork.get_batch_size = len
        cork._wake_event = _Wake(lambda: not cork._sema.is_locked(), look_s)
        self.allow_at_once(1)
        self._infer = cork(self._compute)

    def waiting(self) -> Iterator[Any]:
        """Items that wait for a batch. May be asked from any thread: the queue is copied in one step."""
        return (item for job in tuple(self._cork._queue) for item in job.data)

    @property
    def max_batch(self) -> int:
        """The most items in one batch."""
        return self._cork.max_batch_size

    @max_batch.setter
    def max_batch(self, items: int) -> None:
        self._cork.max_batch_size = items

    def allow_at_once(self, batches: int) -> None:
        """So many batches under way; to be called before the first."""
        self._cork._sema = _Turns(batches, self._cork._wake_event.notify_all)
        self._threads = ThreadPoolExecutor(batches, thread_name_prefix="batch")

    def hold_while(
        self, rule: Callable[[Iterator[Any], float], bool], on_held: Callable[[float], None]
    ) -> None:
        """Let a batch that may begin wait for more, for as long as `rule` says so of the items that wait and
        of the seconds for which they have been held; `on_held` hears these when it may begin. Both are called
        on the event loop, and must not raise."""
        self._cork._wake_event.holds = lambda held_s: rule(self.waiting(), held_s)
        self._cork._wake_event.on_held = on_held

    async def batch_infer(self, items: Sequence[Any]) -> Sequence[Any]:
        """One result an item, in order; RequestErrors (429) for items that were shed. Together they are one
        job, which BentoML cuts where a batch is full."""
        if not items:
            return []
        try:
            return await self._infer(list(items))
        except ServiceUnavailable:
            # BentoML answers so, too, when who waits is cancelled: a deadline passed, a client left.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from None
            found, wanted = f"a wait of {self._cork.max_latency:g} s", "a batch before that, or a retry"
            return [overloaded("latency", found=found, wanted=wanted)] * len(items)

    async def lead_through_training(self, item: Any) -> None:
        """BentoML trains on the first eleven batches: nine single ones, then one of two and of three."""
        for size in [1] * 9 + [2, 3]:
            await self.batch_infer([item] * size)

    def close(self) -> None:
        """Begin no batch any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _compute(self, jobs: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """The results of each job's items, of one batch."""
        items = list(itertools.chain.from_iterable(jobs))
        results = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, items)
        ends = list(itertools.accumulate(map(len, jobs)))
        return [results[end - len(job) : end] for job, end in zip(jobs, ends, strict=True)]
