"""The end of a worker: for a moment it answers on, and tells each client to take its next request elsewhere.

uvicorn closes idle connections the moment it is told to stop. A request that is on its way on one of them, or
that has arrived and is not read yet, would be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from types import FrameType

LAST_WORDS_S = 1.0
LINGER_S = 1.0  # a client under load sends its next request within that time, and learns that it was the last


class Drain:
    """`begun` from SIGTERM on; `LINGER_S` later the signal goes to the server that would have had it, and
    what else is to end with it is told."""

    def __init__(self) -> None:
        self.begun = False

    def listen(self, loop: asyncio.AbstractEventLoop, tell: Callable[[], None]) -> None:
        """To be called in the main thread, with the server's own handler in place."""
        server = signal.getsignal(signal.SIGTERM)

        def begin(number: int, frame: FrameType | None) -> None:
            if not callable(server):
                return
            if self.begun:  # whoever says it twice is in a hurry
                server(number, frame)
                return
            self.begun = True
            loop.call_soon_threadsafe(loop.call_later, LINGER_S, end, number)

        def end(number: int) -> None:
            tell()
            if callable(server):
                server(number, None)

        signal.signal(signal.SIGTERM, begin)


async def last_words(has_requests: Callable[[], bool]) -> None:
    """Wait until those that uvicorn has given up are answered that. The process ends by its signal as soon as
    its services are closed, whatever is still to be sent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            while has_requests():
                await asyncio.sleep(0.01)
