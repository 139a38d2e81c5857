"""What is answered is recorded behind the answer, whatever the database does."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_ledger import another
from test_spool import damaged_counts, leave_damaged, let_go
from tiny_service import MODEL, Pantry, tiny_classifier, vectors

from aisle.classifier import Classifier, Item
from aisle.columns import measure_columns
from aisle.errors import LedgerError, LedgerRefusedError
from aisle.image import ImageEncoder
from aisle.ledger import Ledger, PredictionRecord, ledger_url
from aisle.product import Product
from aisle.text import TextEncoder
from service.desk import Job, Ticket
from service.engine import Engine
from service.recorder import Recorder, new_prediction_ids, sampled
from service.spool import Spool
from service.spool_format import Counts

IDS = [f"{i:032x}" for i in range(100)]


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


class Told:
    """A recorder with what it told."""

    def __init__(
        self, url: str, home: Path, *, share: float = 1.0, max_waiting: int = 1000, **options: Any
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.waiting = self.spool_bytes = -1
        self.ledger = options.pop("ledger", None) or Ledger.open(url)
        self.recorder = Recorder(
            self.ledger,
            folder=home / "spool",
            limit_bytes=options.pop("limit_bytes", 2**20),
            sample=sampled(share),
            observer=self,
            max_waiting=max_waiting,
            **options,
        )

    def recorded(self, outcome: str, records: int) -> None:
        self.counts[outcome] += records

    def records_waiting(self, records: int, spool_bytes: int) -> None:
        self.waiting, self.spool_bytes = records, spool_bytes

    def record(self, engine: Engine, items: list[Item], ids: list[str]) -> None:
        ticket = Ticket(began=time.perf_counter() - 0.25)
        jobs = [
            Job(item=item, columns=measure_columns(item), engine=engine, title="A train", ticket=ticket)
            for item in items
        ]
        self.recorder.record(jobs, ids, engine.answer(items))


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(ledger_url(tmp_path, ""), tmp_path)
    made.ledger.create_tables()
    yield made
    made.recorder.close()


def until(true: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_prediction_is_recorded_with_its_columns_and_embeddings(told: Told, classifier: Classifier) -> None:
    engine = Engine(classifier, Pantry({"7": vectors(classifier)}), write_back=False)
    item = classifier.prepare(Product(product_id="8", title="un petit train en bois pour les enfants"))
    before = time.perf_counter() - 0.25
    told.record(engine, [item, Item(product_id="7"), Item(product_id="unknown")], IDS[:3])
    until(lambda: told.counts["written"] == 2)
    computed, stored = told.ledger.predictions()
    assert (computed.prediction_id, computed.model, computed.product_id) == (IDS[0], MODEL, "8")
    assert (computed.text_source, computed.image_source) == ("computed", "absent")
    assert (computed.columns.language, computed.columns.text_chars) == ("fr", 39)
    assert (computed.role, computed.title) == ("champion", "A train")
    assert computed.latency_s is not None
    assert 0.25 <= computed.latency_s < time.perf_counter() - before
    assert computed.text_embedding is not None
    assert computed.text_embedding.shape == (classifier.text_encoder.dim,)
    assert computed.image_embedding is None
    assert (stored.text_source, stored.columns.text_chars) == ("stored", None)
    assert stored.image_embedding is not None
    assert stored.image_encoder == classifier.image_encoder.revision


def test_prediction_ids_are_many_and_in_the_order_of_time() -> None:
    earlier = new_prediction_ids(1_000)
    time.sleep(0.002)
    later = new_prediction_ids(1)
    assert len({*earlier, *later}) == 1_001
    assert max(earlier) < later[0]
    assert {len(one) for one in earlier} == {32}


def test_embeddings_are_kept_of_a_share_of_predictions() -> None:
    ids = [f"{'0' * 28}{i * 655:04x}" for i in range(100)]  # spread over all ends
    assert sum(map(sampled(0.25), ids)) == 26
    assert sum(map(sampled(0), ids)) == 0
    assert sum(map(sampled(1), ids)) == 100


def test_records_wait_while_the_database_is_locked(
    told: Told, classifier: Classifier, tmp_path: Path
) -> None:
    engine = Engine(classifier, Pantry(), write_back=False)
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        told.record(engine, [Item(text="train")], IDS[:1])
        assert time.monotonic() - started < 1
        time.sleep(0.8)
        assert told.counts["written"] == 0
        other.execute("ROLLBACK")
    until(lambda: told.counts["written"] == 1)
    assert told.counts["dropped"] == 0


AWAY = "postgresql://nobody@127.0.0.1:1/nothing"


def test_records_wait_in_the_spool_while_the_database_is_away_and_are_replayed_in_order(
    tmp_path: Path, classifier: Classifier
) -> None:
    engine = Engine(classifier, Pantry(), write_back=False)
    before = Told(AWAY, tmp_path)
    before.record(engine, [Item(text="train")] * 3, IDS[:3])
    until(lambda: before.waiting == 3 and before.spool_bytes > 0)
    before.record(engine, [Item(text="train")] * 2, IDS[3:5])
    before.recorder.close()
    assert before.counts == Counter()
    after = Told(ledger_url(tmp_path, ""), tmp_path)
    until(lambda: after.counts["written"] == 5)
    after.record(engine, [Item(text="train")], IDS[5:6])
    until(lambda: after.counts["written"] == 6)
    assert [one.prediction_id for one in after.ledger.predictions()] == IDS[:6]
    after.recorder.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_finds_no_room_anywhere_is_dropped_and_counted(tmp_path: Path, classifier: Classifier) -> None:
    told = Told(AWAY, tmp_path, max_waiting=3, limit_bytes=100)  # less than a record
    engine = Engine(classifier, Pantry(), write_back=False)
    told.record(engine, [Item(text="train")] * 5, IDS[:5])
    assert told.counts["dropped"] == 2
    until(lambda: told.waiting == 3)
    told.recorder.close()
    assert told.counts == Counter(dropped=5)


def test_a_spool_with_room_for_a_few_takes_all_in_parts(tmp_path: Path, classifier: Classifier) -> None:
    told = Told(ledger_url(tmp_path, ""), tmp_path, limit_bytes=2_000)  # some records
    told.ledger.create_tables()
    told.record(Engine(classifier, Pantry(), write_back=False), [Item(text="train")] * 50, IDS[:50])
    until(lambda: told.counts["written"] == 50)
    assert [record.prediction_id for record in told.ledger.predictions()] == IDS[:50]
    told.recorder.close()


def test_without_a_folder_records_wait_in_memory(tmp_path: Path, classifier: Classifier) -> None:
    (tmp_path / "spool").write_text("a file is in its place")
    told = Told(ledger_url(tmp_path, ""), tmp_path)
    told.record(Engine(classifier, Pantry(), write_back=False), [Item(text="train")], IDS[:1])
    until(lambda: told.counts["written"] == 1)
    told.recorder.close()


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_ledger import another
from test_spool import let_go
from service.spool import Spool
spool = Spool.open_new(Path(sys.argv[1]), limit_bytes=2**20)
for first in (0, 2):
    spool.took(2)
    spool.append([another(f"k{i}") for i in range(first, first + 2)])
spool.finish(spool.first())
spool.took(3)  # what half a second brought
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_worker_left_is_replayed_and_what_it_lost_is_counted(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "spool"), tests], check=False)
    assert done.returncode == -signal.SIGKILL
    told = Told(ledger_url(tmp_path, ""), tmp_path)
    until(lambda: told.counts["written"] == 2)
    assert told.counts == Counter(written=2, lost=3)
    assert [one.prediction_id for one in told.ledger.predictions()] == ["k2", "k3"]
    told.recorder.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_spool_that_is_damaged_is_set_aside_and_its_records_are_counted(
    tmp_path: Path, classifier: Classifier
) -> None:
    folder = tmp_path / "spool"
    left = Spool.open_new(folder, limit_bytes=2**20)
    left.took(2)
    for prediction_id in ("a", "b"):
        left.append([another(prediction_id)])
    path = left.path
    assert path is not None
    let_go(left)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    told = Told(ledger_url(tmp_path, ""), tmp_path)
    until(lambda: told.counts["dropped"] == 1)
    assert [one.prediction_id for one in told.ledger.predictions()] == ["a"]
    told.recorder.close()
    assert [left.name for left in folder.iterdir()] == [path.with_suffix(".damaged").name]


def leave(folder: Path, *ids: str) -> Path:
    """What a killed worker leaves."""
    spool = Spool.open_new(folder, limit_bytes=2**20)
    spool.took(len(ids))
    spool.append([another(prediction_id) for prediction_id in ids])
    let_go(spool)
    assert spool.path is not None
    return spool.path


@damaged_counts
def test_a_damaged_file_does_not_keep_a_good_one_behind_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, counts: Counts, records: int | None
) -> None:
    damaged = leave_damaged(tmp_path / "spool", counts)
    leave(tmp_path / "spool", "a", "b")
    told = Told(ledger_url(tmp_path, ""), tmp_path)
    until(lambda: told.counts["written"] == 2)
    told.recorder.close()
    assert told.counts == Counter(written=2) + Counter(dropped=records or 0)
    [said] = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    how_many = "nobody knows how many" if records is None else records
    assert said.startswith(f"{how_many} records are given up: {damaged.name}: found Counts(done_to=")
    [left] = (tmp_path / "spool").iterdir()
    assert (left.name, left.stat().st_size) == (damaged.with_suffix(".damaged").name, 4096)


class Allergic(Ledger):
    """Fails, as no ledger should, at one record."""

    def record_predictions(self, records: Sequence[PredictionRecord]) -> None:
        if any(record.prediction_id == "bad" for record in records):
            raise RuntimeError("dictionary changed size during iteration")
        super().record_predictions(records)


def test_what_nobody_expected_of_a_file_does_not_keep_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = leave(tmp_path / "spool", "bad")
    leave(tmp_path / "spool", "good")
    allergic = Allergic.open(ledger_url(tmp_path, ""))
    allergic.create_tables()
    told = Told("", tmp_path, ledger=allergic)
    until(lambda: told.counts["written"] == 1)
    told.recorder.close()
    assert told.counts == Counter(written=1)
    assert [one.getMessage() for one in caplog.records] == [f"records wait in {first.name}"]
    assert list((tmp_path / "spool").iterdir()) == [first]


class Hindered(Ledger):
    """Away at first; when it is back, the first tries to make its tables raise `faults`."""

    faults: list[Exception]

    def create_tables(self) -> None:
        super().create_tables()
        if self.faults:
            raise self.faults.pop()

    def record_predictions(self, records: Sequence[PredictionRecord]) -> None:
        if self.faults:
            raise LedgerError("away")
        super().record_predictions(records)


@pytest.mark.parametrize(
    "fault", [OSError(24, "Too many open files"), LedgerRefusedError("no"), ValueError("a bad script")]
)
def test_no_record_pays_for_tables_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr("service.recorder.ADOPT_S", 0.2)
    leave(tmp_path / "spool", "a", "b")
    ledger = Hindered.open(ledger_url(tmp_path, ""))
    ledger.faults = [fault] * 3  # type: ignore[attr-defined]
    told = Told("", tmp_path, ledger=ledger)
    until(lambda: told.counts["written"] == 2)
    told.recorder.close()
    assert told.counts == Counter(written=2)
    assert list((tmp_path / "spool").iterdir()) == []


def test_predictions_that_are_too_old_are_deleted(tmp_path: Path) -> None:
    ledger = Ledger.open(ledger_url(tmp_path, ""))
    ledger.create_tables()
    ledger.record_predictions([another("old", at_s=time.time() - 100), another("new", at_s=time.time() - 10)])
    told = Told(ledger_url(tmp_path, ""), tmp_path, keep_s=50.0)
    until(lambda: ledger.count_predictions() == 1)
    assert ledger.predictions()[0].prediction_id == "new"
    told.recorder.close()


class Forgetful(Ledger):
    """Forgets a row a time, and writes down what it is asked. The first time it waits until it may go on."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.asked: list[str] = []
        self.may_go_on = threading.Event()

    def forget(self, before_s: float, *, limit: int = 1) -> int:
        self.asked.append("forget")
        self.may_go_on.wait(10)
        return super().forget(before_s, limit=limit)

    def record_predictions(self, records: Sequence[PredictionRecord]) -> None:
        self.asked.append("record")
        super().record_predictions(records)


