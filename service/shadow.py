"""The shadow: a challenger answers copies of a share of the products, behind the answers, to nobody.

It runs only while no product is under way in this worker, a few products at a time; what finds no room to
wait is dropped, and counted. It uses what the champion had already: the prepared item, and with the same
encoders the very vectors, so that a copy costs a head and no more.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aisle.classifier import Classifier, Item, Stored
from aisle.prediction import Prediction, Role, Source
from service.engine import Batch, Engine
from service.recorder import Recorder, new_prediction_ids, sampled
from service.telemetry import Telemetry

if TYPE_CHECKING:
    from service.desk import Job
    from service.models import Challenger

MAX_WAITING = 256  # copies
MAX_BYTES = 32 * 2**20  # of pictures in them, and at most one picture more
AT_ONCE = 8  # copies that cost a head alone: half a millisecond; one where something must be encoded
LOOK_S = 0.01  # between looks whether the worker is idle

logger = logging.getLogger("aisle.service")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Copy:
    """A product that the champion answered with `prediction`, from the vectors in `known`. `complete`: no
    other vectors are needed. Its job keeps its product only where that must be prepared anew."""

    challenger: Challenger
    job: Job
    prediction: Prediction
    known: Stored
    complete: bool

    @property
    def size_bytes(self) -> int:
        pixels, product = self.job.item.pixels_HWC, self.job.product
        in_product = len(product.image) if product is not None and product.image is not None else 0
        return in_product + (0 if pixels is None else pixels.nbytes)


class Shadow:
    """`idle` says whether the worker has nothing else to do; `on_failure` hears of an engine that raised. Any
    thread may call `copy`."""

    def __init__(
        self,
        *,
        challenger: Callable[[], Challenger | None],
        idle: Callable[[], bool],
        telemetry: Telemetry,
        recorder: Recorder,
        on_failure: Callable[[Engine], None],
    ) -> None:
        self.challenger = challenger
        self.idle = idle
        self.telemetry = telemetry
        self.recorder = recorder
        self.on_failure = on_failure
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def copy(self, jobs: Sequence[Job], prediction_ids: Sequence[str], batch: Batch) -> None:
        """Take copies of a share of a batch that was answered. Returns at once."""
        challenger = self.challenger()
        if challenger is None or challenger.mode is not Role.SHADOW or batch.embedded is None:
            return
        chosen = sampled(challenger.share)
        rows = [
            row
            for row, outcome in enumerate(batch.outcomes)
            if isinstance(outcome, Prediction) and chosen(prediction_ids[row])
        ]
        with self._changed:
            taken = 0
            while taken < len(rows) and len(self._waiting) < MAX_WAITING and self._bytes < MAX_BYTES:
                copy = self._copy(challenger, jobs[rows[taken]], batch, rows[taken])
                self._waiting.append(copy)
                self._bytes += copy.size_bytes
                taken += 1
            self._changed.notify()
        if taken < len(rows):
            self.telemetry.shadow_dropped(len(rows) - taken)

    def close(self) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout=2)

    def _copy(self, challenger: Challenger, job: Job, batch: Batch, row: int) -> Copy:
        theirs, ours = batch.classifier, challenger.engine.classifier
        outcome = batch.outcomes[row]
        assert isinstance(outcome, Prediction)
        assert batch.embedded is not None
        same_text = theirs.text_encoder.revision == ours.text_encoder.revision
        same_image = theirs.image_encoder.revision == ours.image_encoder.revision
        item, known = job.item, Stored()
        # Rows are copied: a view would keep the vectors of the whole batch.
        if same_text and outcome.text_source is not Source.ABSENT:
            vector_D = batch.embedded.text_BD[row].copy()
            known = replace(known, text_vector_D=vector_D, text_hash=item.text_hash)
        if same_image and outcome.image_source is not Source.ABSENT:
            vector_E = batch.embedded.image_BE[row].copy()
            known = replace(known, image_vector_E=vector_E, image_hash=item.image_hash)
        if same_text and same_image:  # no pixels are needed any more
            job = replace(job, item=replace(item, pixels_HWC=None))
        if _prepare_alike(theirs, ours):
            job = replace(job, product=None)
        return Copy(
            challenger=challenger,
            job=job,
            prediction=outcome,
            known=known,
            complete=same_text and same_image,
        )

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            if not self.idle():
                self._closing.wait(LOOK_S)
                continue
            if copies := self._take():
                self._answer(copies)

    def _take(self) -> list[Copy]:
        """The next copies for one challenger; those for one that is gone are dropped."""
        with self._changed:
            copies: list[Copy] = []
            current = self.challenger()
            while self._waiting and len(copies) < (AT_ONCE if self._waiting[0].complete else 1):
                copy = self._waiting.popleft()
                self._bytes -= copy.size_bytes
                if copy.challenger is current:
                    copies.append(copy)
                else:
                    self.telemetry.shadow_dropped(1)
            return copies

    def _answer(self, copies: Sequence[Copy]) -> None:
        engine = copies[0].challenger.engine
        try:
            items = [_item_for(engine.classifier, copy.job) for copy in copies]
            complete = all(copy.complete for copy in copies)
            batch = engine.shadow(items, [copy.known for copy in copies], complete=complete)
        except Exception:  # whatever is wrong with it, nobody waits for it
            logger.exception("a shadow of %d products failed", len(copies))
            self.on_failure(engine)
            return
        self.telemetry.answered(batch)
        self.telemetry.compared([copy.prediction for copy in copies], batch.outcomes)
        self.recorder.record([copy.job for copy in copies], new_prediction_ids(len(copies)), batch)


def _prepare_alike(theirs: Classifier, ours: Classifier) -> bool:
    """Whether both make the same item of a product."""
    return (
        theirs.text_encoder.settings == ours.text_encoder.settings
        and theirs.image_encoder.settings == ours.image_encoder.settings
    )


def _item_for(classifier: Classifier, job: Job) -> Item:
    return job.item if job.product is None else classifier.prepare(job.product, job.item.top_k)
