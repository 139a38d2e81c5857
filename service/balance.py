"""Clients' connections, spread over the workers.

All workers accept from one listening socket, and the event loop takes every connection that waits: one
that happens to be idle may get all sixteen of a client's pool, and keep them. So each worker writes
down, where the others can read it, how many requests it holds; one that holds many more than another
ends some of its connections with their answers (`Connection: close`), and the clients' next ones are
accepted by whoever is idle.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

_SLOT = struct.Struct("<qddd")  # pid (0: no worker), smoothed load, requests in flight, monotonic time
_SMOOTHING_S = 0.25  # several batches: between two batches a worker holds nothing
_EVEN = 1.25  # times another's load that is still even
_MARGIN = 1.5  # requests: one connection is not worth moving to and fro


def balance_file(bentoml_home: Path) -> Path:
    """Where the workers of the one server that may run on a model store write down what they hold."""
    return bentoml_home / "workers.load"


class Balance:
    """`file` is shared by the workers of one server, of which at most `workers` live at once. Reads of
    another's slot may be torn: that moves a connection too many, and costs a client one reconnection."""

    def __init__(self, file: Path, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._smoothed = 0.0
        self.in_flight = 0
        self._written = self._looked = clock()
        self._moves = 0  # that are left of the last look at the others
        size = 2 * workers * _SLOT.size  # a worker that ends may still be there when the next has begun
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, size)
        self._slots = mmap.mmap(self._file, size)
        self._own: int | None = None

    def join(self) -> None:
        """Be one of the workers from now on: connections may come."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            places = range(0, len(self._slots), _SLOT.size)
            self._own = next((place for place in places if not self._is_taken(place)), None)
            self._change(0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Be none of them any more."""
        if self._own is not None:
            _SLOT.pack_into(self._slots, self._own, 0, 0.0, 0.0, 0.0)
            self._own = None
        os.close(self._file)

    def enter(self) -> None:
        """A request is here."""
        self._change(1)

    def leave(self) -> None:
        """It is answered, or gone."""
        self._change(-1)

    def should_move(self) -> bool:
        """Whether the connection of the request that is answered now should end with it."""
        now = self._clock()
        if now - self._looked >= _SMOOTHING_S:
            self._looked = now
            self._moves = self._surplus(now)
        if self._moves == 0 or self._own is None:
            return False
        self._moves -= 1
        return True

    def _change(self, by: int) -> None:
        now = self._clock()
        self._smoothed = _load(self._smoothed, self.in_flight, now - self._written)
        self.in_flight += by
        self._written = now
        if self._own is not None:
            _SLOT.pack_into(self._slots, self._own, os.getpid(), self._smoothed, self.in_flight, now)

    def _surplus(self, now: float) -> int:
        """Half of what would make it even with the least loaded worker, so that several that are too full
        do not all send their surplus to one."""
        own = _load(self._smoothed, self.in_flight, now - self._written)
        loads = self._loads_of_others(now)
        if not loads or own <= _EVEN * min(loads) + _MARGIN:
            return 0
        return math.ceil((own - min(loads)) / 4)

    def _loads_of_others(self, now: float) -> list[float]:
        loads = []
        for place in range(0, len(self._slots), _SLOT.size):
            if place != self._own and self._is_taken(place):
                _, smoothed, in_flight, written = _SLOT.unpack_from(self._slots, place)
                loads.append(_load(smoothed, in_flight, now - written))
        return loads

    def _is_taken(self, place: int) -> bool:
        """Whether the worker that wrote it lives; one that was killed leaves its slot as it is, and its
        process id to whoever gets it next: perhaps a process that is not ours to signal."""
        pid = _SLOT.unpack_from(self._slots, place)[0]
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, 0)
                return True
        return False


def _load(smoothed: float, in_flight: float, seconds: float) -> float:
    """The exponential mean of the requests in flight, `seconds` after it was `smoothed`."""
    return in_flight + (smoothed - in_flight) * math.exp(-max(0.0, seconds) / _SMOOTHING_S)