def test_what_comes_is_recorded_before_all_that_is_old_is_forgotten(
    tmp_path: Path, classifier: Classifier
) -> None:
    with closing(Ledger.open(ledger_url(tmp_path, ""))) as ledger:
        ledger.create_tables()
        ledger.record_predictions([another(f"old{i}", at_s=1.0, product_id=None) for i in range(3)])
    forgetful = Forgetful.open(ledger_url(tmp_path, ""))
    assert isinstance(forgetful, Forgetful)
    told = Told("", tmp_path, ledger=forgetful, keep_s=50.0)
    until(lambda: forgetful.asked == ["forget"])
    told.record(Engine(classifier, Pantry(), write_back=False), [Item(text="train")], IDS[:1])
    until(lambda: told.recorder._spool.waiting == 1)
    forgetful.may_go_on.set()
    until(lambda: [one.prediction_id for one in forgetful.predictions()] == IDS[:1])
    assert forgetful.asked[:3] == ["forget", "record", "forget"]
    told.recorder.close()


class Stumbling(Ledger):
    """Fails once as no ledger should."""

    stumbled = False

    def record_predictions(self, records: Sequence[PredictionRecord]) -> None:
        if not self.stumbled:
            self.stumbled = True
            raise RuntimeError("dictionary changed size during iteration")
        super().record_predictions(records)


