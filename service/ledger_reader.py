"""What requests ask of the ledger, away from the event loop: a slow database delays them and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aisle.errors import LedgerError, LedgerRefusedError
from aisle.ledger import Ledger
from service.errors import ledger_refused, ledger_unavailable, overloaded

T = TypeVar("T")

THREADS = 2
MAX_READS = 16  # waiting or under way in a worker
DEADLINE_S = 60.0  # where the database gives up later than it promises, or its host is gone without a word


class LedgerReader:
    """At most `most` questions of one kind, `what`, wait or are under way in its `threads`."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        threads: int = THREADS,
        most: int = MAX_READS,
        what: str = "reads",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.ledger = ledger
        self.most = most
        self.what = what
        self.deadline_s = deadline_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=what)
        self._under_way = 0

    async def ask(
        self, question: Callable[[Ledger], T], *, field: str = "ledger", wanted: str = "a retry"
    ) -> T:
        """What `question` finds. Raises RequestError: 503 with `wanted` where the ledger does not answer, and
        with a retry where it has not within `deadline_s` and may do what it was asked yet; 429 where too many
        ask, 422 where it will never take what it was given."""
        if self._under_way >= self.most:
            found = f"{self._under_way} {self.what} of the ledger under way"
            raise overloaded(f"{self.what}_full", found=found, wanted=f"at most {self.most}, or a retry")
        self._under_way += 1
        try:
            async with asyncio.timeout(self.deadline_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, question, self.ledger)
        except TimeoutError as error:
            raise ledger_unavailable(field, "a retry") from error
        except LedgerRefusedError as error:
            raise ledger_refused(field) from error
        except LedgerError as error:
            raise ledger_unavailable(field, wanted) from error
        finally:
            self._under_way -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
