"""The watch over a real ledger: windows, events, gauges on a real port, the commands as they are typed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_server import free_port
from market import ACCURACY, MODEL, Market, Shift
from prometheus_client.parser import text_string_to_metric_families

from aisle.bundle import Bundle
from aisle.errors import BundleError, LedgerError, SettingError
from aisle.ledger import Label, Ledger, PredictionRecord
from monitoring.exporter import Exporter
from monitoring.quality import judge_quality
from monitoring.reports import Reports, load_window
from monitoring.settings import Settings
from monitoring.streams import KINDS, STREAMS, Kind
from monitoring.watch import Watch

ROOT = Path(__file__).parent.parent
WINDOW = 100
CHALLENGER = "aisle-classifier:challenger"
DARK = Shift(brightness=-0.3)


class NoReports(Reports):
    """Writes no page (5 s each): the windows that would have one."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[Path] = []

    def start(self, file: Path) -> None:
        self.files.append(file)


class Post:
    """A watch at its post: over a SQLite ledger, with two models that answer one market."""

    def __init__(self, home: Path, market: Market, bundle: Bundle) -> None:
        self.market = market
        self.bundles = {MODEL: bundle, CHALLENGER: bundle}
        self.settings = Settings.from_environment(
            {"AISLE_HOME": str(home), "AISLE_WINDOW": str(WINDOW), "AISLE_MONITOR_INTERVAL_S": "0.05"}
        )
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.ledger.create_tables()
        self.reports = NoReports()
        self.start()

    def start(self) -> None:
        """A new process would begin like this."""
        self.exporter = Exporter()
        self.watch = Watch(
            self.ledger,
            settings=self.settings,
            newest=lambda: MODEL,
            load=self.load,
            exporter=self.exporter,
            reports=self.reports,
        )

    def load(self, tag: str) -> Bundle:
        if tag not in self.bundles:
            raise BundleError(f"{tag}: not in the model store")
        return self.bundles[tag]

    def answer(
        self, predictions: int, shift: Shift | None = None, *, model: str = MODEL
    ) -> list[PredictionRecord]:
        records = self.market.records(predictions, shift, model=model)
        self.ledger.record_predictions(records)
        return records

    def label(self, records: list[PredictionRecord], wrong: int) -> None:
        categories = ["none of these"] * wrong + [record.category for record in records[wrong:]]
        self.ledger.record_labels(
            [
                Label(prediction_id=record.prediction_id, category=category, source="test")
                for record, category in zip(records, categories, strict=True)
            ]
        )

    def look(self) -> None:
        self.watch.look()

    def value(self, name: str, **labels: str) -> float | None:
        return self.exporter.registry.get_sample_value(name, labels)

    def counts(self) -> tuple[float | None, float | None]:
        return self.value("aisle_monitor_windows_total"), self.value("aisle_drift_alarms_total")


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(11, text_dim=12, image_dim=8)


@pytest.fixture(scope="module")
def bundle(market: Market) -> Bundle:
    return market.bundle(300)


@pytest.fixture
def post(tmp_path: Path, market: Market, bundle: Bundle) -> Iterator[Post]:
    made = Post(tmp_path, market, bundle)
    yield made
    made.ledger.close()


def test_each_full_window_is_judged_once(post: Post) -> None:
    post.answer(2 * WINDOW + 30)
    post.look()
    assert post.counts() == (1, 0)  # the last full one
    assert post.value("aisle_monitor_lag_products") == 0
    post.answer(3 * WINDOW + 7)
    post.look()
    assert post.counts() == (4, 0)
    assert post.value("aisle_monitor_lag_products") == 7
    post.look()
    assert post.counts() == (4, 0)


def test_a_first_window_may_fill_up(post: Post) -> None:
    post.look()
    post.answer(WINDOW - 1)
    post.look()
    assert post.counts() == (0, 0)
    assert math.isnan(post.value("aisle_drift_ratio", stream="brightness") or 0)
    post.answer(1)
    post.look()
    assert post.counts() == (1, 0)
    assert post.value("aisle_monitor_window_products") == WINDOW


def test_drift_is_one_event_until_a_quiet_window_and_every_window_counts(post: Post) -> None:
    for shift in (None, DARK, DARK, None, DARK):
        post.answer(WINDOW, shift)
        post.look()
    assert post.counts() == (5, 3)
    first, second = post.ledger.events("drift.alarm")
    assert first.detail["window"] == [WINDOW + 1, 2 * WINDOW]
    assert second.detail["window"] == [4 * WINDOW + 1, 5 * WINDOW]
    assert (first.detail["model"], first.detail["size"]) == (MODEL, WINDOW)
    verdict = first.detail["streams"]["brightness"]
    assert verdict["ratio"] == pytest.approx(verdict["statistic"] / verdict["threshold"])
    assert verdict["ratio"] > 1 > verdict["p_value"]
    states = [(one.detail["drifting"], one.detail["streams"]) for one in post.ledger.events("drift.state")]
    assert states == [(False, []), (True, ["brightness"]), (False, []), (True, ["brightness"])]
    assert post.value("aisle_drift_alarm", stream="brightness") == 1
    assert (
        post.value("aisle_drift_ratio", stream="brightness")
        == second.detail["streams"]["brightness"]["ratio"]
    )


