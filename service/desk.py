"""Where every door hands its products in, and gets answers back in the same order.

Prepare (decode pictures in a bounded pool) -> admission -> adaptive batching -> answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aisle.errors import ProductError
from aisle.product import Product
from service.engine import Outcome
from service.errors import RequestError, overloaded
from service.telemetry import Telemetry

if TYPE_CHECKING:
    from aisle.classifier import Item

Given = Product | ProductError  # a product of a request, or why it is none

_LONG_TEXT_CHARS = 4_000  # cleaning more than this takes longer than a trip to the pool and back


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The outcome of one item, the classifier it came from, and when its batch started (perf_counter)."""

    outcome: Outcome
    model: str
    started: float


class Dispatch(Protocol):
    """What the desk needs of the batching queue."""

    @property
    def depth(self) -> int: ...

    async def batch_infer(self, items: Sequence[Item]) -> list[Answer | RequestError]: ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One outcome a product, in the order they were given."""

    model: str
    outcomes: Sequence[Outcome]


class Desk:
    """`prepare` turns a Product into an Item or raises ProductError; it must be thread-safe."""

    def __init__(
        self,
        *,
        model: str,
        prepare: Callable[[Product, int], Item],
        dispatch: Dispatch,
        telemetry: Telemetry,
        decode_threads: int,
        max_queue: int,
        request_timeout_s: float,
    ) -> None:
        self.model = model
        self.prepare = prepare
        self.dispatch = dispatch
        self.telemetry = telemetry
        self.max_queue = max_queue
        self.request_timeout_s = request_timeout_s
        self.admitted = 0  # products between here and their answers
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")

    async def classify(self, given: Sequence[Given], top_k: int) -> Reply:
        """Raises RequestError only when the request as a whole has no answer (504, or a full queue)."""
        self._admit(len(given))
        self.admitted += len(given)
        try:
            async with asyncio.timeout(self.request_timeout_s):
                return await self._classify(given, top_k)
        except TimeoutError as error:
            found, wanted = f"no answer after {self.request_timeout_s:g} s", "one in time"
            raise RequestError(504, "timeout", field="request", found=found, wanted=wanted) from error
        finally:
            self.admitted -= len(given)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _admit(self, products: int) -> None:
        if self.admitted + products > self.max_queue:
            self.telemetry.shed("queue_full", products)
            raise overloaded(
                "queue_full",
                found=f"{products:,} products for a queue that holds {self.admitted:,}",
                wanted=f"at most {self.max_queue:,} together",
            )

    async def _classify(self, given: Sequence[Given], top_k: int) -> Reply:
        with self.telemetry.stage("prepare"):
            prepared = await asyncio.gather(*(self._prepare(product, top_k) for product in given))
        items = [item for item in prepared if not isinstance(item, ProductError)]
        answers = iter(await self._dispatch(items))
        outcomes: list[Outcome] = []
        model = self.model
        for item in prepared:
            if isinstance(item, ProductError):
                outcomes.append(item)
                continue
            answer = next(answers)
            if isinstance(answer, RequestError):
                outcomes.append(answer)
            else:
                outcomes.append(answer.outcome)
                model = answer.model
        return Reply(model=model, outcomes=outcomes)

    def _prepare(self, product: Given, top_k: int) -> Awaitable[Item | ProductError]:
        loop = asyncio.get_running_loop()
        if isinstance(product, Product) and _is_slow(product):
            return loop.run_in_executor(self._pool, self._prepare_now, product, top_k)
        done: asyncio.Future[Item | ProductError] = loop.create_future()
        done.set_result(self._prepare_now(product, top_k) if isinstance(product, Product) else product)
        return done

    def _prepare_now(self, product: Product, top_k: int) -> Item | ProductError:
        try:
            return self.prepare(product, top_k)
        except ProductError as error:
            return error

    async def _dispatch(self, items: Sequence[Item]) -> list[Answer | RequestError]:
        if not items:
            return []
        queued = time.perf_counter()
        answering = asyncio.ensure_future(self.dispatch.batch_infer(items))
        await asyncio.sleep(0)  # lets the items enter the queue
        self.telemetry.queued(self.dispatch.depth)
        answers = await answering
        self.telemetry.queued(self.dispatch.depth)
        for answer in answers:
            if isinstance(answer, RequestError):
                self.telemetry.shed(answer.reason)
            else:
                self.telemetry.waited(answer.started - queued)
        return answers


def _is_slow(product: Product) -> bool:
    return product.image is not None or len(product.title) + len(product.description) > _LONG_TEXT_CHARS
