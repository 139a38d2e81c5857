"""What was answered goes into the ledger, behind the answer: a slow or absent database delays nothing.

Memory -> spool -> ledger. One thread moves records from memory to a file every half second; another writes
the file's into the ledger, in order, and tries again while the database is away. So a process that is killed
loses what half a second brought it, and who adopts its file counts that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aisle.errors import LedgerError, LedgerRefusedError
from aisle.ledger import Ledger, PredictionRecord
from aisle.prediction import Prediction, Role, Source
from service.spool import Entry, Spool, SpoolFullError, adopt, spool_files
from service.spool_format import SpoolDamagedError

if TYPE_CHECKING:
    from service.desk import Job
    from service.engine import Batch

MAX_WAITING = 20_000  # records in memory, where the spool takes none; with both embeddings about 2.6 kB each
CHUNK = 1_000  # records a transaction: each writes the newest page of every index again
PAUSE_S = 0.5  # between memory and spool, so that a transaction holds more than one batch
IN_MEMORY_BYTES = 32 * 2**20  # that wait in a spool without a folder; it takes at most twice as much
RETRY_S = 1.0  # between attempts while the database is away
ADOPT_S = 10.0  # between looks for what dead workers left
FORGET_S = 600.0  # between looks for what is too old

logger = logging.getLogger("aisle.service")


class Observer(Protocol):
    """What a recorder tells."""

    def recorded(self, outcome: str, records: int) -> None: ...

    def records_waiting(self, records: int, spool_bytes: int) -> None: ...


class Recorder:
    """`sample` says whether a prediction keeps its embeddings; predictions of more than `keep_s` ago are
    deleted, of 0 none. Any thread may call `record`."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        folder: Path,
        limit_bytes: int,
        sample: Callable[[str], bool],
        observer: Observer,
        keep_s: float = 0.0,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.ledger = ledger
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.sample = sample
        self.observer = observer
        self.keep_s = keep_s
        self.max_waiting = max_waiting
        self._memory: deque[PredictionRecord] = deque()
        self._taking = threading.Lock()
        self._spool = _open_spool(folder, limit_bytes)
        self._closing, self._all_kept = threading.Event(), threading.Event()
        self._kept = threading.Event()  # there is something to write
        self._failing = False
        self._surprises: dict[str, str] = {}  # the last error of each file that nobody expected
        self._adopt_at = self._forget_at = 0.0
        self._keeper = threading.Thread(target=self._keep_on, name="spool", daemon=True)
        self._writer = threading.Thread(target=self._write_on, name="recorder", daemon=True)
        self._keeper.start()
        self._writer.start()

    def record(self, jobs: Sequence[Job], prediction_ids: Sequence[str], batch: Batch) -> None:
        """Take the predictions of a batch. Returns at once."""
        records = self._records(jobs, prediction_ids, batch)
        with self._taking:
            room = max(0, self.max_waiting - len(self._memory))
            self._spool.took(min(room, len(records)))
            self._memory.extend(records[:room])
        if room < len(records):
            self.observer.recorded("dropped", len(records) - room)

    def close(self, timeout_s: float = 3.0) -> None:
        """Write what waits, for at most `timeout_s`; what is left stays in the spool for the next process."""
        self._closing.set()
        self._keeper.join(timeout_s)
        self._all_kept.set()
        self._kept.set()
        self._writer.join(timeout_s)
        if self._memory:
            logger.error("%d records could not be kept before the end", len(self._memory))
            self.observer.recorded("dropped", len(self._memory))
            self._spool.gave_up(len(self._memory))
        if self._spool.waiting:
            logger.warning("%d records stay in %s for the next start", self._spool.waiting, self._spool.name)
        if not self._writer.is_alive():
            self._spool.close()
        self.ledger.close()

    def _records(
        self, jobs: Sequence[Job], prediction_ids: Sequence[str], batch: Batch
    ) -> list[PredictionRecord]:
        at_s, now = time.time(), time.perf_counter()
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
                    role=batch.role.value,
                    model=batch.classifier.version,
                    product_id=job.item.product_id,
                    title=job.title,
                    category=outcome.category.code,
                    confidence=outcome.confidence,
                    accepted=outcome.accepted,
                    text_source=outcome.text_source.value,
                    image_source=outcome.image_source.value,
                    text_encoder=bundle.text_encoder.revision,
                    image_encoder=bundle.image_encoder.revision,
                    latency_s=None if batch.role is Role.SHADOW else now - job.ticket.began,
                    columns=job.columns,
                    text_embedding=text_BD[row] if text_BD is not None and has_text else None,
                    image_embedding=image_BE[row] if image_BE is not None and has_image else None,
                )
            )
        return records

    # From memory to the spool.

    def _keep_on(self) -> None:
        while True:
            last = self._closing.wait(PAUSE_S)
            try:
                self._keep()
            except Exception:
                logger.exception("records wait in memory")
            if last:
                break

    def _keep(self) -> None:
        most = CHUNK
        while self._memory:
            chunk = [self._memory[row] for row in range(min(most, len(self._memory)))]
            try:
                self._spool.append(chunk)
            except OSError as error:
                if isinstance(error, SpoolFullError) and len(chunk) > 1:  # for fewer there may be room
                    most = len(chunk) // 2
                    continue
                logger.warning("%d records wait in memory: %s", len(self._memory), error)
                break
            for _ in chunk:
                self._memory.popleft()
            self._kept.set()
        self._tell()

    def _tell(self) -> None:
        self.observer.records_waiting(len(self._memory) + self._spool.waiting, self._spool.size_bytes)

    # From the spool to the ledger.

    def _write_on(self) -> None:
        while True:
            last = self._all_kept.is_set()  # asked first: all that is kept is written after it
            surprised = not self._try_to_write_all()
            if last:
                break
            if self._failing or surprised:
                self._all_kept.wait(RETRY_S)
            elif self._must_forget():
                self._all_kept.wait(PAUSE_S)
            else:
                self._kept.wait(ADOPT_S)
            self._kept.clear()

    def _try_to_write_all(self) -> bool:
        """False after what nobody expected: it is told once, and tried again."""
        try:
            self._write_all()
        except Exception as error:
            self._tell_once("the spool", error)
            # The folder of what dead workers left may be the cause; it is not to hold up what comes.
            self._adopt_at = time.monotonic() + ADOPT_S
            return False
        self._surprises.pop("the spool", None)
        return True

    def _tell_once(self, name: str, error: Exception) -> None:
        if self._surprises.get(name) != repr(error):
            logger.exception("records wait in %s", name)
        self._surprises[name] = repr(error)

    def _write_all(self) -> None:
        """What dead workers left goes first: it is older."""
        if time.monotonic() >= self._adopt_at:
            for path in spool_files(self.folder):
                if not self._take_over(path):
                    return
            self._adopt_at = time.monotonic() + ADOPT_S
        self._write_spool(self._spool)
        self._tell()
        if self._must_forget() and not self._failing and not self._closing.is_set():
            self._forget()

    def _take_over(self, path: Path) -> bool:
        """False where the database is away. Whatever else one file brings holds up neither the next, nor what
        comes: it is told, and the file is tried again at the next look."""
        try:
            orphan = adopt(path, limit_bytes=self.limit_bytes)
            is_reached = orphan is None or self._replay(orphan)
            self._surprises.pop(path.name, None)
            return is_reached
        except SpoolDamagedError as error:
            self._give_up(error.records, f"{path.name}: {error}")
        except Exception as error:
            self._tell_once(path.name, error)
        return True

    def _replay(self, orphan: Spool) -> bool:
        """Write what a dead worker left, and count what it could not keep. What cannot be written now is
        tried again: its file is nobody's when it is closed."""
        lost = orphan.taken - orphan.kept
        if lost:
            orphan.gave_up(lost)
            logger.error("a worker died with %d records that were in its memory only", lost)
            self.observer.recorded("lost", lost)
        if orphan.waiting:
            logger.info("%d records of %s are replayed", orphan.waiting, orphan.name)
        try:
            return self._write_spool(orphan)
        finally:
            orphan.close()

    def _write_spool(self, spool: Spool) -> bool:
        """False where the database is away."""
        while (entry := self._first(spool)) is not None:
            if not self._write(entry.records):
                return False
            spool.finish(entry)
        return True

    def _first(self, spool: Spool) -> Entry | None:
        """What waits in it longest; None where nothing does any more, or can be read."""
        try:
            return spool.first()
        except ValueError as error:
            self._give_up(spool.set_aside(), error)
            return None

    def _give_up(self, records: int | None, why: object) -> None:
        logger.error(
            "%s records are given up: %s", "nobody knows how many" if records is None else records, why
        )
        if records:
            self.observer.recorded("dropped", records)

    def _write(self, records: Sequence[PredictionRecord]) -> bool:
        """Whether these are done with: written or, where the database will never take them, dropped."""
        try:
            if self._failing:  # it may be a new database
                self._make_tables()
            self.ledger.record_predictions(records)
        except (LedgerRefusedError, ValueError) as error:
            # One bad record must not take its neighbours with it, nor hold up those behind.
            if len(records) > 1:
                half = len(records) // 2
                return self._write(records[:half]) and self._write(records[half:])
            logger.error("a record is dropped: %s", error)
            self.observer.recorded("dropped", 1)
        except LedgerError as error:
            if not self._failing:
                logger.warning("predictions wait in the spool: %s", error)
            self._failing = True
            return False
        else:
            self._failing = False
            self.observer.recorded("written", len(records))
        return True

    def _make_tables(self) -> None:
        """Raises LedgerError alone: whatever is wrong with tables, no record is to blame."""
        try:
            self.ledger.create_tables()
        except (LedgerRefusedError, ValueError) as error:
            raise LedgerError(str(error)) from error

    def _must_forget(self) -> bool:
        return self.keep_s > 0 and time.monotonic() >= self._forget_at

    def _forget(self) -> None:
        """Delete some of what is too old. Of very much, the next part has its turn after what waits."""
        self._forget_at = time.monotonic() + FORGET_S
        try:
            if self.ledger.forget(time.time() - self.keep_s):
                self._forget_at = 0.0
        except LedgerError as error:
            logger.warning("what is too old stays for now: %s", error)