def test_a_report_is_written_for_each_event_and_named_by_it(post: Post) -> None:
    for _ in range(2):
        post.answer(WINDOW, DARK)
        post.look()
    [event] = post.ledger.events("drift.alarm")
    [file] = post.reports.files
    assert file == post.settings.home / event.detail["report"] / "window.npz"
    facts, reference, window = load_window(file)
    cheap = {name for name in STREAMS if KINDS[name] is not Kind.EMBEDDING}
    assert set(reference) == set(window) == cheap
    assert len(reference["category"]) == 300
    assert len(window["category"]) == WINDOW
    assert [verdict["stream"] for verdict in facts["verdicts"]] == list(STREAMS)


def test_a_restart_tells_of_the_same_window_only_once(post: Post) -> None:
    post.answer(WINDOW, DARK)
    for _ in range(2):
        post.start()
        post.look()
        assert post.counts() == (1, 1)
    assert len(post.ledger.events("drift.alarm")) == 1


def test_a_new_champion_brings_its_own_reference_and_windows(post: Post, market: Market) -> None:
    post.answer(WINDOW, DARK)
    post.look()
    dark = Market(11, text_dim=12, image_dim=8)
    post.bundles[CHALLENGER] = dark.bundle(300)
    post.ledger.deploy(CHALLENGER, "better")
    post.look()
    assert post.value("aisle_monitor_info", model=MODEL) == 0
    assert post.value("aisle_monitor_info", model=CHALLENGER) == 1
    assert post.value("aisle_drift_alarm", stream="brightness") == 0
    post.answer(50)  # the old champion's last answers
    post.answer(WINDOW, DARK, model=CHALLENGER)
    post.look()
    assert post.counts() == (2, 2)
    assert [event.detail["model"] for event in post.ledger.events("drift.alarm")] == [MODEL, CHALLENGER]


def test_a_champion_that_cannot_be_read_leaves_the_one_before_it_watched(post: Post) -> None:
    post.look()
    post.ledger.deploy("aisle-classifier:gone", "by mistake")
    post.answer(WINDOW)
    post.look()
    assert post.counts() == (1, 0)
    assert post.value("aisle_monitor_info", model=MODEL) == 1
    assert post.value("aisle_monitor_errors_total") == 1


def test_worse_labels_are_one_event(post: Post) -> None:
    post.label(post.answer(200), wrong=60)
    post.look()
    post.look()
    [event] = post.ledger.events("quality.alarm")
    said = {name: event.detail[name] for name in ("model", "accuracy", "reference", "labels")}
    assert said == {"model": MODEL, "accuracy": 0.7, "reference": ACCURACY, "labels": 200}
    post.start()  # the same labels are no news after a restart
    post.look()
    assert len(post.ledger.events("quality.alarm")) == 1
    assert post.value("aisle_quality_accuracy") == 0.7
    assert post.value("aisle_quality_reference_accuracy") == ACCURACY
    assert post.value("aisle_quality_labels") == 200


def test_labels_as_good_as_the_test_split_are_no_event(post: Post) -> None:
    assert post.value("aisle_quality_labels") == 0
    post.label(post.answer(300), wrong=36)  # 0.88 where 0.90 was promised
    post.look()
    assert post.ledger.events("quality.alarm") == []
    assert post.value("aisle_quality_accuracy") == 0.88


def test_the_last_label_of_a_prediction_counts(post: Post) -> None:
    records = post.answer(60)
    post.label(records, wrong=60)
    post.label(records, wrong=0)
    post.look()
    assert post.value("aisle_quality_accuracy") == 1.0


def test_only_the_newest_1000_labels_count(post: Post) -> None:
    post.label(post.answer(300), wrong=300)
    post.look()
    post.label(post.answer(1_000), wrong=100)
    post.look()
    assert (post.value("aisle_quality_labels"), post.value("aisle_quality_accuracy")) == (1_000, 0.9)


def test_the_quality_test_is_exact() -> None:
    # P(0 of 3 right) at 0.85 is 0.15 to the third.
    assert judge_quality(0, 3, ACCURACY).p_value == pytest.approx(0.15**3)
    assert not judge_quality(0, 3, ACCURACY).worse
    assert judge_quality(0, 4, ACCURACY).worse


def test_chance_rarely_calls_a_model_worse_that_is_5_points_worse() -> None:
    correct = np.random.default_rng(27).binomial(400, ACCURACY - 0.05, size=5_000)
    alarms = sum(judge_quality(int(count), 400, ACCURACY).worse for count in correct)
    assert alarms <= 5_000 * 0.001 + 3 * math.sqrt(5)


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.name + "".join(f"/{v}" for v in s.labels.values()): s.value for s in samples}


def wait_for(port: int, name: str, least: float, timeout_s: float = 60) -> dict[str, float]:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            found = scrape(port)
        except OSError:
            found = {}
        if found.get(name, -1) >= least:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{name}: found {found.get(name)}, wanted {least}")


