"""Whether a batch waits for the pictures that are being read.

Where the cores that compute a batch are those that read the pictures of the next one, a batch that begins
before them ends nobody's wait sooner, and costs more: with 16 clients of photos
batches are of 10 on the average instead of 8.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from service.admission import Gate

LONGEST_S = 0.06  # a batch waits: some twenty pictures of 500 x 500 are read meanwhile
PICTURE_S = 0.015  # a picture is waited for, while none is read
LULL_S = 0.03  # and however many of them: these are slow ones
PAUSE_S = 0.004  # after a batch, for its clients' next pictures
_WORK = 0.5  # of what is under way, at the worker's pace; the gate lets in by 1.25 times all of it


class Waiting(Protocol):
    """A product that waits for a batch."""

    @property
    def gathers(self) -> bool: ...


def pays(device: str, *, reading_threads: int, cores: int) -> bool:
    """Whether batches should wait at all: not where cores are idle meanwhile, nor for a GPU."""
    return device == "cpu" and reading_threads >= cores


class Gathering:
    """Used on one event loop."""

    def __init__(self, gate: Gate, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate = gate
        self._clock = clock
        self._pictures = 0  # of interactive requests, that are being read
        self._read_at = clock()  # when the last one was

    @contextlib.contextmanager
    def reading(self, pictures: int) -> Iterator[None]:
        """So many pictures are being read, and then wait for a batch."""
        self._pictures += pictures
        try:
            yield
        finally:
            self._pictures -= pictures
            if pictures:
                self._read_at = self._clock()

    def goes_on(self, waiting: Iterable[Sequence[Waiting]], held_s: float) -> bool:
        """Whether a batch that could have begun `held_s` seconds ago is still to wait: as long as pictures
        come one after the other, and where all that waits are such, so that nobody else is held."""
        parcels = list(waiting)
        if len(parcels) >= self._gate.batch or not all(one.gathers for parcel in parcels for one in parcel):
            return False
        if len(parcels) < self._gate.last_batch and self._gate.since_batch_s < PAUSE_S:
            return True
        lull_s = self._clock() - self._read_at
        if lull_s >= min(LULL_S, PICTURE_S * self._pictures):
            return False
        return held_s < min(LONGEST_S, _WORK * self._gate.under_way * self._gate.pace_s)
