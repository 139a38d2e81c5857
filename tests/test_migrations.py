"""The ledger's tables grow by revisions, and keep what they hold."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres import running_postgres
from sqlalchemy import MetaData, event, insert, inspect, text

import aisle.migrations
from aisle.errors import LedgerError
from aisle.ledger import Label, Ledger, ledger_url
from aisle.ledger_tables import REVISION, labels, metadata

SCRIPTS = str(Path(aisle.migrations.__file__).parent)
INSERT_OLD = """
INSERT INTO predictions (prediction_id, at_s, model, category, confidence, accepted, text_source,
    image_source, text_encoder, image_encoder)
VALUES ('old', 5, 'aisle-classifier:a', 'shoes', 0.5, true, 'stored', 'absent', 'aa', 'bb')
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    on_postgres = request.param == "postgresql"
    opened = Ledger.open(request.getfixturevalue("postgres") if on_postgres else ledger_url(tmp_path, ""))
    yield opened
    if on_postgres:
        drop_all(opened)
    opened.close()


def drop_all(ledger: Ledger) -> None:
    held = MetaData()
    held.reflect(ledger._engine)
    held.drop_all(ledger._engine)


def to_revision(ledger: Ledger, revision: str) -> None:
    with ledger._engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", SCRIPTS)
        step = command.upgrade if revision != "base" else command.downgrade
        step(config, revision)


def differences(ledger: Ledger) -> list[object]:
    with ledger._engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def test_revisions_lead_to_the_tables_that_queries_are_made_for(empty: Ledger) -> None:
    empty.create_tables()
    assert differences(empty) == []


def test_the_newest_revision_is_the_one_that_is_looked_for() -> None:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_a_ledger_of_before_revisions_keeps_what_it_holds(empty: Ledger) -> None:
    to_revision(empty, "0001")
    with empty._engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))  # it had none
        connection.execute(text(INSERT_OLD))
    empty.create_tables()
    [kept] = empty.predictions()
    assert (kept.prediction_id, kept.role, kept.title, kept.latency_s) == ("old", "champion", None, None)
    assert differences(empty) == []


def test_what_was_labelled_before_a_revision_is_found_after_it(empty: Ledger) -> None:
    to_revision(empty, "0003")
    label = Label(product_id="shoe-1", category="shoes", source="audit", at_s=5.0)
    with empty._engine.begin() as connection:
        connection.execute(
            insert(labels).values(product_id="shoe-1", category="shoes", source="audit", at_s=5)
        )
    empty.create_tables()
    assert empty.record_labels([label, replace(label, source="review")]) == [False, True]


def test_a_revision_may_take_longer_than_a_query(postgres: str) -> None:
    ledger = Ledger.open(postgres)
    timeouts = []

    def look(_: object, cursor: Any, statement: str, *rest: object) -> None:
        if "CREATE TABLE products" in statement:
            cursor.execute("SHOW statement_timeout")
            timeouts.append(cursor.fetchone()[0])

    event.listen(ledger._engine, "before_cursor_execute", look)
    ledger.create_tables()
    assert timeouts == ["0"]
    with ledger._engine.connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "5s"
    drop_all(ledger)
    ledger.close()


def test_revisions_lead_back(empty: Ledger) -> None:
    empty.create_tables()
    to_revision(empty, "base")
    assert inspect(empty._engine).get_table_names() == ["alembic_version"]


@pytest.mark.parametrize("found", ["0000", "1975ea83b712", "ae1027a6acf4"])
def test_tables_of_another_program_are_refused_in_one_line(empty: Ledger, found: str) -> None:
    empty.create_tables()
    with empty._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :found"), {"found": found})
    with pytest.raises(LedgerError, match=f"found revision '{found}', which no Aisle has made"):
        empty.create_tables()


def test_tables_of_a_newer_aisle_are_used_as_they_are(
    empty: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    empty.create_tables()
    with empty._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with caplog.at_level(logging.WARNING, "aisle.ledger"):
        empty.create_tables()
    assert f"found revision 9999, newer than {REVISION}; going on" in caplog.text
    assert empty.count_predictions() == 0
