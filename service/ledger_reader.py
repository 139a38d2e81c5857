"""What requests ask of the ledger, away from the event loop: a slow database delays them and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aisle.errors import LedgerError
from aisle.ledger import Ledger
from service.errors import ledger_unavailable, overloaded

T = TypeVar("T")

THREADS = 2
MAX_READS = 16  # waiting or under way in a worker


class LedgerReader:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="reads")
        self._under_way = 0

    async def read(self, ask: Callable[[Ledger], T]) -> T:
        """What `ask` finds. Raises RequestError: 503 where the ledger does not answer, 429 where too many
        ask."""
        if self._under_way >= MAX_READS:
            found = f"{self._under_way} reads of the ledger under way"
            raise overloaded("reads_full", found=found, wanted=f"at most {MAX_READS}, or a retry")
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, ask, self.ledger)
        except LedgerError as error:
            raise ledger_unavailable("ledger", "a retry") from error
        finally:
            self._under_way -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
