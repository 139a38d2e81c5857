"""What the monitor saw, for Prometheus. Where there is no verdict a gauge is NaN, and its alarm is 0."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from aisle.errors import SettingError
from monitoring.drift import Verdict, any_alarm
from monitoring.quality import Quality
from monitoring.streams import STREAMS


class Exporter:
    """Metrics in `registry`, and an HTTP server for them once it is started."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._server: WSGIServer | None = None
        self._watched = ""
        self._by_stream = {
            "statistic": self._stream_gauge(
                "aisle_drift_statistic", "The test's statistic in the last window"
            ),
            "threshold": self._stream_gauge("aisle_drift_threshold", "What the statistic alarms at"),
            "ratio": self._stream_gauge("aisle_drift_ratio", "Statistic over threshold"),
            "alarm": self._stream_gauge("aisle_drift_alarm", "1 if the last window drifted in this stream"),
        }
        self._products = self._gauge("aisle_monitor_window_products", "Distinct products in the last window")
        self._lag = self._gauge("aisle_monitor_lag_products", "Predictions recorded and in no window yet")
        self._success = self._gauge(
            "aisle_monitor_last_success_timestamp_seconds", "When the ledger was last read and judged"
        )
        self._info = Gauge("aisle_monitor_info", "1 for the watched model", ["model"], registry=self.registry)
        self._windows = Counter("aisle_monitor_windows", "Windows that were judged", registry=self.registry)
        self._alarms = Counter("aisle_drift_alarms", "Windows that drifted", registry=self.registry)
        self._errors = Counter(
            "aisle_monitor_errors", "Looks and reports that failed", registry=self.registry
        )
        self._accuracy = self._gauge("aisle_quality_accuracy", "Accuracy on the newest labels")
        self._reference = self._gauge("aisle_quality_reference_accuracy", "Accuracy on the test split")
        self._labels = self._gauge("aisle_quality_labels", "Labelled predictions that the accuracy is of")
        self.judged([], 0, count=False)
        self.quality(None, None)

    def start(self, host: str, port: int) -> int:
        """Serve at host:port, a free port where it is 0; return it. Raises SettingError where taken."""
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise SettingError(
                f"AISLE_MONITOR_HOST and AISLE_MONITOR_PORT: found {host}:{port} ({error.strerror}), "
                "wanted an address of this machine and a free port"
            ) from error
        self._server = server
        return int(server.server_port)

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def watching(self, model: str) -> None:
        """A new champion: what was said of the last one is no longer true."""
        if self._watched:
            self._info.labels(self._watched).set(0)
        self._watched = model
        self._info.labels(model).set(1)
        self.judged([], 0, count=False)

    def judged(self, verdicts: Sequence[Verdict], products: int, *, count: bool = True) -> None:
        said = {verdict.stream: verdict for verdict in verdicts}
        for stream in STREAMS:
            verdict = said.get(stream)
            for name, gauge in self._by_stream.items():
                value = getattr(verdict, name) if verdict else (0.0 if name == "alarm" else math.nan)
                gauge.labels(stream).set(value)
        self._products.set(products)
        if count:
            self._windows.inc()
            self._alarms.inc(any_alarm(verdicts))

    def quality(self, quality: Quality | None, reference: float | None) -> None:
        self._accuracy.set(math.nan if quality is None else quality.accuracy)
        self._reference.set(math.nan if reference is None else reference)
        self._labels.set(0 if quality is None else quality.labels)

    def looked(self, lag: int) -> None:
        self._lag.set(lag)
        self._success.set(time.time())

    def failed(self) -> None:
        self._errors.inc()

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, registry=self.registry)

    def _stream_gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, ["stream"], registry=self.registry)
