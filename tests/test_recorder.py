"""What is answered is recorded behind the answer, whatever the database does."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_service import MODEL, Pantry, tiny_classifier, vectors

from aisle.classifier import Classifier, Item
from aisle.columns import measure_columns
from aisle.image import ImageEncoder
from aisle.ledger import Ledger, ledger_url
from aisle.product import Product
from aisle.text import TextEncoder
from service.desk import Job
from service.engine import Engine
from service.recorder import Recorder, sampled

IDS = [f"{i:032x}" for i in range(100)]


@pytest.fixture(scope="module")
def classifier(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> Classifier:
    return tiny_classifier(tiny_text_encoder, tiny_image_encoder)


class Told:
    """A recorder with what it told."""

    def __init__(self, url: str, *, share: float = 1.0, max_waiting: int = 1000) -> None:
        self.counts: Counter[str] = Counter()
        self.waiting = 0
        self.ledger = Ledger.open(url)
        self.recorder = Recorder(
            self.ledger,
            sample=sampled(share),
            on_written=lambda n: self.counts.update(written=n),
            on_dropped=lambda n: self.counts.update(dropped=n),
            on_waiting=self.wait,
            max_waiting=max_waiting,
        )

    def wait(self, records: int) -> None:
        self.waiting = records

    def record(self, engine: Engine, items: list[Item], ids: list[str]) -> None:
        jobs = [Job(item=item, columns=measure_columns(item), engine=engine) for item in items]
        self.recorder.record(jobs, ids, engine.answer(items))


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(ledger_url(tmp_path, ""))
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
    told.record(engine, [item, Item(product_id="7"), Item(product_id="unknown")], IDS[:3])
    until(lambda: told.counts["written"] == 2)
    computed, stored = told.ledger.predictions()
    assert (computed.prediction_id, computed.model, computed.product_id) == (IDS[0], MODEL, "8")
    assert (computed.text_source, computed.image_source) == ("computed", "absent")
    assert (computed.columns.language, computed.columns.text_chars) == ("fr", 39)
    assert computed.text_embedding is not None
    assert computed.text_embedding.shape == (classifier.text_encoder.dim,)
    assert computed.image_embedding is None
    assert (stored.text_source, stored.columns.text_chars) == ("stored", None)
    assert stored.image_embedding is not None
    assert stored.image_encoder == classifier.image_encoder.revision


def test_embeddings_are_kept_of_a_share_of_predictions() -> None:
    ids = [f"{i * 655:04x}{'0' * 28}" for i in range(100)]  # spread over all beginnings
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


def test_what_finds_no_room_is_dropped_and_counted(classifier: Classifier) -> None:
    told = Told("postgresql://nobody@127.0.0.1:1/nothing", max_waiting=3)
    engine = Engine(classifier, Pantry(), write_back=False)
    told.record(engine, [Item(text="train")] * 5, IDS[:5])
    assert told.counts["dropped"] == 2
    until(lambda: told.waiting == 3)
    told.recorder.close()
    assert told.counts == Counter(dropped=5)


def test_a_record_that_no_database_takes_harms_no_other(told: Told, classifier: Classifier) -> None:
    engine = Engine(classifier, Pantry(), write_back=False)
    told.record(engine, [Item(text="train")] * 3, [IDS[0], IDS[0], IDS[1]])  # an id twice
    until(lambda: told.counts["written"] + told.counts["dropped"] == 3)
    assert told.counts == Counter(written=2, dropped=1)
    assert [record.prediction_id for record in told.ledger.predictions()] == IDS[:2]


def test_tables_are_made_when_the_database_comes_late(tmp_path: Path, classifier: Classifier) -> None:
    late = Told(ledger_url(tmp_path, ""))  # without create_tables
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
