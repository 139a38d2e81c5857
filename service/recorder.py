"""What was answered goes into the ledger, behind the answer: a slow or absent database delays nothing.

Records wait in memory, at most MAX_WAITING of them; one thread writes them in batches and tries again
while the database is away. What finds no room is dropped, and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aisle.errors import LedgerError, LedgerRefusedError
from aisle.ledger import Ledger, PredictionRecord
from aisle.prediction import Prediction, Source

if TYPE_CHECKING:
    from service.desk import Job
    from service.engine import Batch

MAX_WAITING = 20_000  # records; with both embeddings about 2 kB each
CHUNK = 500  # records a transaction
PAUSE_S = 0.5  # between writes, so that a transaction holds more than one batch
RETRY_S = 1.0  # between attempts while the database is away

logger = logging.getLogger("aisle.service")


class Recorder:
    """`sample` says whether a prediction keeps its embeddings. `on_written` and `on_dropped` hear how many
    records were; `on_waiting` how many are left. One thread may call `record` at a time."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        sample: Callable[[str], bool],
        on_written: Callable[[int], None],
        on_dropped: Callable[[int], None],
        on_waiting: Callable[[int], None],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.ledger = ledger
        self.sample = sample
        self.on_written = on_written
        self.on_dropped = on_dropped
        self.on_waiting = on_waiting
        self.max_waiting = max_waiting
        self._waiting: deque[PredictionRecord] = deque()
        self._closing = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def record(self, jobs: Sequence[Job], prediction_ids: Sequence[str], batch: Batch) -> None:
        """Take the predictions of a batch. Returns at once."""
        records = self._records(jobs, prediction_ids, batch)
        room = self.max_waiting - len(self._waiting)
        if room < len(records):
            self.on_dropped(len(records) - max(0, room))
        self._waiting.extend(records[: max(0, room)])

    def close(self, timeout_s: float = 3.0) -> None:
        """Write what waits, for at most `timeout_s`; what is left is counted as dropped."""
        self._closing.set()
        self._thread.join(timeout_s)
        if self._waiting:
            logger.warning("%d records could not be written before the end", len(self._waiting))
            self.on_dropped(len(self._waiting))
        self.ledger.close()

    def _records(
        self, jobs: Sequence[Job], prediction_ids: Sequence[str], batch: Batch
    ) -> list[PredictionRecord]:
        at_s = time.time()
        bundle = batch.classifier.bundle
        kept = [self.sample(prediction_id) for prediction_id in prediction_ids]
        text_BD = image_BE = None
        if batch.embedded is not None and any(kept):
            text_BD, image_BE = _halved(batch.embedded.text_BD), _halved(batch.embedded.image_BE)
        records = []
        for row, (job, outcome) in enumerate(zip(jobs, batch.outcomes, strict=True)):
            if not isinstance(outcome, Prediction):
                continue
            has_text = kept[row] and outcome.text_source is not Source.ABSENT
            has_image = kept[row] and outcome.image_source is not Source.ABSENT
            records.append(
                PredictionRecord(
                    prediction_id=prediction_ids[row],
                    at_s=at_s,
                    model=batch.classifier.version,
                    product_id=job.item.product_id,
                    category=outcome.category.code,
                    confidence=outcome.confidence,
                    accepted=outcome.accepted,
                    text_source=outcome.text_source.value,
                    image_source=outcome.image_source.value,
                    text_encoder=bundle.text_encoder.revision,
                    image_encoder=bundle.image_encoder.revision,
                    columns=job.columns,
                    text_embedding=text_BD[row] if text_BD is not None and has_text else None,
                    image_embedding=image_BE[row] if image_BE is not None and has_image else None,
                )
            )
        return records

    def _run(self) -> None:
        while not self._closing.wait(RETRY_S if self._failing else PAUSE_S):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._waiting:
            chunk = [self._waiting[i] for i in range(min(CHUNK, len(self._waiting)))]
            if not self._write(chunk):
                break
            for _ in chunk:
                self._waiting.popleft()
        self.on_waiting(len(self._waiting))

    def _write(self, chunk: Sequence[PredictionRecord]) -> bool:
        """Whether these are done with: written or, where the database will never take them, dropped."""
        try:
            if self._failing:  # it may be a new database
                self.ledger.create_tables()
            self.ledger.record_predictions(chunk)
        except LedgerRefusedError as error:
            # One bad record must not take its neighbours with it, nor hold up those behind.
            if len(chunk) > 1:
                return all(self._write([record]) for record in chunk)
            logger.error("a record is dropped: %s", error)
            self.on_dropped(1)
        except LedgerError as error:
            if not self._failing:
                logger.warning("predictions wait in memory: %s", error)
            self._failing = True
            return False
        else:
            self._failing = False
            self.on_written(len(chunk))
        return True


def sampled(share: float) -> Callable[[str], bool]:
    """True for about `share` of prediction ids (hex), the same ones each time."""
    limit = int(share * 0x1_0000)
    return lambda prediction_id: int(prediction_id[:4], 16) < limit


def _halved(vectors_BD: np.ndarray) -> np.ndarray:
    """Float16 of float32 vectors, by torch: numpy's own conversion took a quarter of a bulk batch's time."""
    import torch

    halved: np.ndarray = torch.from_numpy(vectors_BD).half().numpy()
    return halved
