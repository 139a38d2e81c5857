"""How fast each key may go, counted over all workers of this machine.

GCRA (ITU-T I.371, "virtual scheduling"): a key needs one number, the time at which all that it was let
through would have been done at its rate. It may run ahead of the clock by a burst.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from service.keys import MAX_KEYS
from service.wire import MAX_PRODUCTS

_TIME = struct.Struct("<d")
_ROUNDING_S = 1e-9  # a wait that is only what sums of floats lose
_LONGEST_WAIT_S = 0.001  # for the lock: another worker holds it for microseconds, unless it was stopped then


class Rates:
    """`file` is shared by the workers. A key may burst by a second's products, and by one full request."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # one for all processes of a machine
        size = MAX_KEYS * _TIME.size
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, size)
        self._times = mmap.mmap(self._file, size)

    def charge(self, number: int, products: int, rate: float) -> float:
        """Let `products` of the key with this number through, at `rate` a second: 0.0. Or the seconds until
        they may come again; nothing is charged then."""
        burst_s = max(1.0, MAX_PRODUCTS / rate)
        place = number * _TIME.size
        with self._alone():
            now = self._clock()
            (busy_until,) = _TIME.unpack_from(self._times, place)
            if not now < busy_until <= now + burst_s:  # idle; or written before this machine was started anew
                busy_until = now
            wanted = busy_until + products / rate
            wait_s: float = max(0.0, wanted - now - burst_s)
            if wait_s < _ROUNDING_S:
                _TIME.pack_into(self._times, place, wanted)
                return 0.0
            return wait_s

    def close(self) -> None:
        os.close(self._file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other worker counts meanwhile. The event loop waits a millisecond at most: without the lock two
        workers may let the same products through, which is better than a worker that stands."""
        give_up = time.monotonic() + _LONGEST_WAIT_S
        is_locked = False
        while not is_locked and time.monotonic() < give_up:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_locked = True
        try:
            yield
        finally:
            if is_locked:
                fcntl.flock(self._file, fcntl.LOCK_UN)
