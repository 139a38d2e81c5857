"""Every private name of BentoML that Aisle leans on. tests/test_bentoml_bridge.py says which, and fails
when a new version moves one.

A worker's dispatcher (adaptive batching) is used in its own process: `bentoml.depends` and the
instance's own proxy would send every call through HTTP again, and lose some (see DECISIONS.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.marshal.dispatcher import Optimizer
from bentoml.exceptions import ServiceUnavailable
from starlette.types import ASGIApp

from service.errors import RequestError, overloaded


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


class _Uncorked(Optimizer):
    """BentoML's latency model without its corking.

    Its `wait` is the mean time that the last fifty batches' first requests waited, and a lone request
    is held back about as long: after a burst of 64 at once, single requests took 115 ms where they
    take 11. What queues while a batch is computed makes the next batch; no other wait is needed.
    """

    @property
    def wait(self) -> float:
        return 0.0

    @wait.setter
    def wait(self, _: float) -> None:
        """The base class measures it; nothing here reads it."""


class Dispatcher:
    """Adaptive batching of one batchable method, reached without HTTP.

    Items queue one by one, however many a request brings: BentoML predicts a batch's latency from its
    number of jobs, which is then its number of products.
    """

    def __init__(self, service: BridgedService, method: str) -> None:
        self._factory = service.factory
        self._method = method
        self._cork = service.factory.dispatchers[method]
        self._cork.optimizer = _Uncorked(self._cork.max_latency)

    @property
    def depth(self) -> int:
        """Items that wait for a batch."""
        return len(self._cork._queue)

    async def batch_infer(self, items: Sequence[Any]) -> list[Any]:
        """One result an item, in order; a RequestError (503) for an item that was shed."""
        return await asyncio.gather(*(self._infer(item) for item in items))

    async def _infer(self, item: Any) -> Any | RequestError:
        try:
            [result] = await self._factory.batch_infer(self._method, ([item],), {})
        except ServiceUnavailable:
            wait_s = self._cork.max_latency
            found = f"an answer would take longer than {wait_s:g} s"
            return overloaded("latency", found=found, wanted="fewer products at once, or a retry")
        return result

    async def warm(self, item: Any) -> None:
        """Lead the dispatcher through its training phase and teach it this machine's speed.

        BentoML trains on the first eleven batches: nine single ones, then one of two and of three.
        Cold figures are then forgotten, and bursts of 1, 2, 4 ... max_batch_size are what it predicts
        from; a dispatcher left cold sheds a good part of its first real burst.
        """
        for size in [1] * 9 + [2, 3]:
            await self.batch_infer([item] * size)
        for _ in range(2):  # the first round meets each size for the first time, which is slow
            self._cork.optimizer.o_stat.clear()
            for size in self._sizes():
                await self.batch_infer([item] * size)
        self._cork.optimizer.trigger_refresh()

    def _sizes(self) -> list[int]:
        most = self._cork.max_batch_size
        return [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if size < most] + [most]
