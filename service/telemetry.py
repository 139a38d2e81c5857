"""What happens in a worker, as figures: the rest of the service says it here, Prometheus reads it."""

from __future__ import annotations

import collections
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from aisle.prediction import Prediction, Role
from service.engine import Batch, Engine, Outcome
from service.errors import DEADLINE_SHORT, LATE_STATUS, RequestError
from service.metrics import Metrics

ANSWERED_STATUS = 200
CONFIDENCES = 4  # of a batch, that go into a model's own histogram
TOTALS = {  # of /v1/monitor
    "aisle_predictions_total": "predictions",
    "aisle_labels_total": "labels",
    "aisle_errors_total": "errors",
    "aisle_shed_products_total": "shed_products",
}


class Telemetry:
    """One worker's metrics, in `registry`; `max_batch` bounds the batch size buckets. `folder` is where all
    workers of the service keep theirs; None where this process is the only one."""

    def __init__(
        self, *, max_batch: int, registry: CollectorRegistry = REGISTRY, folder: Path | None = None
    ) -> None:
        self._registry = registry
        self._folder = folder
        self._metrics = Metrics(registry, max_batch=max_batch)
        # Of few values each, and asked for at each request: looking a label up costs more than counting.
        self._stage = functools.cache(self._metrics.stage_seconds.labels)
        self._requests = functools.cache(self._metrics.requests.labels)
        self._request_seconds = functools.cache(self._metrics.request_seconds.labels)
        self._requests_under_way = functools.cache(self._metrics.requests_under_way.labels)
        self._calls = functools.cache(self._metrics.calls.labels)
        self._call_seconds = functools.cache(self._metrics.call_seconds.labels)
        self._served: dict[str, Gauge] = {}  # by slot

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stage(name).observe(time.perf_counter() - start)

    def waited(self, seconds: float) -> None:
        self._stage("wait").observe(seconds)

    def batch_held(self, seconds: float) -> None:
        """A batch has waited so long for pictures that were being read."""
        self._stage("hold").observe(seconds)

    def queued(self, products: int) -> None:
        self._metrics.queue_products.set(products)

    def shed(self, reason: str, products: int = 1) -> None:
        self._metrics.shed.labels(reason).inc(products)

    def error(self, reason: str) -> None:
        self._metrics.errors.labels(reason).inc()

    def refused(self, error: RequestError) -> None:
        """A request over HTTP has no answer, as a whole."""
        self.error(error.reason)
        if (error.status, error.reason) == (LATE_STATUS, DEADLINE_SHORT):
            self.ran_short()

    def ran_short(self) -> None:
        """A request ended without an answer after less time than is promised, as its client chose."""
        self._metrics.short_deadlines.inc()

    @contextmanager
    def request(self, endpoint: str) -> Iterator[Callable[[int], None]]:
        """A request over HTTP is under way. It counts once what this gives is told the status of its answer:
        one whose client leaves counts nowhere."""
        start = time.perf_counter()

        def answered(status: int) -> None:
            self._requests(endpoint, str(status)).inc()
            if status == ANSWERED_STATUS:
                self._request_seconds(endpoint).observe(time.perf_counter() - start)

        with self._requests_under_way(endpoint).track_inprogress():
            yield answered

    def called(self, method: str, code: str, seconds: float | None = None) -> None:
        """A call over gRPC has ended; after `seconds`, where it is a unary one that was answered."""
        self._calls(method, code).inc()
        if seconds is not None:
            self._call_seconds(method).observe(seconds)

    def faults(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if not isinstance(outcome, Prediction):
                self.error(outcome.reason)

    def batch(self, outcomes: Sequence[Outcome], seconds_of_stage: Mapping[str, float]) -> None:
        self._metrics.batch_products.observe(len(outcomes))
        for stage, seconds in seconds_of_stage.items():
            self._stage(stage).observe(seconds)
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        for prediction in predictions:
            self._metrics.confidence.observe(prediction.confidence)
        # Counted first: each increment takes a lock and writes to a file in memory.
        filed = collections.Counter((one.category.code, one.accepted) for one in predictions)
        for (code, accepted), count in filed.items():
            self._metrics.predictions.labels(code, str(accepted).lower()).inc(count)
        sources = collections.Counter(("text", one.text_source.value) for one in predictions)
        sources.update(("image", one.image_source.value) for one in predictions)
        for (modality, source), count in sources.items():
            self._metrics.vectors.labels(modality, source).inc(count)

    def answered(self, batch: Batch) -> None:
        """By the model's role: its time, its confidence, and how many products a challenger answered."""
        seconds = batch.seconds.get("embed", 0.0) + batch.seconds.get("decide", 0.0)
        role = batch.role.value
        self._metrics.model_seconds.labels(role).observe(seconds / max(1, len(batch.outcomes)))
        confidence = self._metrics.model_confidence.labels(role)
        predictions = [outcome for outcome in batch.outcomes if isinstance(outcome, Prediction)]
        # A few, because each costs 6 us: all of a batch of ids alone would take a twentieth of its time.
        for prediction in random.sample(predictions, min(CONFIDENCES, len(predictions))):
            confidence.observe(prediction.confidence)
        if batch.role is not Role.CHAMPION:
            self._metrics.challenged.labels(role).inc(len(predictions))

    def compared(self, champions: Sequence[Prediction], challengers: Sequence[Outcome]) -> None:
        """What both answered for the same products."""
        pairs = zip(champions, challengers, strict=True)
        disagreements = sum(
            isinstance(theirs, Prediction) and theirs.category.code != ours.category.code
            for ours, theirs in pairs
        )
        self._metrics.disagreements.inc(disagreements)

    def shadow_dropped(self, products: int) -> None:
        self._metrics.shadow_dropped.inc(products)

    def recorded(self, outcome: str, records: int) -> None:
        self._metrics.records.labels(outcome).inc(records)

    def records_waiting(self, records: int, spool_bytes: int) -> None:
        self._metrics.waiting_records.set(records)
        self._metrics.spool_bytes.set(spool_bytes)

    def labelled(self, labels: int) -> None:
        self._metrics.labels.inc(labels)

    def totals(self) -> dict[str, int]:
        """What was counted since the service began, by all workers."""
        registry = self._registry
        if self._folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(self._folder))
        sums = dict.fromkeys((*TOTALS.values(), "accepted"), 0)
        for sample in itertools.chain.from_iterable(metric.samples for metric in registry.collect()):
            if sample.name in TOTALS:
                sums[TOTALS[sample.name]] += int(sample.value)
                if sample.labels.get("accepted") == "true":
                    sums["accepted"] += int(sample.value)
        return sums

    def asked(self, outcome: str) -> None:
        """A key was asked for; one of AUTH_OUTCOMES."""
        self._metrics.auth.labels(outcome).inc()

    def swapped(self, outcome: str, slot: str, engine: Engine | None) -> None:
        """Count it, name the model in a slot, champion or challenger, and start its categories at 0, so that
        a first prediction is seen as a rise."""
        self._metrics.swaps.labels(outcome).inc()
        if (before := self._served.pop(slot, None)) is not None:
            before.set(0)
        if engine is None:
            return
        bundle = engine.classifier.bundle
        served = self._metrics.model.labels(
            engine.classifier.version, bundle.text_encoder.revision, bundle.image_encoder.revision, slot
        )
        served.set(1)
        self._served[slot] = served
        for code in bundle.taxonomy.codes:
            for accepted in ("true", "false"):
                self._metrics.predictions.labels(code, accepted)


def forget_dead_workers(folder: Path) -> None:
    """Remove the live gauges of workers that were killed: they would be summed for ever."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not psutil.pid_exists(pid):
            mark_process_dead(pid, str(folder))
