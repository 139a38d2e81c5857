"""Admission: how many products may be under way in a worker, and whose turn it is.

Interactive requests enter at once or are refused at once. Bulk requests wait, a batch's worth of products at
a time, and take the room that interactive ones leave; so that they are never starved, one bulk product may
enter for every BULK_SHARE interactive ones that went before it.

"Products" are counted here as in a batch: see service/desk.py for those that share a place.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from service.errors import DEADLINE_SHORT, RequestError, overloaded
from service.terms import PROMISED_S

BULK_SHARE = 8
_BULK_BATCHES = 2  # that may be under way where there is room: one is computed, one is prepared
_MEMORY = 0.9  # of the pace, a batch
_MARGIN = 1.25  # times the wait that is expected must be in time for a request to be let in


@dataclass(eq=False)
class _Waiter:
    products: int
    entered: asyncio.Future[None]


class Gate:
    """`max_queue` bounds the products under way, between here and their answers; `max_bulk` those of bulk
    requests, under way or waiting. `batch` is the most products of a bulk request that enter at once: a
    batch, or a fourth of a queue that is shorter than four. Who has less time than
    `promised_s`, and is refused although an answer would take no longer than that, is told so. Used on one
    event loop; `completed` from any thread."""

    def __init__(
        self,
        *,
        max_queue: int,
        max_bulk: int,
        batch: int,
        promised_s: float = PROMISED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_queue = max_queue
        self.max_bulk = max_bulk
        self.batch = batch
        self.promised_s = promised_s
        self.under_way = 0
        self.bulk_products = 0
        self._waiters: deque[_Waiter] = deque()
        self._overtaking = 0  # interactive products that entered while bulk ones waited
        self._clock = clock
        self._completing = threading.Lock()
        self._began_at = self._completed_at = clock()  # when products came to an idle worker; the last batch
        self.last_batch = 0  # products in it
        self._busy_s = self._done = 0.0  # recent seconds of work, and products

    @property
    def pace_s(self) -> float:
        """Seconds from one product to the next, of late, while there are some; 0 as long as none is known.
        All that the worker does is in it, pictures and refusals too."""
        return self._busy_s / self._done if self._done else 0.0

    @property
    def since_batch_s(self) -> float:
        """Seconds since the last batch was computed."""
        return self._clock() - self._completed_at

    def completed(self, products: int) -> None:
        """A batch was computed."""
        with self._completing:
            now = self._clock()
            self.measured(products, max(0.0, now - max(self._completed_at, self._began_at)))
            self._completed_at, self.last_batch = now, products

    def measured(self, products: int, seconds: float) -> None:
        """So many products took so long."""
        self._busy_s = self._busy_s * _MEMORY + seconds
        self._done = self._done * _MEMORY + products

    def refusal(self, products: int = 1, timeout_s: float = math.inf) -> RequestError | None:
        """Why so many interactive products cannot enter now; None where they can."""
        if self.under_way + products > self.max_queue - self._kept_for_bulk():
            return self._overloaded(
                "queue_full",
                found=f"{products:,} more places for a queue that holds {self.under_way:,}",
                wanted=f"at most {self.max_queue:,} together, or a retry",
            )
        wait_s = _MARGIN * self._with_batch(self.under_way + products) * self.pace_s
        if self.under_way and wait_s > timeout_s:  # an idle worker always tries: its pace may be an old one
            reason = "queue_slow" if wait_s > self.promised_s else DEADLINE_SHORT
            found = f"an answer that may take {wait_s:.2g} s"
            return self._overloaded(reason, found=found, wanted=f"one within {timeout_s:.3g} s")
        return None

    @contextlib.contextmanager
    def interactive(self, products: int, timeout_s: float) -> Iterator[None]:
        """Room for so many products. Raises RequestError (429)."""
        if (refusal := self.refusal(products, timeout_s)) is not None:
            raise refusal
        if self._waiters:
            self._overtaking += products
        self._enter(products)
        try:
            yield
        finally:
            self._leave(products)

    @contextlib.contextmanager
    def bulk_request(self, products: int) -> Iterator[None]:
        """A place for a bulk request, however many batches it is of. Raises RequestError (429)."""
        if self.bulk_products and self.bulk_products + products > self.max_bulk:
            raise self._overloaded(
                "bulk_full",
                found=f"{products:,} more places for a bulk queue that holds {self.bulk_products:,}",
                wanted=f"at most {self.max_bulk:,} together, or a retry",
            )
        self.bulk_products += products
        try:
            yield
        finally:
            self.bulk_products -= products

    @contextlib.asynccontextmanager
    async def bulk(self, products: int) -> AsyncIterator[None]:
        """Room for at most a batch of a bulk request's products, when it is their turn."""
        waiter = _Waiter(products, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._let_in()
        try:
            await waiter.entered
            yield
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._let_in()  # it may have been in another's way
            else:
                self._leave(products)

    def _enter(self, products: int) -> None:
        if not self.under_way:
            self._began_at = self._clock()
        self.under_way += products

    def _leave(self, products: int) -> None:
        self.under_way -= products
        self._let_in()

    def _let_in(self) -> None:
        while self._waiters and self._may_enter(self._waiters[0]):
            waiter = self._waiters.popleft()
            if self.under_way + waiter.products > _BULK_BATCHES * self.batch:
                self._overtaking -= BULK_SHARE * waiter.products
            self._enter(waiter.products)
            waiter.entered.set_result(None)
        if not self._waiters:
            self._overtaking = 0

    def _may_enter(self, waiter: _Waiter) -> bool:
        if waiter.entered.cancelled():
            return False
        together = self.under_way + waiter.products
        return together <= (self.max_queue if self._kept_for_bulk() else _BULK_BATCHES * self.batch)

    def _kept_for_bulk(self) -> int:
        """Products of the bulk request whose turn it is though interactive ones take all the room."""
        products = self._waiters[0].products if self._waiters else 0
        return products if self._overtaking >= BULK_SHARE * products else 0

    def _with_batch(self, products: int) -> int:
        """How many are computed by the time that the last of so many is answered. Where interactive requests
        alone have a batch under way, others will fill up the one that comes next."""
        if self.bulk_products or self.under_way < self.batch:
            return products
        return math.ceil(products / self.batch) * self.batch

    def _overloaded(self, reason: str, *, found: str, wanted: str) -> RequestError:
        retry_after_s = math.ceil(self.under_way * self.pace_s)
        return overloaded(reason, found=found, wanted=wanted, retry_after_s=max(1, retry_after_s))
