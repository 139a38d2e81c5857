"""The service's own metrics, right with many workers (prometheus_client's multiprocess mode).

Made when a worker starts, never on import: the mode is chosen by the environment that BentoML gives
its workers. Every label has few values: categories are bounded by the taxonomy, reasons and stages
by the code, and no label is made from a request.
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from aisle.prediction import Prediction, Role, Source
from service.engine import Batch, Engine, Outcome

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
PRODUCTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
# Of the model's time for a product: a head alone takes 0.03 ms.
MODEL_SECONDS = (0.00002, 0.00005, 0.0001, 0.0002, *SECONDS)
CONFIDENCES = 4  # of a batch, that go into a model's own histogram
STAGES = ("parse", "prepare", "wait", "features", "embed", "decide")
# Reasons that are the service's fault, or its feature store's.
FAULTS = (
    "bodies_full",
    "bulk_full",
    "calls_full",
    "features_read_failed",
    "features_read_late",
    "features_read_skipped",
    "features_unavailable",
    "features_vector_damaged",
    "features_write_dropped",
    "internal",
    "keys_unavailable",
    "labels_full",
    "latency",
    "ledger_unavailable",
    "messages_full",
    "model_failed",
    "queue_full",
    "queue_slow",
    "reads_full",
    "timeout",
)

# How the porter answers; `allowed` first.
AUTH_OUTCOMES = (
    "allowed",
    "key_expired",
    "key_missing",
    "key_revoked",
    "key_wrong",
    "keys_unavailable",
    "rate_exceeded",
    "scope_missing",
)

SHED = ("bulk_full", "calls_full", "latency", "messages_full", "queue_full", "queue_slow")
# Methods over gRPC that answer products, and how their calls end where that is the service's fault.
UNARY_METHODS = ("/aisle.v1.Classifier/Classify", "/inference.GRPCInferenceService/ModelInfer")
METHODS = ("/aisle.v1.Classifier/ClassifyStream", *UNARY_METHODS)
FAULTY_CODES = ("DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN")
TOTALS = {  # of /v1/monitor
    "aisle_predictions_total": "predictions",
    "aisle_labels_total": "labels",
    "aisle_errors_total": "errors",
    "aisle_shed_products_total": "shed_products",
}


class Telemetry:
    """Metrics of one worker, in `registry`; `max_batch` bounds the batch size buckets."""

    def __init__(self, *, max_batch: int, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        sizes = [size for size in PRODUCTS if size < max_batch] + [max_batch]
        self._stage = Histogram(
            "aisle_stage_seconds",
            "Time in a stage: parse once a request, prepare and wait once a request or portion, "
            "the others once a batch",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "aisle_batch_products", "Products in a batch", buckets=sizes, registry=registry
        )
        self._depth = Gauge(
            "aisle_queue_products",
            "Products that wait for a batch",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._shed = Counter("aisle_shed_products", "Products shed, by why", ["reason"], registry=registry)
        self._vectors = Counter(
            "aisle_vectors", "Where embeddings came from", ["modality", "source"], registry=registry
        )
        self._predictions = Counter(
            "aisle_predictions", "Predictions by category code", ["category", "accepted"], registry=registry
        )
        self._confidence = Histogram(
            "aisle_confidence", "Confidence of predictions", buckets=CONFIDENCE, registry=registry
        )
        self._errors = Counter(
            "aisle_errors", "Requests and products not answered, by reason", ["reason"], registry=registry
        )
        calls = Counter(
            "aisle_grpc_requests",
            "Calls over gRPC that have ended, by method and status",
            ["method", "code"],
            registry=registry,
        )
        seconds = Histogram(
            "aisle_grpc_request_seconds",
            "Time from a message's arrival to its answer, of unary calls over gRPC that were answered (OK)",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._calls, self._call_seconds = functools.cache(calls.labels), functools.cache(seconds.labels)
        self._records = Counter(
            "aisle_ledger_records",
            "Predictions for the ledger, by what became of them",
            ["outcome"],
            registry=registry,
        )
        self._waiting = Gauge(
            "aisle_ledger_waiting_records",
            "Predictions that wait to be written",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._spool = Gauge(
            "aisle_ledger_spool_bytes",
            "Predictions that wait in files to be written",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._labels = Counter("aisle_labels", "True categories that were given", registry=registry)
        self._swaps = Counter(
            "aisle_model_swaps",
            "Deployments a worker followed or refused",
            ["outcome"],
            registry=registry,
        )
        self._model_seconds = Histogram(
            "aisle_model_seconds",
            "A model's own time for a product, the mean of a batch, by as what it answered",
            ["role"],
            buckets=MODEL_SECONDS,
            registry=registry,
        )
        self._model_confidence = Histogram(
            "aisle_model_confidence",
            "Confidence of predictions, a few drawn from each batch, by as what the model answered",
            ["role"],
            buckets=CONFIDENCE,
            registry=registry,
        )
        self._challenged = Counter(
            "aisle_challenger_products",
            "Products that a challenger answered, to clients (canary) or to nobody (shadow)",
            ["mode"],
            registry=registry,
        )
        self._disagreements = Counter(
            "aisle_challenger_disagreements",
            "Products of the shadow that champion and challenger put into different categories",
            registry=registry,
        )
        self._shadow_dropped = Counter(
            "aisle_shadow_dropped",
            "Copies for the shadow that found no room or no time",
            registry=registry,
        )
        self._auth = Counter(
            "aisle_auth",
            "Calls that a key was asked for, by what became of them",
            ["outcome"],
            registry=registry,
        )
        self._start_at_zero()
        self._served: dict[str, Gauge] = {}  # by slot
        self._model = Gauge(
            "aisle_model_info",
            "1 for each classifier that a live worker serves, by its slot",
            ["model", "text_encoder", "image_encoder", "role"],
            multiprocess_mode="livemax",
            registry=registry,
        )

    def _start_at_zero(self) -> None:
        """Make the series that alerts and the board read: one that begins with its first event hides it from
        every rate."""
        for outcome in ("written", "dropped", "lost"):
            self._records.labels(outcome)
        for outcome in ("done", "refused"):
            self._swaps.labels(outcome)
        for outcome in AUTH_OUTCOMES:
            self._auth.labels(outcome)
        for reason in SHED:
            self._shed.labels(reason)
        for reason in FAULTS:
            self._errors.labels(reason)
        for stage in STAGES:
            self._stage.labels(stage)
        for mode in (Role.CANARY, Role.SHADOW):
            self._challenged.labels(mode.value)
        for modality in ("text", "image"):
            for source in Source:
                self._vectors.labels(modality, source.value)
        for method in METHODS:
            for code in ("OK", *FAULTY_CODES):
                self._calls(method, code)
        for method in UNARY_METHODS:
            self._call_seconds(method)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stage.labels(name).observe(time.perf_counter() - start)

    def waited(self, seconds: float) -> None:
        self._stage.labels("wait").observe(seconds)

    def queued(self, products: int) -> None:
        self._depth.set(products)

    def shed(self, reason: str, products: int = 1) -> None:
        self._shed.labels(reason).inc(products)

    def error(self, reason: str) -> None:
        self._errors.labels(reason).inc()

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
        self._batch.observe(len(outcomes))
        for stage, seconds in seconds_of_stage.items():
            self._stage.labels(stage).observe(seconds)
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        for prediction in predictions:
            self._confidence.observe(prediction.confidence)
        # Counted first: each increment takes a lock and writes to a file in memory.
        filed = collections.Counter((one.category.code, one.accepted) for one in predictions)
        for (code, accepted), count in filed.items():
            self._predictions.labels(code, str(accepted).lower()).inc(count)
        sources = collections.Counter(("text", one.text_source.value) for one in predictions)
        sources.update(("image", one.image_source.value) for one in predictions)
        for (modality, source), count in sources.items():
            self._vectors.labels(modality, source).inc(count)

    def answered(self, batch: Batch) -> None:
        """By the model's role: its time, its confidence, and how many products a challenger answered."""
        seconds = batch.seconds.get("embed", 0.0) + batch.seconds.get("decide", 0.0)
        role = batch.role.value
        self._model_seconds.labels(role).observe(seconds / max(1, len(batch.outcomes)))
        confidence = self._model_confidence.labels(role)
        predictions = [outcome for outcome in batch.outcomes if isinstance(outcome, Prediction)]
        # A few, because each costs 6 us: all of a batch of ids alone would take a twentieth of its time.
        for prediction in random.sample(predictions, min(CONFIDENCES, len(predictions))):
            confidence.observe(prediction.confidence)
        if batch.role is not Role.CHAMPION:
            self._challenged.labels(role).inc(len(predictions))

    def compared(self, champions: Sequence[Prediction], challengers: Sequence[Outcome]) -> None:
        """What both answered for the same products."""
        pairs = zip(champions, challengers, strict=True)
        disagreements = sum(
            isinstance(theirs, Prediction) and theirs.category.code != ours.category.code
            for ours, theirs in pairs
        )
        self._disagreements.inc(disagreements)

    def shadow_dropped(self, products: int) -> None:
        self._shadow_dropped.inc(products)

    def recorded(self, outcome: str, records: int) -> None:
        self._records.labels(outcome).inc(records)

    def records_waiting(self, records: int, spool_bytes: int) -> None:
        self._waiting.set(records)
        self._spool.set(spool_bytes)

    def labelled(self, labels: int) -> None:
        self._labels.inc(labels)

    def totals(self) -> dict[str, int]:
        """What was counted since the service began, by all workers."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ and registry is REGISTRY:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        sums = dict.fromkeys((*TOTALS.values(), "accepted"), 0)
        for sample in itertools.chain.from_iterable(metric.samples for metric in registry.collect()):
            if sample.name in TOTALS:
                sums[TOTALS[sample.name]] += int(sample.value)
                if sample.labels.get("accepted") == "true":
                    sums["accepted"] += int(sample.value)
        return sums

    def asked(self, outcome: str) -> None:
        """A key was asked for; one of AUTH_OUTCOMES."""
        self._auth.labels(outcome).inc()

    def swapped(self, outcome: str, slot: str, engine: Engine | None) -> None:
        """Count it, name the model in a slot, champion or challenger, and start its categories at 0, so that
        a first prediction is seen as a rise."""
        self._swaps.labels(outcome).inc()
        if (before := self._served.pop(slot, None)) is not None:
            before.set(0)
        if engine is None:
            return
        bundle = engine.classifier.bundle
        served = self._model.labels(
            engine.classifier.version, bundle.text_encoder.revision, bundle.image_encoder.revision, slot
        )
        served.set(1)
        self._served[slot] = served
        for code in bundle.taxonomy.codes:
            for accepted in ("true", "false"):
                self._predictions.labels(code, accepted)


def forget_dead_workers(folder: Path) -> None:
    """Remove the live gauges of workers that were killed: they would be summed for ever."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not psutil.pid_exists(pid):
            mark_process_dead(pid, str(folder))
