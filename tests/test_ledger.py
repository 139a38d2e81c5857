"""The ledger keeps what it is given, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from postgres import running_postgres

from aisle.columns import Columns
from aisle.errors import LedgerError
from aisle.ledger import Label, Ledger, PredictionRecord, ledger_url, metadata

COLUMNS = Columns(
    text_chars=31, language="fr", description_missing=True, image_width=500, image_height=400, brightness=0.5
)
NOTHING = Columns(
    text_chars=None,
    language=None,
    description_missing=None,
    image_width=None,
    image_height=None,
    brightness=None,
)
RECORD = PredictionRecord(
    prediction_id="p1",
    at_s=1000.25,
    model="aisle-classifier:a",
    product_id="shoe-1",
    category="shoes",
    confidence=0.75,
    accepted=True,
    text_source="stored",
    image_source="computed",
    text_encoder="0a0a0a0a",
    image_encoder="0b0b0b0b",
    columns=COLUMNS,
    text_embedding=np.array([1, -0.5], dtype=np.float16),
    image_embedding=None,
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    on_postgres = request.param == "postgresql"
    opened = Ledger.open(request.getfixturevalue("postgres") if on_postgres else ledger_url(tmp_path, ""))
    opened.create_tables()
    yield opened
    if on_postgres:
        metadata.drop_all(opened._engine)
    opened.close()


def another(prediction_id: str, **changes: object) -> PredictionRecord:
    return replace(RECORD, prediction_id=prediction_id, **changes)


def test_a_prediction_comes_back_as_it_was_recorded(ledger: Ledger) -> None:
    ledger.record_predictions([RECORD, another("p2", product_id=None, columns=NOTHING, text_embedding=None)])
    first, second = ledger.predictions()
    assert first.text_embedding is not None
    assert first.text_embedding.tolist() == [1, -0.5]
    assert (
        replace(first, text_embedding=None, number=0).__repr__()
        == replace(RECORD, text_embedding=None).__repr__()
    )
    assert (second.product_id, second.columns, second.text_embedding) == (None, NOTHING, None)
    assert second.number > first.number


def test_predictions_are_read_in_pages_and_by_model(ledger: Ledger) -> None:
    records = [another(f"p{i}", model=f"m:{i % 2}") for i in range(10)]
    ledger.record_predictions(records)
    page = ledger.predictions(limit=4)
    rest = ledger.predictions(after=page[-1].number)
    assert [r.prediction_id for r in page + rest] == [f"p{i}" for i in range(10)]
    assert [r.prediction_id for r in ledger.last_predictions(2, model="m:1")] == ["p7", "p9"]
    assert ledger.count_predictions(model="m:0") == 5
    assert ledger.count_predictions(after=page[-1].number) == 6


def test_a_prediction_is_recorded_once(ledger: Ledger) -> None:
    ledger.record_predictions([RECORD])
    with pytest.raises(LedgerError, match="(?i)unique constraint.*prediction_id"):
        ledger.record_predictions([RECORD])


def test_the_last_label_of_a_prediction_counts(ledger: Ledger) -> None:
    ledger.record_predictions([RECORD])
    ledger.record_labels([Label(prediction_id="p1", category=c, source="review") for c in ("hats", "shoes")])
    [labelled] = ledger.labelled_predictions()
    assert (labelled.label.category, labelled.prediction.prediction_id) == ("shoes", "p1")
    assert labelled.correct


def test_a_label_of_a_product_is_for_its_last_prediction(ledger: Ledger) -> None:
    ledger.record_predictions([another("old"), another("new", category="hats"), another("x", product_id="x")])
    ledger.record_labels([Label(product_id="shoe-1", category="shoes", source="audit")])
    [labelled] = ledger.labelled_predictions()
    assert (labelled.prediction.prediction_id, labelled.correct) == ("new", False)


def test_labels_are_read_from_one_to_another(ledger: Ledger) -> None:
    ledger.record_predictions([another(f"p{i}") for i in range(4)])
    ledger.record_labels([Label(prediction_id=f"p{i}", category="c", source="s") for i in range(4)])
    numbers = [label.number for label in ledger.labels()]
    found = ledger.labelled_predictions(after=numbers[0], until=numbers[2])
    assert [one.prediction.prediction_id for one in found] == ["p1", "p2"]
    assert ledger.has_prediction(["p0", "p9"]) == {"p0"}
    assert (ledger.newest_label(), ledger.count_labels(after=numbers[1])) == (numbers[3], 2)


def test_a_label_names_a_prediction_or_a_product() -> None:
    with pytest.raises(LedgerError, match="found prediction_id None and product_id None, wanted exactly one"):
        Label(category="c", source="s")


def test_events_are_found_by_kind_and_below(ledger: Ledger) -> None:
    ledger.record_event("drift.alarm", {"stream": "language", "ratio": 1.5})
    ledger.record_event("drifting", {})
    alarm = ledger.record_event("drift.alarm", {})
    assert [e.detail for e in ledger.events("drift")] == [{"stream": "language", "ratio": 1.5}, {}]
    assert [e.number for e in ledger.events("drift.alarm", after=alarm.number - 1)] == [alarm.number]
    assert len(ledger.events()) == 3
    assert ledger.last_event("drift.alarm") == ledger.events()[-1]
    assert ledger.last_event("drift") is None


def test_the_champion_is_the_newest_deployment(ledger: Ledger) -> None:
    assert ledger.champion() is None
    ledger.deploy("aisle-classifier:a", "first")
    newest = ledger.deploy("aisle-classifier:b", "better")
    assert ledger.champion() == newest
    assert [d.model for d in ledger.deployments()] == ["aisle-classifier:b", "aisle-classifier:a"]


def test_tables_may_be_made_by_many_at_once(tmp_path: Path) -> None:
    ledgers = [Ledger.open(ledger_url(tmp_path, "")) for _ in range(8)]
    failures: list[Exception] = []

    def make(ledger: Ledger) -> None:
        try:
            ledger.create_tables()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for ledger in ledgers:
        ledger.close()


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    ledger = Ledger.open(ledger_url(tmp_path, ""))
    ledger.create_tables()
    ledger.record_predictions([RECORD])
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ledger.count_predictions() == 1


def test_a_database_that_is_away_is_an_error_without_its_password() -> None:
    ledger = Ledger.open("postgresql://aisle:secret@127.0.0.1:1/aisle")
    with pytest.raises(LedgerError) as raised:
        ledger.champion()
    assert "postgresql+psycopg://aisle:***@127.0.0.1:1/aisle" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(LedgerError, match="cannot use a URL that cannot be read"):
        Ledger.open("no url")
