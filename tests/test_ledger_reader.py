"""What requests ask of the ledger has a deadline, and a bound."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aisle.ledger import Ledger
from service.errors import RequestError
from service.ledger_reader import LedgerReader


def test_a_ledger_that_hangs_is_unavailable_and_holds_up_nobody_for_ever() -> None:
    ended = threading.Event()
    reader = LedgerReader(Ledger.open("sqlite://"), threads=1, most=2, deadline_s=0.1)

    async def ask() -> None:
        hung = [asyncio.ensure_future(reader.ask(lambda _: ended.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="at most 2, or a retry") as refused:
            await reader.ask(lambda _: 1)
        assert (refused.value.status, refused.value.reason) == (429, "reads_full")
        for one in hung:
            with pytest.raises(RequestError, match="a ledger that does not answer") as late:
                await one
            assert (late.value.status, late.value.reason) == (503, "ledger_unavailable")
        ended.set()
        assert await reader.ask(lambda _: 7) == 7  # those that nobody waits for any more are not begun

    asyncio.run(ask())
    reader.close()
