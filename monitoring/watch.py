"""The watch: every full window of the champion's predictions against its bundle's reference."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

from aisle.bundle import Bundle
from aisle.errors import AisleError, BundleError
from aisle.ledger import DRIFT_STATE, Ledger, PredictionRecord
from monitoring.drift import DriftTest, Verdict, any_alarm
from monitoring.exporter import Exporter
from monitoring.quality import EVENT as QUALITY_ALARM
from monitoring.quality import Quality, QualityWatch, reference_accuracy
from monitoring.reports import Reports, save_window
from monitoring.settings import Settings
from monitoring.streams import Streams, each_product_once, reference_streams, window_streams

DRIFT_ALARM = "drift.alarm"
STATE_EVERY_S = 60.0  # so that its age says whether the monitor lives
logger = logging.getLogger("aisle.monitoring")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The model that is watched."""

    model: str
    bundle: Bundle
    reference: Streams
    drift: DriftTest
    quality: QualityWatch | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Predictions and what was said of them."""

    model: str
    records: Sequence[PredictionRecord]
    streams: Streams
    products: int
    verdicts: Sequence[Verdict]

    @property
    def numbers(self) -> tuple[int, int]:
        return self.records[0].number, self.records[-1].number


class Watch:
    """`newest` names the newest classifier of the store, `load` reads one; both raise AisleError."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        settings: Settings,
        newest: Callable[[], str],
        load: Callable[[str], Bundle],
        exporter: Exporter,
        reports: Reports,
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self.newest = newest
        self.load = load
        self.exporter = exporter
        self.reports = reports
        self._watched: Watched | None = None
        self._has_tables = False
        self._after: int | None = None  # the last prediction that is in a window
        self._said: tuple[str, bool] | None = None  # the state that is in the ledger
        self._say_again_at = 0.0
        self._drifting = False  # an alarm about this model is in the ledger, and no window since was quiet

    def run(self, stop: Event) -> None:
        """Look until `stop` is set. What fails is counted and tried again; the gauges stay as they are."""
        told = ""  # the failure that was told last: another one is news
        while not stop.is_set():
            try:
                self.look(stop)
                told = ""
            except Exception as error:
                self.exporter.failed()
                if not isinstance(error, AisleError):
                    logger.exception("a look failed")
                elif str(error) != told:
                    logger.warning("nothing is seen: %s", error)
                told = str(error)
            for _ in range(self.reports.failures()):
                self.exporter.failed()
            stop.wait(self.settings.interval_s)

    def look(self, stop: Event | None = None) -> None:
        """Judge every new window and the labels. Raises AisleError."""
        watched = self._follow()
        if self._after is None:
            self._after = self._start(watched)
        while not (stop and stop.is_set()):
            size = self.settings.window
            records = self.ledger.predictions(after=self._after, limit=size, model=watched.model)
            if len(records) < size:
                break
            self._judge(watched, records)
            self._after = records[-1].number
        self._look_at_labels(watched)
        self.exporter.looked(self.ledger.count_predictions(after=self._after, model=watched.model))

    def once(self) -> tuple[Window, Quality | None] | int:
        """The last window, judged, reported and recorded; or how many predictions there are, if too few."""
        watched = self._follow()
        size = self.settings.window
        records = self.ledger.last_predictions(size, model=watched.model)
        if len(records) < size:
            return len(records)
        window = self._judge(watched, records, report=True)
        return window, self._look_at_labels(watched)

    def _follow(self) -> Watched:
        """The champion. One that cannot be read leaves the one before it watched: it may be served still."""
        if not self._has_tables:  # the service may not have begun
            self.ledger.create_tables()
            self._has_tables = True
        deployed = self.ledger.champion()
        model = deployed.model if deployed else self.newest()
        if self._watched is not None and self._watched.model == model:
            return self._watched
        try:
            opened = self._open(model)
        except BundleError as error:
            if self._watched is None:
                raise
            self.exporter.failed()
            logger.warning("%s stays watched: %s", self._watched.model, error)
            return self._watched
        self._watched, self._drifting = opened, False
        self.exporter.watching(model)
        logger.info("watching %s", model)
        return opened

    def _open(self, model: str) -> Watched:
        started = time.monotonic()
        bundle = self.load(model)
        reference = reference_streams(bundle)
        drift = DriftTest(reference, window=self.settings.window, rate=self.settings.false_alarm_rate)
        if not drift.reference:
            logger.warning("%s has no drift reference: only its labels are watched", model)
        accuracy = reference_accuracy(bundle)
        quality = None if accuracy is None else QualityWatch(self.ledger, model, accuracy)
        logger.info("the reference of %s was ready in %.1f s", model, time.monotonic() - started)
        return Watched(model=model, bundle=bundle, reference=reference, drift=drift, quality=quality)

    def _start(self, watched: Watched) -> int:
        """Where the first window begins: the last full one, or the first prediction where there is none.
        Of a newer champion, windows go on from where the older one's ended."""
        records = self.ledger.last_predictions(self.settings.window, model=watched.model)
        return records[0].number - 1 if records else 0

    def _judge(
        self, watched: Watched, records: Sequence[PredictionRecord], *, report: bool = False
    ) -> Window:
        products = each_product_once(records)
        streams = window_streams(products, watched.bundle)
        verdicts = watched.drift(streams)
        window = Window(
            model=watched.model, records=records, streams=streams, products=len(products), verdicts=verdicts
        )
        alarm = any_alarm(verdicts)
        news = alarm and not self._drifting and not self._is_recorded(window)
        folder = self._report(watched, window) if news or report else None
        if news:
            self.ledger.record_event(DRIFT_ALARM, alarm_detail(window, folder))
            names = ", ".join(verdict.stream for verdict in verdicts if verdict.alarm)
            logger.warning("%s: drift in %s", watched.model, names)
        self._drifting = alarm or (self._drifting and not verdicts)
        self._record_state(window)
        self.exporter.judged(verdicts, len(products))
        return window

    def _record_state(self, window: Window) -> None:
        """What GET /v1/monitor shows: at each change, and now and then."""
        said = (window.model, self._drifting)
        if said == self._said and time.monotonic() < self._say_again_at:
            return
        alarming = sorted(verdict.stream for verdict in window.verdicts if verdict.alarm)
        detail = {"model": window.model, "drifting": self._drifting, "window": list(window.numbers)}
        self.ledger.record_event(DRIFT_STATE, {**detail, "streams": alarming})
        self._said, self._say_again_at = said, time.monotonic() + STATE_EVERY_S

    def _report(self, watched: Watched, window: Window) -> str:
        """Start a report; return its folder, relative to AISLE_HOME."""
        file = save_window(
            self.settings.reports,
            window.model,
            watched.reference,
            window.streams,
            window.verdicts,
            levels=watched.drift.levels,
            taxonomy=watched.bundle.taxonomy,
            numbers=window.numbers,
        )
        self.reports.start(file)
        return str(file.parent.relative_to(self.settings.home))

    def _is_recorded(self, window: Window) -> bool:
        """Whether the ledger has an alarm about these very predictions: the monitor was started again."""
        number = 0
        while page := self.ledger.events(DRIFT_ALARM, after=number):
            number = page[-1].number
            for event in page:
                same_model = event.detail.get("model") == window.model
                if same_model and event.detail.get("window", [0, 0])[1] >= window.numbers[0]:
                    return True
        return False

    def _look_at_labels(self, watched: Watched) -> Quality | None:
        if watched.quality is None:
            self.exporter.quality(None, None)
            return None
        quality = watched.quality.look()
        if quality is not None and watched.quality.is_news(quality):
            try:
                self.ledger.record_event(QUALITY_ALARM, quality_detail(watched.model, quality))
            except AisleError:
                watched.quality.forget()
                raise
            logger.warning(
                "%s: accuracy %.3f on %d labels, %.3f on its test split",
                watched.model,
                quality.accuracy,
                quality.labels,
                quality.reference,
            )
        self.exporter.quality(quality, watched.quality.reference)
        return quality


def alarm_detail(window: Window, report: str | None) -> dict[str, object]:
    return {
        "model": window.model,
        "window": list(window.numbers),
        "size": len(window.records),
        "products": window.products,
        "streams": {verdict.stream: verdict.to_json() for verdict in window.verdicts if verdict.alarm},
        "report": report,
    }


def quality_detail(model: str, quality: Quality) -> dict[str, object]:
    return {
        "model": model,
        "accuracy": quality.accuracy,
        "reference": quality.reference,
        "labels": quality.labels,
        "p_value": quality.p_value,
        "until": quality.until,
    }
