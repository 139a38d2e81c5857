"""The ledger keeps what it is given, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from postgres import running_postgres
from sqlalchemy import event, insert, text

from aisle.columns import Columns
from aisle.errors import LedgerError, LedgerRefusedError
from aisle.ledger import BLOCK_ROWS, Label, Ledger, PredictionFilter, PredictionRecord, ledger_url
from aisle.ledger_rows import KnownProduct
from aisle.ledger_tables import labels, metadata

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
        with opened._engine.begin() as connection:
            connection.execute(text("DROP TABLE alembic_version"))
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


def test_a_prediction_is_recorded_once_however_often_it_comes(ledger: Ledger) -> None:
    ledger.record_predictions([RECORD])
    ledger.record_predictions([replace(RECORD, category="hats"), another("p2")])
    assert [(one.prediction_id, one.category) for one in ledger.predictions()] == [
        ("p1", "shoes"),
        ("p2", "shoes"),
    ]


def test_many_predictions_are_recorded_in_their_order_beside_some_that_are_there(ledger: Ledger) -> None:
    def numbered(row: int) -> PredictionRecord:
        columns = replace(COLUMNS, text_chars=row, brightness=row / 1024)
        vector = np.array([row, -0.5], dtype=np.float16)
        return another(
            f"p{row}",
            product_id=f"shoe-{row % 150}",
            title=f"shoe {row}",
            latency_s=row / 8,
            columns=columns,
            text_embedding=vector,
        )

    rows = range(2 * BLOCK_ROWS + 7)  # two whole statements, and a rest
    ledger.record_predictions([numbered(row) for row in rows[5:50]])
    ledger.record_predictions([numbered(row) for row in rows])
    found = ledger.predictions(limit=1_000)
    assert [record.prediction_id for record in found] == [
        f"p{row}" for row in (*rows[5:50], *rows[:5], *rows[50:])
    ]
    for record in found:
        row = record.columns.text_chars
        assert row is not None
        assert repr(replace(record, number=0)) == repr(numbered(row))
    known = ledger.product("shoe-56")
    assert known is not None
    assert (known.prediction_id, known.title) == ("p206", "shoe 206")


def test_who_reads_on_from_a_number_misses_none_of_two_writers(ledger: Ledger) -> None:
    slow = Ledger.open(ledger._engine.url.render_as_string(hide_password=False))
    inserted, may_end = threading.Event(), threading.Event()

    def before_commit(connection: object) -> None:
        inserted.set()
        may_end.wait(3)

    event.listen(slow._engine, "commit", before_commit)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow.record_predictions, [another("p1", product_id=None)])
        inserted.wait(3)
        second = pool.submit(ledger.record_predictions, [another("p2", product_id="x")])
        wait([second], timeout=0.5)  # as long as it takes one that waits for nobody
        seen = ledger.predictions()
        may_end.set()
        wait([first, second])
    seen += ledger.predictions(after=seen[-1].number if seen else 0)
    assert [one.prediction_id for one in seen] == ["p1", "p2"]
    slow.close()


def test_a_record_that_cannot_be_is_refused_whole(ledger: Ledger) -> None:
    with pytest.raises(LedgerRefusedError, match="(?i)null.*category"):
        ledger.record_predictions([another("p1"), another("p2", category=None)])
    assert ledger.count_predictions() == 0


def test_a_product_has_its_last_answer_and_the_title_it_was_last_seen_with(ledger: Ledger) -> None:
    first = another("p1", title="Red shoes", at_s=10.0)
    ledger.record_predictions([first, another("p2", product_id=None, at_s=11.0)])
    ledger.record_predictions([another("p3", title=None, category="hats", at_s=30.0)])
    ledger.record_predictions([another("p0", title="Old", category="old", at_s=5.0)])  # from a spool
    ledger.record_predictions([another("s", category="shadow's", at_s=40.0, role="shadow")])
    assert ledger.product("shoe-1") == KnownProduct(
        product_id="shoe-1",
        first_at_s=10.0,
        last_at_s=30.0,
        title="Red shoes",
        prediction_id="p3",
        model="aisle-classifier:a",
        category="hats",
        confidence=0.75,
        accepted=True,
    )
    assert ledger.product("shoe-2") is None


def test_what_a_shadow_says_is_no_answer(ledger: Ledger) -> None:
    ledger.record_predictions([another("p1"), another("s1", role="shadow"), another("c1", role="canary")])
    ledger.record_labels([Label(product_id="shoe-1", category="shoes", source="audit")])
    said = [one.prediction_id for one in ledger.predictions()]
    assert said == [one.prediction_id for one in ledger.last_predictions(9)] == ["p1", "c1"]
    assert ledger.count_predictions() == 2
    assert len(ledger.page_predictions(PredictionFilter())) == 2
    assert [one.prediction.prediction_id for one in ledger.labelled_predictions()] == ["c1"]


def test_pages_go_from_the_newest_to_the_oldest_and_miss_none(ledger: Ledger) -> None:
    ledger.record_predictions([another(f"p{i}", at_s=1000.1 + i // 3) for i in range(10)])
    found, before = [], None
    while page := ledger.page_predictions(PredictionFilter(), before=before, limit=4):
        found += [one.prediction_id for one in page]
        before = (page[-1].at_s, page[-1].number)
    assert found == [f"p{i}" for i in range(9, -1, -1)]
    assert page == []
    assert ledger.page_predictions(PredictionFilter(), limit=1)[0].text_embedding is None


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({"product_id": "x"}, ["p1"]),
        ({"model": "m:2"}, ["p2"]),
        ({"category": "hats"}, ["p3"]),
        ({"accepted": False}, ["p4", "p1"]),
        ({"labelled": True}, ["p2"]),
        ({"labelled": False, "accepted": True}, ["p3", "p0"]),
        ({"min_confidence": 0.9}, ["p4"]),
        ({"max_confidence": 0.75, "accepted": True, "model": "aisle-classifier:a"}, ["p3", "p0"]),
        ({"since_s": 101.0, "until_s": 103.0}, ["p2", "p1"]),
    ],
)
def test_predictions_are_found_by_what_is_asked(
    ledger: Ledger, chosen: dict[str, Any], wanted: list[str]
) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"product_id": "x", "accepted": False},
        {"model": "m:2"},
        {"category": "hats"},
        {"accepted": False, "confidence": 0.95},
    ]
    ledger.record_predictions([another(f"p{i}", at_s=100.0 + i, **one) for i, one in enumerate(changes)])
    ledger.record_labels([Label(prediction_id="p2", category="c", source="audit")])
    found = ledger.page_predictions(PredictionFilter(**chosen))
    assert [one.prediction_id for one in found] == wanted


def test_a_label_that_says_what_its_source_said_last_is_not_written_again(ledger: Ledger) -> None:
    shoes = Label(prediction_id="p1", category="shoes", source="review")
    hats = replace(shoes, category="hats")
    audit = replace(shoes, source="audit")
    assert ledger.record_labels([shoes, shoes, audit]) == [True, False, True]
    assert ledger.record_labels([shoes, hats]) == [False, True]
    assert ledger.record_labels([shoes]) == [True]  # it was changed, and is changed back
    assert ledger.record_labels([]) == []
    last = ledger.labels_of([another("p1"), another("p2")])
    assert [(one.category, one.source) for one in last.values()] == [("shoes", "review")]
    assert (last["p1"].number, ledger.count_labels()) == (ledger.newest_label(), 4)


def test_labels_that_come_twice_at_once_are_written_once(ledger: Ledger) -> None:
    given = [Label(prediction_id=f"p{i}", category="c", source="audit") for i in range(50)]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: ledger.record_labels(given), range(8)))
    assert sum(map(sum, told)) == ledger.count_labels() == 50


SOURCES = ("audit", "review", "seller")


def give(ledger: Ledger, count: int, **to: str) -> None:
    """Labels of one product or prediction that alternate between two categories, and between sources."""
    rows = [
        {"at_s": 1.0, "category": "ab"[number // 3 % 2], "source": SOURCES[number % 3], **to}
        for number in range(count)
    ]
    with ledger._engine.begin() as connection:
        connection.execute(insert(labels), rows)


def test_each_source_is_asked_what_it_said_last_of_each_product_and_prediction(ledger: Ledger) -> None:
    odd = 'socks "\\ é 🧦'  # what has to be written otherwise in a list
    give(ledger, 60, product_id=odd)  # all say b last
    give(ledger, 57, prediction_id="p1")  # all say a last
    give(ledger, 1, product_id="p1")  # a product of a prediction's name: audit says a

    def says(category: str, source: str, **to: str) -> Label:
        return Label(category=category, source=source, **to)

    given = [says(category, source, product_id=odd) for source in SOURCES for category in "bab"]
    given += [says("a", source, prediction_id="p1") for source in SOURCES]
    given += [says("a", "audit", product_id="p1"), says("a", "review", product_id="p1")]
    given += [says("a", "other", product_id=odd)]
    assert ledger.record_labels(given) == [False, True, True] * 3 + [False] * 3 + [False, True, True]
    said = ledger.labels_of([another("p1", product_id="p1"), another("p2", product_id=odd), another("p3")])
    assert {one: (label.category, label.source) for one, label in said.items()} == {
        "p1": ("a", "review"),  # of the product, later than what the prediction was given
        "p2": ("a", "other"),
    }
    assert ledger.labels_of([]) == {}


def test_a_label_that_many_give_at_once_beside_a_long_history_is_written_once(ledger: Ledger) -> None:
    give(ledger, 600, product_id="shoe-1")
    given = [Label(product_id="shoe-1", category="shoes", source=source) for source in SOURCES]
    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(lambda _: ledger.record_labels(given), range(12)))
    assert sum(map(sum, told)) == ledger.count_labels() - 600 == 3


def askers(ledger: Ledger) -> list[Callable[[], object]]:
    """All that requests ask of labels that name one answer, or its product; and what they say last."""
    ledger.record_predictions([RECORD])
    known = ledger.product("shoe-1")
    assert known is not None
    again = [Label(product_id="shoe-1", category="b", source=source) for source in SOURCES]
    return [
        lambda: ledger.record_labels(again),
        lambda: ledger.labels_of([RECORD]),
        lambda: ledger.label_of(known),
    ]


def test_what_is_asked_of_labels_takes_as_many_steps_however_many_were_given(tmp_path: Path) -> None:
    ledger = Ledger.open(ledger_url(tmp_path, ""))
    ledger.create_tables()
    asked = askers(ledger)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def steps_of_each() -> list[int]:
        nonlocal steps
        found = []
        for ask in asked:
            steps = 0
            ask()
            found.append(steps)
        return found

    with ledger._engine.connect() as connection:  # the pool's only one, which all that is asked is asked by
        connection.connection.set_progress_handler(count, 1)
    give(ledger, 12, product_id="shoe-1")
    give(ledger, 12, prediction_id="p1")
    few = steps_of_each()
    give(ledger, 1200, product_id="shoe-1")
    give(ledger, 1200, prediction_id="p1")
    assert steps_of_each() == few
    assert min(few) > 100  # they were counted
    ledger.close()


def test_of_many_labels_only_the_newest_of_each_source_are_read(ledger: Ledger) -> None:
    asked = askers(ledger)
    give(ledger, 20_004, product_id="shoe-1")
    with ledger._engine.begin() as connection:  # that PostgreSQL knows: most labels are of one product
        connection.execute(text("ANALYZE"))
    for ask in asked:
        found = plans(ledger, ask)
        assert any("labels_of_product" in step for step in found)
        assert not [step for step in found if re.search("SCAN labels|Seq Scan on labels|B-TREE|Sort", step)]
    numbers = [label.number for label in ledger.labels_of([RECORD]).values()]
    assert numbers == [ledger.newest_label()]


@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)  # sqlite3 doesn't count what it reads
def test_a_request_gets_at_most_a_row_a_source(ledger: Ledger) -> None:
    asked, counts = askers(ledger), []
    give(ledger, 600, product_id="shoe-1")

    def hear(_: object, cursor: Any, statement: str, *__: object) -> None:
        if "labels" in statement:
            counts.append(cursor.rowcount)

    event.listen(ledger._engine, "after_cursor_execute", hear)
    for ask in asked:
        ask()
    assert counts == [3] * 6  # the numbers, and then the labels


def test_what_is_too_old_is_forgotten_in_parts(ledger: Ledger) -> None:
    ledger.record_predictions([another(f"p{i}", at_s=float(i), product_id=f"x{i}") for i in range(10)])
    ledger.record_labels(
        [Label(prediction_id=f"p{i}", category="c", source="audit", at_s=100.0 + i) for i in range(10)]
    )
    assert ledger.forget(7.0, limit=4) == 8  # four predictions and four products
    assert ledger.forget(7.0, limit=4) == 6
    assert ledger.forget(7.0, limit=4) == 0
    assert [one.prediction_id for one in ledger.predictions()] == ["p7", "p8", "p9"]
    assert (ledger.product("x6"), ledger.product("x7") is None) == (None, False)
    assert ledger.count_labels() == 10
    assert ledger.forget(103.0) == 2 + 3 + 3  # the newest prediction stays
    assert ledger.count_labels() == 7


def test_a_ledger_that_has_forgotten_all_counts_on(ledger: Ledger) -> None:
    label = Label(prediction_id="p1", category="c", source="audit", at_s=1.0)
    ledger.record_predictions([another("p1", at_s=1.0), another("p2", at_s=1.0)])
    ledger.record_labels([label, replace(label, prediction_id="p2")])
    read_to, labelled_to = ledger.predictions()[-1].number, ledger.newest_label()
    while ledger.forget(10.0, limit=1):
        pass
    ledger.record_predictions([another("p3")])
    ledger.record_labels([replace(label, prediction_id="p3")])
    assert [one.prediction_id for one in ledger.predictions(after=read_to)] == ["p3"]
    assert ledger.count_labels(after=labelled_to) == 1


def test_a_challenger_is_no_champion(ledger: Ledger) -> None:
    champion = ledger.deploy("aisle-classifier:a", "first")
    with ledger._engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO deployments (at_s, role, mode, share, model, reason) "
                "VALUES (1, 'challenger', 'shadow', 0.1, 'b', '')"
            )
        )
    assert ledger.champion() == champion
    assert ledger.deployments() == [champion]


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


def test_a_label_of_a_product_is_on_all_that_was_answered_about_it(ledger: Ledger) -> None:
    changes: list[dict[str, Any]] = [{"product_id": "x"}, {}, {}, {"product_id": None}]
    ledger.record_predictions([another(f"p{i}", **one) for i, one in enumerate(changes)])
    answers = ledger.predictions()
    ledger.record_labels([Label(prediction_id="p2", category="hats", source="review")])
    ledger.record_labels([Label(product_id="shoe-1", category="shoes", source="review")])
    said = {one: label.category for one, label in ledger.labels_of(answers).items()}
    assert said == {"p1": "shoes", "p2": "shoes"}  # the later one of p2's two
    left = ledger.page_predictions(PredictionFilter(labelled=False))
    assert {one.prediction_id for one in left} == {"p0", "p3"}
    assert len(ledger.page_predictions(PredictionFilter(labelled=True))) == 2


def test_labels_are_read_from_one_to_another(ledger: Ledger) -> None:
    ledger.record_predictions([another(f"p{i}") for i in range(4)])
    ids = [f"p{i}" for i in range(4)]
    ledger.record_labels([Label(prediction_id=one, category="c", source="s") for one in ids])
    said = ledger.labels_of(ledger.predictions())
    numbers = [said[one].number for one in ids]
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


def plans(ledger: Ledger, ask: Callable[[], object]) -> list[str]:
    """How the database goes about what is asked."""
    asked: list[tuple[str, object]] = []

    def hear(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        asked.append((statement, parameters))

    event.listen(ledger._engine, "before_cursor_execute", hear)
    ask()
    event.remove(ledger._engine, "before_cursor_execute", hear)
    explain = "EXPLAIN QUERY PLAN" if ledger._engine.dialect.name == "sqlite" else "EXPLAIN"
    with ledger._engine.connect() as connection:
        return [
            str(row[-1])
            for statement, parameters in asked
            if statement.startswith(("SELECT", "WITH"))
            for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)
        ]


def test_a_page_and_the_labels_of_a_model_are_not_looked_for_among_all_answers(
    tmp_path: Path,
) -> None:
    ledger = Ledger.open(ledger_url(tmp_path, ""))
    ledger.create_tables()
    ledger.record_predictions([RECORD])
    chosen = PredictionFilter(model=RECORD.model)
    page = plans(ledger, lambda: ledger.page_predictions(chosen, limit=10))
    assert page == ["SEARCH predictions USING INDEX predictions_of_model_by_time (model=?)"]
    labelled = plans(ledger, lambda: ledger.labelled_predictions(after=7, model=RECORD.model))
    assert labelled[0] == "SEARCH labels USING INTEGER PRIMARY KEY (rowid>?)"
    assert not any("model" in step for step in labelled)
    assert labelled[-1] == "SEARCH labels USING INDEX labels_of_product_by_number (product_id=? AND number>?)"
    ledger.close()


@pytest.mark.parametrize("meanwhile", ["nothing", "another file"])
def test_a_file_that_was_put_back_is_read_again(tmp_path: Path, meanwhile: str) -> None:
    """A connection to the empty file that was there meanwhile would never find a table."""
    file, away = tmp_path / "ledger.db", tmp_path / "away.db"
    ledger = Ledger.open(ledger_url(tmp_path, ""))
    ledger.create_tables()
    ledger.record_predictions([RECORD])
    ledger.close()
    for path in tmp_path.glob("ledger.db*"):
        path.rename(tmp_path / path.name.replace("ledger", "away"))
    if meanwhile == "another file":
        sqlite3.connect(file).close()
    with pytest.raises(LedgerError, match="no such table"):
        ledger.count_predictions(after=0)
    away.rename(file)
    assert ledger.count_predictions(after=0) == 1
    ledger.close()


def test_a_database_that_is_away_is_an_error_without_its_password() -> None:
    ledger = Ledger.open("postgresql://aisle:secret@127.0.0.1:1/aisle")
    with pytest.raises(LedgerError) as raised:
        ledger.champion()
    assert "postgresql+psycopg://aisle:***@127.0.0.1:1/aisle" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(LedgerError, match="cannot use a URL that cannot be read"):
        Ledger.open("no url")


def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.open("postgresql://aisle:pass@word:word@shop:word/aisle")
    assert str(caught.value) == "ledger: cannot use a URL that cannot be read"
    assert caught.value.__suppress_context__