def test_an_absent_ledger_is_counted_and_the_gauges_stay(post: Post) -> None:
    post.answer(WINDOW, DARK)
    port = post.exporter.start("127.0.0.1", 0)
    stop = threading.Event()
    running = threading.Thread(target=post.watch.run, args=(stop,))
    running.start()
    try:
        before = wait_for(port, "aisle_monitor_windows_total", 1)
        file = post.settings.home / "ledger.db"
        away = post.settings.home / "away"
        post.ledger.close()
        file.rename(away)
        file.mkdir()  # no database can be opened here
        failed = wait_for(port, "aisle_monitor_errors_total", 3)
        assert failed["aisle_drift_ratio/brightness"] == before["aisle_drift_ratio/brightness"] > 1
        # Nothing succeeds now: the time of the last success is what says so.
        stamp = "aisle_monitor_last_success_timestamp_seconds"
        assert wait_for(port, "aisle_monitor_errors_total", 5)[stamp] == failed[stamp]
        file.rmdir()
        away.rename(file)
        wait_for(port, stamp, failed[stamp] + 0.001)
    finally:
        stop.set()
        running.join()
        post.exporter.close()


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    first, second = Exporter(), Exporter()
    port = first.start("127.0.0.1", 0)
    try:
        with pytest.raises(SettingError, match=f"found 127.0.0.1:{port} .*wanted an address of this machine"):
            second.start("127.0.0.1", port)
    finally:
        first.close()


def test_a_ledger_that_is_away_at_the_start_is_an_error_of_once(post: Post) -> None:
    post.ledger.close()
    (post.settings.home / "ledger.db").rename(post.settings.home / "away")
    (post.settings.home / "ledger.db").mkdir()
    with pytest.raises(LedgerError, match="unable to open database file"):
        post.watch.once()


# The commands as they are typed.


def environment(home: Path, **more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("AISLE_", "BENTOML_", "PROMETHEUS_"))}
    return {**plain, "AISLE_HOME": str(home), "AISLE_WINDOW": "200", "COLUMNS": "160", **more}


def monitoring(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monitoring", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AISLE_HOME of tests/market.py, with 200 predictions."""
    home = tmp_path_factory.mktemp("market")
    (home / "bentoml").mkdir()
    places = environment(home, BENTOML_HOME=str(home / "bentoml"), PYTHONPATH=str(ROOT))
    command = [sys.executable, str(ROOT / "tests" / "market.py"), "7", "200"]
    done = subprocess.run(command, cwd=ROOT, env=places, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    return home


def test_once_prints_a_table_and_writes_a_report(shop: Path) -> None:
    done = monitoring(shop, "watch", "--once")
    assert done.returncode == 0, done.stderr
    for stream in STREAMS:
        assert f"│ {stream} " in done.stdout
    [folder] = (shop / "reports").iterdir()
    assert folder.name.endswith("-market")
    page = (folder / "report.html").read_text()
    assert "No drift." in page
    assert MODEL in page
    metrics = json.loads((folder / "report.json").read_text())["metrics"]
    values = {metric["config"].get("column"): metric["value"] for metric in metrics}
    facts, _, _ = load_window(folder / "window.npz")
    ratios = {verdict["stream"]: verdict["ratio"] for verdict in facts["verdicts"]}
    cheap = [name for name in STREAMS if KINDS[name] is not Kind.EMBEDDING]
    # Evidently's pages tell what the watch decided.
    assert {name: values[name] for name in cheap} == pytest.approx({name: ratios[name] for name in cheap})


def test_the_watch_serves_its_metrics_until_sigterm(shop: Path) -> None:
    port = free_port()
    watching = subprocess.Popen(
        [sys.executable, "-m", "monitoring", "watch"],
        cwd=ROOT,
        env=environment(shop, AISLE_MONITOR_PORT=str(port), AISLE_MONITOR_INTERVAL_S="0.1"),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        found = wait_for(port, "aisle_monitor_windows_total", 1)
        assert found[f"aisle_monitor_info/{MODEL}"] == 1
        assert found["aisle_monitor_window_products"] == 200
        assert {
            f"aisle_drift_{n}/{s}" for n in ("statistic", "threshold", "ratio", "alarm") for s in STREAMS
        } <= set(found)
        watching.send_signal(signal.SIGTERM)
        assert watching.wait(timeout=60) == 0
    finally:
        watching.kill()
        _, errors = watching.communicate()
    assert "Traceback" not in errors


def test_too_few_predictions_are_code_3_and_a_line_that_says_so(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "bentoml").symlink_to(shop / "bentoml")
    done = monitoring(tmp_path, "watch", "--once")  # it makes the tables: the service has not begun
    assert done.returncode == 3
    assert "found 0 predictions of the champion, wanted a window of 200" in done.stderr


def test_settings_lists_every_variable() -> None:
    done = monitoring(Path("nowhere"), "settings")
    assert done.returncode == 0
    for name in ("AISLE_WINDOW", "AISLE_FALSE_ALARM_RATE", "AISLE_MONITOR_PORT", "AISLE_RETRAIN_MIN_LABELS"):
        assert name in done.stdout