def test_an_error_that_nobody_expected_is_told_and_the_record_is_written(
    tmp_path: Path, classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    stumbling = Stumbling.open(ledger_url(tmp_path, ""))
    stumbling.create_tables()
    told = Told("", tmp_path, ledger=stumbling)
    told.record(Engine(classifier, Pantry(), write_back=False), [Item(text="train")], IDS[:1])
    until(lambda: told.counts["written"] == 1)
    assert [one.getMessage() for one in caplog.records] == ["records wait in the spool"]
    told.recorder.close()


def test_a_record_that_no_database_takes_harms_no_other(told: Told, classifier: Classifier) -> None:
    engine = Engine(classifier, Pantry(), write_back=False)
    items = [Item(text="train", product_id=product_id) for product_id in ("a", "half a pair: \ud800", "b")]
    told.record(engine, items, IDS[:3])
    until(lambda: told.counts["written"] + told.counts["dropped"] == 3)
    assert told.counts == Counter(written=2, dropped=1)
    assert [record.product_id for record in told.ledger.predictions()] == ["a", "b"]


def test_tables_are_made_when_the_database_comes_late(tmp_path: Path, classifier: Classifier) -> None:
    late = Told(ledger_url(tmp_path, ""), tmp_path)  # without create_tables
    late.record(Engine(classifier, Pantry(), write_back=False), [Item(text="train")], IDS[:1])
    until(lambda: late.counts["written"] == 1)
    late.recorder.close()


def test_a_batch_that_failed_is_recorded_without_embeddings(told: Told, classifier: Classifier) -> None:
    engine = Engine(classifier, Pantry(), write_back=False)
    items = [Item(text="train")]
    job = Job(item=items[0], columns=measure_columns(items[0]), engine=engine)
    told.recorder.record([job], IDS[:1], replace(engine.answer(items), embedded=None))
    until(lambda: told.counts["written"] == 1)
    assert told.ledger.predictions()[0].text_embedding is None