def _open_spool(folder: Path, limit_bytes: int) -> Spool:
    try:
        return Spool.open_new(folder, limit_bytes=limit_bytes)
    except OSError as error:
        logger.error("what waits for the ledger dies with this worker, there is no spool: %s", error)
        return Spool.in_memory(limit_bytes=min(limit_bytes, IN_MEMORY_BYTES))


def new_prediction_ids(count: int) -> list[str]:
    """32 hex digits each: milliseconds since 1970, then 80 random bits. In the order of time, because a
    database that is asked to file random ids touches a page of its index for each."""
    now = f"{time.time_ns() // 1_000_000:012x}"
    digits = os.urandom(10 * count).hex()
    return [now + digits[start : start + 20] for start in range(0, 20 * count, 20)]


def sampled(share: float) -> Callable[[str], bool]:
    """True for about `share` of prediction ids, the same ones each time."""
    limit = int(share * 0x1_0000)
    return lambda prediction_id: int(prediction_id[-4:], 16) < limit


def _halved(vectors_BD: np.ndarray) -> np.ndarray:
    """Float16 of float32 vectors, by torch: numpy's own conversion took a quarter of a bulk batch's time."""
    import torch

    halved: np.ndarray = torch.from_numpy(vectors_BD).half().numpy()
    return halved
