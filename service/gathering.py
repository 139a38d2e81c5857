"""Whether a batch waits for the pictures that are being read.

On a CPU the cores that compute a batch are those that read the pictures of the next one. A batch that begins
before them takes as long for each product as two batches would, and whoever was nearly ready waits for its
end: 16 clients with a photo each made batches of 7 where batches of 14 cost an eighth less CPU a product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from service.admission import Gate

if TYPE_CHECKING:
    from service.desk import Job

LONGEST_S = 0.06  # a batch waits: some twenty pictures of 500 x 500 are read meanwhile
PAUSE_S = 0.004  # from a batch to the next: its clients' next pictures are on their way


class Gathering:
    """Used on one event loop."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._pictures = 0  # of interactive requests, that are being read

    @contextlib.contextmanager
    def reading(self, pictures: int) -> Iterator[None]:
        """So many pictures are being read, and then wait for a batch."""
        self._pictures += pictures
        try:
            yield
        finally:
            self._pictures -= pictures

    def goes_on(self, waiting: Iterable[Sequence[Job]], held_s: float) -> bool:
        """Whether a batch that could have begun `held_s` seconds ago is still to wait: only one of pictures
        alone, so that nobody else waits for them, and no longer than the worker takes for what is under way
        at its pace, which is what requests were let in by."""
        parcels = list(waiting)
        if len(parcels) >= self._gate.batch:
            return False
        if any(job.item.pixels_HWC is None for parcel in parcels for job in parcel):
            return False
        if self._gate.since_batch_s < PAUSE_S:
            return True
        return self._pictures > 0 and held_s < min(LONGEST_S, self._gate.under_way * self._gate.pace_s)
