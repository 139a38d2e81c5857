"""The ledger: what was answered, what was true, what happened, and which model is in service.

Every query of Aisle. SQLite in WAL mode embedded, PostgreSQL when it grows; the tables stand in
`aisle/ledger_tables.py`, the records in `aisle/ledger_rows.py`. Times are seconds since 1970, UTC. Rows are
only ever added, and deleted when they are too old (`forget`); a product's row has its last answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Dialect,
    Engine,
    Select,
    Table,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    inspect,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.sql.compiler import SQLCompiler

from aisle.errors import LedgerError, LedgerRefusedError
from aisle.ledger_rows import (
    CANARY,
    CHALLENGER,
    CHAMPION,
    DRIFT_STATE,
    PREDICTION_NAMES,
    PRODUCT_NAMES,
    SHADOW,
    Deployment,
    Event,
    KnownProduct,
    Label,
    LabelledPrediction,
    PredictionRecord,
    labelled_of,
    labelled_query,
    newest_labels_query,
    prediction_of,
    prediction_row,
    product_rows,
    without_number,
)
from aisle.ledger_tables import REVISION, deployments, events, labels, predictions, products

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "DRIFT_STATE",
    "SHADOW",
    "Deployment",
    "Event",
    "KnownProduct",
    "Label",
    "LabelledPrediction",
    "Ledger",
    "PredictionFilter",
    "PredictionRecord",
    "ledger_url",
]

BLOCK_ROWS = 100  # that one statement of SQLite's inserts
WAIT_S = 5  # longest wait for a lock, a connection
MIGRATION_WAIT_S = 60  # for another that makes the tables, or brings them to the newest revision
FILE = "ledger.db"
# Advisory locks of PostgreSQL: any numbers that nothing else takes.
_SCHEMA_LOCK = 0x41_49_53_4C_45
_LABELS_LOCK = _SCHEMA_LOCK + 1
_PREDICTIONS_LOCK = _SCHEMA_LOCK + 2

logger = logging.getLogger("aisle.ledger")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionFilter:
    """Which predictions are meant: those for which all that is given holds. `since_s` is included, `until_s`
    is not; confidences are both; `labelled` says whether a label names the prediction or its product."""

    product_id: str | None = None
    model: str | None = None
    category: str | None = None
    accepted: bool | None = None
    labelled: bool | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None
    since_s: float | None = None
    until_s: float | None = None


def ledger_url(home: Path, database_url: str) -> str:
    """AISLE_DATABASE_URL, or SQLite below `home` where it is empty."""
    return database_url or f"sqlite:///{home.absolute() / FILE}"


class Ledger:
    """Thread-safe. Every method raises LedgerError when the database is away or locked for longer than
    WAIT_S, and LedgerRefusedError when it will never take these rows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        is_sqlite = engine.dialect.name == "sqlite"
        self._is_file = is_sqlite and engine.url.database not in (None, "", ":memory:")

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Connect lazily: nothing is touched, so this succeeds while the database is away. Raises LedgerError
        for a URL that cannot be used."""
        try:
            parsed = make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() == "sqlite":
                if parsed.database:
                    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
                engine = create_engine(parsed, connect_args={"timeout": WAIT_S})
                event.listen(engine, "connect", _use_wal)
            else:
                # The last, so that a process that hangs within a transaction keeps its lock from nobody.
                limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
                options = " ".join(f"-c {limit}={WAIT_S * 1000}" for limit in limits)
                # PostgreSQL expects more rows of small look-ups, and would compile one of 1 ms for 15 ms.
                options += " -c jit=off"
                arguments = {"connect_timeout": WAIT_S, "options": options}
                engine = create_engine(
                    parsed, connect_args=arguments, pool_pre_ping=True, pool_timeout=WAIT_S
                )
        except ValueError:  # its cause would show a part of the URL, which may be one of the password
            raise LedgerError("ledger: cannot use a URL that cannot be read") from None
        except (ArgumentError, SQLAlchemyError, OSError) as error:
            raise LedgerError(f"ledger: cannot use {_without_password(url)}: {error}") from error
        return cls(engine)

    @property
    def name(self) -> str:
        """The database's URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def create_tables(self) -> None:
        """Make the tables, or bring them to the newest revision. Several processes may do so at once. Tables
        of a newer Aisle are used as they are: revisions only add."""
        with self._guarded():
            with self._engine.connect() as connection:
                found = _revision(connection)
            if found == REVISION:
                return
            if found is not None and found.isdecimal() and found > REVISION:
                logger.warning(
                    "ledger %s: found revision %s, newer than %s; going on", self.name, found, REVISION
                )
                return
            with self._writing(_SCHEMA_LOCK, wait_s=MIGRATION_WAIT_S) as connection:
                if _revision(connection) == REVISION:  # another made them meanwhile
                    return
                if self._engine.dialect.name == "postgresql":  # a long table is written anew, or indexed
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                self._migrate(connection)

    def close(self) -> None:
        self._engine.dispose()

    # What the service writes.

    def record_predictions(self, records: Sequence[PredictionRecord]) -> None:
        """Those that are there already are left as they are, so that a record may be written again after a
        crash. The products' last answers go with them. One writer at a time: PostgreSQL numbers a row when it
        is inserted and shows it when it is committed, and who reads on from a number would miss a lower one
        that is shown later."""
        if not records:
            return
        # All of this before anybody waits for the lock.
        answers, upsert = self._insert_predictions, self._upsert_products
        rows, known = [prediction_row(record) for record in records], product_rows(records)
        with self._guarded(), self._writing(_PREDICTIONS_LOCK) as connection:
            answers.execute(connection, rows)
            if known:
                upsert.execute(connection, known)

    def record_labels(self, given: Sequence[Label]) -> list[bool]:
        """Whether each is new. One that says what the newest of its source says already, of the same
        prediction or product, is not written again. `at_s` 0 becomes now."""
        if not given:
            return []
        now = time.time()
        with self._guarded(), self._writing(_LABELS_LOCK) as connection:
            said = {_subject(label): label.category for label in _newest_labels(connection, given)}
            is_new, rows = [], []
            for label in given:
                is_new.append(said.get(_subject(label)) != label.category)
                if is_new[-1]:
                    said[_subject(label)] = label.category
                    rows.append({**without_number(asdict(label)), "at_s": label.at_s or now})
            if rows:
                connection.execute(insert(labels), rows)
        return is_new

    def forget(self, before_s: float, *, limit: int = 5_000) -> int:
        """Delete at most `limit` of each of the oldest predictions, labels, and products not asked for again,
        of before a time; how many there were. To be called until it is 0. The newest prediction and label
        stay, however old: SQLite gives their numbers again once they are gone, and who remembers how far it
        has read would miss what comes next."""
        forgotten = 0
        for table, at_s, key in (
            (predictions, predictions.c.at_s, predictions.c.number),
            (labels, labels.c.at_s, labels.c.number),
            (products, products.c.last_at_s, products.c.product_id),
        ):
            oldest = select(key).where(at_s < before_s).order_by(at_s).limit(limit)
            if table is not products:
                oldest = oldest.where(key < select(func.max(key)).scalar_subquery())
            with self._guarded(), self._engine.begin() as connection:
                # A list in between, because PostgreSQL plans a deletion by subquery badly.
                keys = connection.execute(oldest).scalars().all()
                if keys:
                    connection.execute(delete(table).where(key.in_(keys)))
                forgotten += len(keys)
        return forgotten

    # What everybody writes.

    def record_event(self, kind: str, detail: Mapping[str, Any]) -> Event:
        """`detail` holds what JSON can."""
        at_s = time.time()
        number = self._insert_one(events, {"at_s": at_s, "kind": kind, "detail": dict(detail)})
        return Event(number=number, at_s=at_s, kind=kind, detail=detail)

    def deploy(self, model: str, reason: str) -> Deployment:
        """Make `model` the champion: every worker follows within seconds. Where it was the challenger, it is
        that no longer."""
        challenger = self.challenger()
        rows: list[dict[str, Any]] = [{"model": model, "reason": reason}]
        if challenger is not None and challenger.model == model:
            rows.append({"role": CHALLENGER, "model": "", "reason": "promoted"})
        return self._deploy(*rows)

    def challenge(self, model: str, *, mode: str, share: float, reason: str) -> Deployment:
        """Set `model` beside the champion, for a `share` of the traffic in (0, 1]: as a "shadow" it answers
        copies to nobody, as a "canary" it answers clients. Raises LedgerRefusedError."""
        if mode not in (SHADOW, CANARY):
            raise LedgerRefusedError(f"mode: found {mode!r}, wanted {SHADOW} or {CANARY}")
        if not 0 < share <= 1:
            raise LedgerRefusedError(f"share: found {share}, wanted more than 0 and at most 1")
        champion = self.champion()
        if champion is not None and champion.model == model:
            raise LedgerRefusedError(f"challenger: found {model}, the champion, wanted another model")
        return self._deploy(
            {"role": CHALLENGER, "mode": mode, "share": share, "model": model, "reason": reason}
        )

    def withdraw(self, reason: str) -> Deployment | None:
        """Let the challenger challenge no more; None where there is none."""
        if self.challenger() is None:
            return None
        return self._deploy({"role": CHALLENGER, "model": "", "reason": reason})

    # What is read.

    def champion(self) -> Deployment | None:
        """The newest deployment."""
        found = self.deployments(limit=1)
        return found[0] if found else None

    def challenger(self) -> Deployment | None:
        """The newest deployment of a challenger, unless it was withdrawn."""
        found = self.deployments(limit=1, role=CHALLENGER)
        return found[0] if found and found[0].model else None

    def deployments(self, limit: int = 100, *, role: str | None = CHAMPION) -> list[Deployment]:
        """Newest first, of a role; of all where it is None. A challenger that was withdrawn is one without
        a model."""
        query = select(deployments)
        if role is not None:
            query = query.where(deployments.c.role == role)
        query = query.order_by(deployments.c.number.desc()).limit(limit)
        return [Deployment(**row) for row in self._rows(query)]

    def last_event(self, kind: str) -> Event | None:
        """The newest event of one kind."""
        query = select(events).where(events.c.kind == kind).order_by(events.c.number.desc()).limit(1)
        return next((Event(**row) for row in self._rows(query)), None)

    def events(self, kind: str | None = None, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events with a number above `after`, oldest first; of one kind, or kinds below it: "drift"
        finds "drift.alarm" too."""
        query = select(events).where(events.c.number > after).order_by(events.c.number).limit(limit)
        if kind is not None:
            query = query.where(
                (events.c.kind == kind) | events.c.kind.startswith(f"{kind}.", autoescape=True)
            )
        return [Event(**row) for row in self._rows(query)]

    def predictions(
        self, *, after: int = 0, limit: int = 1000, model: str | None = None
    ) -> list[PredictionRecord]:
        """Predictions with a number above `after`, oldest first; of one model. Like every query of
        predictions, without a shadow's: nobody was given them."""
        query = _answers(select(predictions), model).where(predictions.c.number > after)
        query = query.order_by(predictions.c.number).limit(limit)
        return [prediction_of(row) for row in self._rows(query)]

    def last_predictions(self, limit: int, *, model: str | None = None) -> list[PredictionRecord]:
        """The newest `limit` predictions, oldest first; of one model."""
        query = _answers(select(predictions), model).order_by(predictions.c.number.desc()).limit(limit)
        return [prediction_of(row) for row in self._rows(query)][::-1]

    def page_predictions(
        self,
        chosen: PredictionFilter,
        *,
        before: tuple[float, int] | None = None,
        limit: int = 100,
    ) -> list[PredictionRecord]:
        """Newest first, without embeddings; those before (at_s, number), which is a place in that order."""
        query = _answers(select(*_WITHOUT_EMBEDDINGS), chosen.model).where(*_conditions(chosen))
        if before is not None:
            query = query.where(tuple_(predictions.c.at_s, predictions.c.number) < tuple_(*before))
        order = (predictions.c.at_s.desc(), predictions.c.number.desc())
        return [prediction_of(row) for row in self._rows(query.order_by(*order).limit(limit))]

    def count_predictions(self, *, after: int = 0, model: str | None = None) -> int:
        query = _answers(select(func.count()).select_from(predictions), model)
        return self._number(query.where(predictions.c.number > after))

    def has_prediction(self, prediction_ids: Sequence[str]) -> set[str]:
        """Which of them the ledger holds."""
        query = select(predictions.c.prediction_id).where(predictions.c.prediction_id.in_(prediction_ids))
        return {row["prediction_id"] for row in self._rows(query)}

    def product(self, product_id: str) -> KnownProduct | None:
        query = select(products).where(products.c.product_id == product_id)
        return next((KnownProduct(**row) for row in self._rows(query)), None)

    def label_of(self, product: KnownProduct) -> Label | None:
        """The last label that names the product, or its last answer."""
        with self._guarded(), self._engine.connect() as connection:
            said = _newest_labels(connection, [product])
        return max(said, key=lambda label: label.number, default=None)

    def newest_label(self) -> int:
        """The number of the last label; 0 while there is none."""
        return self._number(select(func.max(labels.c.number)))

    def count_labels(self, *, after: int = 0) -> int:
        query = select(func.count()).select_from(labels).where(labels.c.number > after)
        return self._number(query)

    def labels_of(self, answers: Sequence[PredictionRecord]) -> dict[str, Label]:
        """By prediction id, the last label that names the answer or its product."""
        with self._guarded(), self._engine.connect() as connection:
            newest = sorted(_newest_labels(connection, answers), key=lambda label: label.number)
        last = {(label.prediction_id, label.product_id): label for label in newest}
        found: dict[str, Label] = {}
        for answer in answers:
            named = ((answer.prediction_id, None), (None, answer.product_id))
            if said := [last[names] for names in named if names in last]:
                found[answer.prediction_id] = max(said, key=lambda label: label.number)
        return found

    def labelled_predictions(
        self, *, after: int = 0, until: int | None = None, model: str | None = None
    ) -> list[LabelledPrediction]:
        """Every prediction whose own or whose product's label has a number in (after, until], each once,
        with the last such label, in the order of these. A label for a product is for the last prediction
        of it."""
        newest_of_product = (
            select(predictions.c.product_id, func.max(predictions.c.number).label("number"))
            .where(
                predictions.c.product_id.in_(select(labels.c.product_id).where(labels.c.number > after)),
                predictions.c.role != SHADOW,
            )
            .group_by(predictions.c.product_id)
            .subquery()
        )
        by_id = labels.join(predictions, labels.c.prediction_id == predictions.c.prediction_id)
        by_product = labels.join(
            newest_of_product, labels.c.product_id == newest_of_product.c.product_id
        ).join(predictions, predictions.c.number == newest_of_product.c.number)
        found: dict[int, LabelledPrediction] = {}
        for joined in (by_id, by_product):
            query = labelled_query().select_from(joined).where(labels.c.number > after)
            if until is not None:
                query = query.where(labels.c.number <= until)
            if model is not None:
                # Not by an index of models, which SQLite prefers to the few labels, and reads all answers.
                query = query.where(predictions.c.model.concat("") == model)
            for row in self._rows(query):
                one = labelled_of(row)
                held = found.get(one.prediction.number)
                if held is None or held.label.number < one.label.number:
                    found[one.prediction.number] = one
        return sorted(found.values(), key=lambda one: one.label.number)

    # How it is done.

    def _insert_into(self, table: Table) -> Any:
        """An INSERT that can say what to do on a conflict: both dialects can, in the same words."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    @cached_property
    def _insert_predictions(self) -> _PlainStatement:
        query = self._insert_into(predictions).on_conflict_do_nothing(index_elements=["prediction_id"])
        return _PlainStatement(query, PREDICTION_NAMES, self._engine.dialect)

    @cached_property
    def _upsert_products(self) -> _PlainStatement:
        query = self._insert_into(products)
        new = query.excluded
        kept = ("product_id", "first_at_s", "title")
        changes = {column.name: new[column.name] for column in products.columns if column.name not in kept}
        # Asked for by id alone, a product keeps the title that it was last seen with.
        changes["title"] = func.coalesce(new.title, products.c.title)
        query = query.on_conflict_do_update(
            index_elements=["product_id"], set_=changes, where=new.last_at_s >= products.c.last_at_s
        )
        return _PlainStatement(query, PRODUCT_NAMES, self._engine.dialect)

    def _deploy(self, *rows: dict[str, Any]) -> Deployment:
        """Write all or none of them; the first."""
        at_s = time.time()
        numbers = []
        with self._guarded(), self._engine.begin() as connection:
            for row in rows:
                query = insert(deployments).values(at_s=at_s, **row).returning(deployments.c.number)
                numbers.append(int(connection.execute(query).scalar_one()))
        return Deployment(number=numbers[0], at_s=at_s, **rows[0])

    def _insert_one(self, table: Table, row: dict[str, Any]) -> int:
        with self._guarded(), self._engine.begin() as connection:
            query = insert(table).values(**row).returning(table.c.number)
            return int(connection.execute(query).scalar_one())

    def _number(self, query: Select[Any]) -> int:
        with self._guarded(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    @contextmanager
    def _writing(self, lock: int, *, wait_s: int = WAIT_S) -> Iterator[Connection]:
        """A transaction that no other of the same lock is beside, so that what it reads stays true."""
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                for limit in ("lock_timeout", "statement_timeout") if wait_s != WAIT_S else ():
                    connection.exec_driver_sql(f"SET LOCAL {limit} = {1000 * wait_s}")
                connection.execute(select(func.pg_advisory_xact_lock(lock)))
            else:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * wait_s}")
                try:  # else it would begin with the first write, after what was read
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                finally:
                    connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * WAIT_S}")
            yield connection

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._guarded(), self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _migrate(self, connection: Connection) -> None:
        from alembic import command  # 0.3 s, and needed once in a database's life
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise LedgerError(
                f"ledger {self.name}: found revision {_revision(connection)!r}, which no Aisle has made, "
                f"wanted one up to {REVISION}, or an empty database: are these another program's tables?"
            ) from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            if isinstance(error, OperationalError) and self._is_file:
                # Its connections may be to a file that is none any more: one that was put back, by `mv`.
                self._engine.dispose()
            why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            refused = isinstance(error, DataError | IntegrityError)
            kind = LedgerRefusedError if refused else LedgerError
            raise kind(f"ledger {self.name}: {why}") from error


_EMBEDDINGS = ("text_embedding", "image_embedding")
_WITHOUT_EMBEDDINGS = tuple(column for column in predictions.columns if column.name not in _EMBEDDINGS)


def _answers(query: Select[Any], model: str | None) -> Select[Any]:
    """What was answered; of one model."""
    query = query.where(predictions.c.role != SHADOW)
    return query if model is None else query.where(predictions.c.model == model)


def _conditions(chosen: PredictionFilter) -> Iterator[Any]:
    for name in ("product_id", "category", "accepted"):
        if (value := getattr(chosen, name)) is not None:
            yield predictions.c[name] == value
    if chosen.labelled is not None:
        has_label = or_(
            exists().where(labels.c.prediction_id == predictions.c.prediction_id),
            exists().where(labels.c.product_id == predictions.c.product_id),
        )
        yield has_label if chosen.labelled else ~has_label
    if chosen.min_confidence is not None:
        yield predictions.c.confidence >= chosen.min_confidence
    if chosen.max_confidence is not None:
        yield predictions.c.confidence <= chosen.max_confidence
    if chosen.since_s is not None:
        yield predictions.c.at_s >= chosen.since_s
    if chosen.until_s is not None:
        yield predictions.c.at_s < chosen.until_s


class _PlainStatement:
    """An INSERT of many rows whose values drivers take as they are, written out once; SQLAlchemy would write
    it for each batch and look at each value. sqlite3 lets go of the interpreter's lock for each statement,
    and gets it back after milliseconds where other threads have work: most rows go BLOCK_ROWS a statement
    there. psycopg would read such a long statement anew each time, and sends many short ones at once."""

    def __init__(self, query: Any, names: Sequence[str], dialect: Dialect) -> None:
        """`names` are those of a row's values."""
        one = query.compile(dialect=dialect, column_keys=names, for_executemany=True)
        self._one, self._one_values = str(one), _arrangement(one, names)
        self._block_rows = BLOCK_ROWS if dialect.name == "sqlite" else 0
        if self._block_rows:
            block = query.values([dict.fromkeys(names)] * BLOCK_ROWS).compile(dialect=dialect)
            in_block = [f"{name}_m{row}" for row in range(BLOCK_ROWS) for name in names]
            self._block, self._block_values = str(block), _arrangement(block, in_block)

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        in_blocks = len(rows) // self._block_rows * self._block_rows if self._block_rows else 0
        for start in range(0, in_blocks, BLOCK_ROWS):
            values = tuple(chain.from_iterable(rows[start : start + BLOCK_ROWS]))
            connection.exec_driver_sql(self._block, self._block_values(values))
        if rest := rows[in_blocks:]:
            connection.exec_driver_sql(self._one, [self._one_values(row) for row in rest])


def _arrangement(compiled: SQLCompiler, names: Sequence[str]) -> Callable[[tuple[Any, ...]], Any]:
    """Values that stand in the order of `names`, as the driver wants them for this statement."""
    if compiled.positiontup is None:
        return lambda values: dict(zip(names, values, strict=True))
    place = {name: number for number, name in enumerate(names)}
    return itemgetter(*(place[name] for name in compiled.positiontup))


def _newest_labels(
    connection: Connection, about: Sequence[Label | PredictionRecord | KnownProduct]
) -> list[Label]:
    """The newest of each source of each prediction and each product that these name. Never all of them: who
    asks may hold the write lock, and a million may have been given to one product."""
    named = {name: {getattr(one, name) for one in about} - {None} for name in ("prediction_id", "product_id")}
    given = {name: sorted(ids) for name, ids in named.items()}
    numbers = connection.execute(newest_labels_query(connection.dialect.name), given).scalars().all()
    if not numbers:
        return []
    rows = connection.execute(select(labels).where(labels.c.number.in_(numbers))).mappings()
    return [Label(**row) for row in rows]


def _subject(label: Label) -> tuple[str, ...]:
    """What a label is about, and who says it."""
    return (label.prediction_id or "", label.product_id or "", label.source)


def _revision(connection: Connection) -> str | None:
    """None where there are no tables, or those of before they had revisions."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _use_wal(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Of a new file: pages of 4,096 bytes hold one prediction with its embeddings each, and stay half empty.
    cursor.execute("PRAGMA page_size=16384")
    # Readers and a writer at once; of a power cut, the last transactions may be lost, never the file.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "a URL that cannot be read"
