"""Every private name of BentoML that Aisle leans on. tests/test_bentoml_bridge.py says which, and fails
when a new version moves one.

A worker's dispatcher (adaptive batching) is used in its own process: `bentoml.depends` and the
instance's own proxy would send every call through HTTP again, and lose some (see DECISIONS.md).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.marshal import dispatcher as marshal
from bentoml._internal.marshal.dispatcher import NonBlockSema, Optimizer
from bentoml.exceptions import ServiceUnavailable
from starlette.types import ASGIApp

from service.errors import overloaded


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


def speaks_tls() -> bool:
    """Whether this worker's HTTP server was told to: its certificate is an option of its command."""
    return "--ssl-certfile" in sys.argv


class _Unpredicting(Optimizer):
    """BentoML's latency model without what it decides by it.

    It holds a lone request back by the mean wait of the last fifty batches' first requests: after a burst of
    64 at once, single requests took 115 ms where they take 11. And it sheds by a latency that it predicts
    from the number of jobs, which says nothing where jobs are of 1 to max_batch_size items. What queues
    while a batch is computed makes the next batch; the gate sheds, by items. What is left of BentoML's
    shedding is the honest part: a job that has waited max_latency.
    """

    o_a = o_b = wait = property(lambda _: 0.0, lambda _, value: None)


class _Steady:
    """BentoML's dispatcher measures by the time of day how long jobs have waited: when the clock was set an
    hour ahead, all that waited was shed."""

    time = staticmethod(time.monotonic)


class Dispatcher:
    """Adaptive batching of one batchable method, reached without HTTP."""

    def __init__(self, service: BridgedService, method: str) -> None:
        marshal.time = _Steady
        self._factory = service.factory
        self._method = method
        self._cork = service.factory.dispatchers[method]
        self._cork.optimizer = _Unpredicting(self._cork.max_latency)

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
        """So many batches under way; to be called before the first. The service needs as many threads."""
        self._cork._sema = NonBlockSema(batches)

    async def batch_infer(self, items: Sequence[Any]) -> Sequence[Any]:
        """One result an item, in order; RequestErrors (429) for items that were shed. Together they are one
        job, which BentoML cuts where a batch is full."""
        if not items:
            return []
        try:
            return await self._factory.batch_infer(self._method, (list(items),), {})
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
