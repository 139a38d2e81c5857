"""The service's own metrics: their names, labels and buckets, right with many workers (prometheus_client's
multiprocess mode).

Made when a worker starts, never on import: the mode is chosen by the environment that BentoML gives
its workers. Every label has few values: categories are bounded by the taxonomy, reasons and stages
by the code, and no label is made from a request.
"""

from __future__ import annotations

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aisle.prediction import Role, Source

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
PRODUCTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
# Of the model's time for a product: a head alone takes 0.03 ms.
MODEL_SECONDS = (0.00002, 0.00005, 0.0001, 0.0002, *SECONDS)
STAGES = ("parse", "prepare", "wait", "hold", "features", "embed", "decide")
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

SHED = (
    "bulk_full",
    "calls_full",
    "deadline_short",
    "latency",
    "messages_full",
    "queue_full",
    "queue_slow",
)
# Paths that answer products, and the codes with which that is the service's fault.
PATHS = ("/v1/classify", "/v1/classify/upload", "/v2/models/aisle-classifier/infer")
FAULTY_STATUSES = ("500", "503", "504")
# Methods over gRPC that answer products, and how their calls end where that is the service's fault.
UNARY_METHODS = ("/aisle.v1.Classifier/Classify", "/inference.GRPCInferenceService/ModelInfer")
METHODS = ("/aisle.v1.Classifier/ClassifyStream", *UNARY_METHODS)
FAULTY_CODES = ("DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN")


class Metrics:
    """All of them, in `registry`; `max_batch` bounds the batch size buckets. Those that alerts and the board
    read begin at 0: a series that begins with its first event hides it from every rate."""

    def __init__(self, registry: CollectorRegistry, *, max_batch: int) -> None:
        self._counter = functools.partial(Counter, registry=registry)
        self._gauge = functools.partial(Gauge, registry=registry)
        self._histogram = functools.partial(Histogram, registry=registry)
        self._make_requests()
        self._make_batches(max_batch)
        self._make_records()
        self._make_models()
        self._start_at_zero()

    def _make_requests(self) -> None:
        """What was asked, and refused."""
        self.errors = self._counter(
            "aisle_errors", "Requests and products not answered, by reason", ["reason"]
        )
        self.shed = self._counter("aisle_shed_products", "Products shed, by why", ["reason"])
        self.short_deadlines = self._counter(
            "aisle_short_deadlines",
            "Requests that ended with 504 or DEADLINE_EXCEEDED after less time than is promised, as their "
            "clients chose",
        )
        self.auth = self._counter(
            "aisle_auth", "Calls that a key was asked for, by what became of them", ["outcome"]
        )
        self.requests = self._counter(
            "aisle_http_requests",
            "Requests over HTTP that have ended, by path and status, without what the edge guard refused",
            ["endpoint", "code"],
        )
        self.request_seconds = self._histogram(
            "aisle_http_request_seconds",
            "Time from a request's last byte to its answer, of requests over HTTP that were answered (200)",
            ["endpoint"],
            buckets=SECONDS,
        )
        self.requests_under_way = self._gauge(
            "aisle_http_requests_in_progress",
            "Requests over HTTP that are being answered, by path",
            ["endpoint"],
            multiprocess_mode="livesum",
        )
        self.calls = self._counter(
            "aisle_grpc_requests", "Calls over gRPC that have ended, by method and status", ["method", "code"]
        )
        self.call_seconds = self._histogram(
            "aisle_grpc_request_seconds",
            "Time from a message's arrival to its answer, of unary calls over gRPC that were answered (OK)",
            ["method"],
            buckets=SECONDS,
        )

    def _make_batches(self, max_batch: int) -> None:
        """What was answered, and where its time went."""
        self.stage_seconds = self._histogram(
            "aisle_stage_seconds",
            "Time in a stage: parse once a request, prepare and wait once a request or portion, "
            "the others once a batch; hold is part of wait",
            ["stage"],
            buckets=SECONDS,
        )
        sizes = [size for size in PRODUCTS if size < max_batch] + [max_batch]
        self.batch_products = self._histogram("aisle_batch_products", "Products in a batch", buckets=sizes)
        self.queue_products = self._gauge(
            "aisle_queue_products", "Products that wait for a batch", multiprocess_mode="livesum"
        )
        self.vectors = self._counter("aisle_vectors", "Where embeddings came from", ["modality", "source"])
        self.predictions = self._counter(
            "aisle_predictions", "Predictions by category code", ["category", "accepted"]
        )
        self.confidence = self._histogram("aisle_confidence", "Confidence of predictions", buckets=CONFIDENCE)

    def _make_records(self) -> None:
        """What goes into the ledger."""
        self.records = self._counter(
            "aisle_ledger_records", "Predictions for the ledger, by what became of them", ["outcome"]
        )
        self.waiting_records = self._gauge(
            "aisle_ledger_waiting_records",
            "Predictions that wait to be written",
            multiprocess_mode="livesum",
        )
        self.spool_bytes = self._gauge(
            "aisle_ledger_spool_bytes",
            "Predictions that wait in files to be written",
            multiprocess_mode="livesum",
        )
        self.labels = self._counter("aisle_labels", "True categories that were given")

    def _make_models(self) -> None:
        """Which models answer, and how."""
        self.swaps = self._counter(
            "aisle_model_swaps", "Deployments a worker followed or refused", ["outcome"]
        )
        self.model = self._gauge(
            "aisle_model_info",
            "1 for each classifier that a live worker serves, by its slot",
            ["model", "text_encoder", "image_encoder", "role"],
            multiprocess_mode="livemax",
        )
        self.model_seconds = self._histogram(
            "aisle_model_seconds",
            "A model's own time for a product, the mean of a batch, by as what it answered",
            ["role"],
            buckets=MODEL_SECONDS,
        )
        self.model_confidence = self._histogram(
            "aisle_model_confidence",
            "Confidence of predictions, a few drawn from each batch, by as what the model answered",
            ["role"],
            buckets=CONFIDENCE,
        )
        self.challenged = self._counter(
            "aisle_challenger_products",
            "Products that a challenger answered, to clients (canary) or to nobody (shadow)",
            ["mode"],
        )
        self.disagreements = self._counter(
            "aisle_challenger_disagreements",
            "Products of the shadow that champion and challenger put into different categories",
        )
        self.shadow_dropped = self._counter(
            "aisle_shadow_dropped", "Copies for the shadow that found no room or no time"
        )

    def _start_at_zero(self) -> None:
        for outcome in ("written", "dropped", "lost"):
            self.records.labels(outcome)
        for outcome in ("done", "refused"):
            self.swaps.labels(outcome)
        for outcome in AUTH_OUTCOMES:
            self.auth.labels(outcome)
        for reason in SHED:
            self.shed.labels(reason)
        for reason in FAULTS:
            self.errors.labels(reason)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for mode in (Role.CANARY, Role.SHADOW):
            self.challenged.labels(mode.value)
        for modality in ("text", "image"):
            for source in Source:
                self.vectors.labels(modality, source.value)
        for path in PATHS:
            for status in ("200", *FAULTY_STATUSES):
                self.requests.labels(path, status)
            self.request_seconds.labels(path)
        for method in METHODS:
            for code in ("OK", *FAULTY_CODES):
                self.calls.labels(method, code)
        for method in UNARY_METHODS:
            self.call_seconds.labels(method)
