"""The ledger: what was answered, what was true, what happened, and which model is in service.

Every table and every query of Aisle. SQLite in WAL mode embedded, PostgreSQL when it grows. Times are
seconds since 1970, UTC. Rows are only ever added.

Shapes: D and E embedding widths of text and image.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from aisle.columns import Columns
from aisle.errors import LedgerError, LedgerRefusedError

WAIT_S = 5  # longest wait for a lock, a connection
FILE = "ledger.db"
_SCHEMA_LOCK = 0x41_49_53_4C_45  # of PostgreSQL: any number that nothing else takes

metadata = MetaData()
predictions = Table(
    "predictions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("prediction_id", String(32), nullable=False, unique=True),
    Column("at_s", Float(53), nullable=False),
    Column("model", String(128), nullable=False),
    Column("product_id", String(256)),
    Column("category", String(128), nullable=False),
    Column("confidence", Float(53), nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("text_source", String(16), nullable=False),
    Column("image_source", String(16), nullable=False),
    Column("text_encoder", String(16), nullable=False),
    Column("image_encoder", String(16), nullable=False),
    Column("text_chars", Integer),
    Column("language", String(8)),
    Column("description_missing", Boolean),
    Column("image_width", Integer),
    Column("image_height", Integer),
    Column("brightness", Float(53)),
    Column("text_embedding", LargeBinary),
    Column("image_embedding", LargeBinary),
    Index("predictions_of_product", "product_id", "number"),
    Index("predictions_of_model", "model", "number"),
)
labels = Table(
    "labels",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("prediction_id", String(32), index=True),
    Column("product_id", String(256), index=True),
    Column("category", String(128), nullable=False),
    Column("source", String(32), nullable=False),
)
events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("kind", String(64), nullable=False, index=True),
    Column("detail", JSON, nullable=False),
)
deployments = Table(
    "deployments",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("model", String(128), nullable=False),
    Column("reason", String(1024), nullable=False),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictionRecord:
    """One answer. `number` orders the ledger and is 0 before it is written. Embeddings are float16
    [D] and [E]; None where the modality was absent or this answer was not sampled."""

    prediction_id: str
    at_s: float
    model: str
    product_id: str | None
    category: str
    confidence: float
    accepted: bool
    text_source: str
    image_source: str
    text_encoder: str
    image_encoder: str
    columns: Columns
    text_embedding: np.ndarray | None = None
    image_embedding: np.ndarray | None = None
    number: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The true category of a prediction or of a product; exactly one of the two ids is given."""

    category: str
    source: str
    prediction_id: str | None = None
    product_id: str | None = None
    at_s: float = 0.0
    number: int = 0

    def __post_init__(self) -> None:
        if (self.prediction_id is None) == (self.product_id is None):
            raise LedgerError(
                f"label: found prediction_id {self.prediction_id!r} and product_id {self.product_id!r}, "
                "wanted exactly one of them"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledPrediction:
    """A prediction with the last label that was given for it or, else, for its product."""

    label: Label
    prediction: PredictionRecord

    @property
    def correct(self) -> bool:
        return self.label.category == self.prediction.category


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    number: int
    at_s: float
    kind: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """From `at_s` on, `model` is the champion."""

    number: int
    at_s: float
    model: str
    reason: str


def ledger_url(home: Path, database_url: str) -> str:
    """AISLE_DATABASE_URL, or SQLite below `home` where it is empty."""
    return database_url or f"sqlite:///{home.absolute() / FILE}"


class Ledger:
    """Thread-safe. Every method raises LedgerError when the database is away or locked for longer than
    WAIT_S, and LedgerRefusedError when it will never take these rows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Connect lazily: nothing is touched, so this succeeds while the database is away."""
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
                options = f"-c statement_timeout={WAIT_S * 1000} -c lock_timeout={WAIT_S * 1000}"
                arguments = {"connect_timeout": WAIT_S, "options": options}
                engine = create_engine(
                    parsed, connect_args=arguments, pool_pre_ping=True, pool_timeout=WAIT_S
                )
        except (ArgumentError, SQLAlchemyError, OSError) as error:
            raise LedgerError(f"ledger: cannot use {_without_password(url)}: {error}") from error
        return cls(engine)

    @property
    def name(self) -> str:
        """The database's URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def create_tables(self) -> None:
        """Make what is missing. Several processes may do so at once."""
        with self._guarded(), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":  # its IF NOT EXISTS is no guard against a race
                connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            for table in metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    connection.execute(CreateIndex(index, if_not_exists=True))

    def close(self) -> None:
        self._engine.dispose()

    # What the service writes.

    def record_predictions(self, records: Sequence[PredictionRecord]) -> None:
        if records:
            self._insert(predictions, [_prediction_row(record) for record in records])

    def record_labels(self, given: Sequence[Label]) -> None:
        """`at_s` 0 becomes now."""
        now = time.time()
        rows = [{**_without_number(asdict(label)), "at_s": label.at_s or now} for label in given]
        if rows:
            self._insert(labels, rows)

    # What everybody writes.

    def record_event(self, kind: str, detail: Mapping[str, Any]) -> Event:
        """`detail` holds what JSON can."""
        at_s = time.time()
        number = self._insert_one(events, {"at_s": at_s, "kind": kind, "detail": dict(detail)})
        return Event(number=number, at_s=at_s, kind=kind, detail=detail)

    def deploy(self, model: str, reason: str) -> Deployment:
        """Make `model` the champion: every worker follows within seconds."""
        at_s = time.time()
        number = self._insert_one(deployments, {"at_s": at_s, "model": model, "reason": reason})
        return Deployment(number=number, at_s=at_s, model=model, reason=reason)

    # What is read.

    def champion(self) -> Deployment | None:
        """The newest deployment."""
        found = self.deployments(limit=1)
        return found[0] if found else None

    def deployments(self, limit: int = 100) -> list[Deployment]:
        """Newest first."""
        query = select(deployments).order_by(deployments.c.number.desc()).limit(limit)
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
        """Predictions with a number above `after`, oldest first; of one model."""
        query = select(predictions).where(predictions.c.number > after)
        if model is not None:
            query = query.where(predictions.c.model == model)
        query = query.order_by(predictions.c.number).limit(limit)
        return [_prediction(row) for row in self._rows(query)]

    def last_predictions(self, limit: int, *, model: str | None = None) -> list[PredictionRecord]:
        """The newest `limit` predictions, oldest first; of one model."""
        query = select(predictions)
        if model is not None:
            query = query.where(predictions.c.model == model)
        query = query.order_by(predictions.c.number.desc()).limit(limit)
        return [_prediction(row) for row in self._rows(query)][::-1]

    def count_predictions(self, *, after: int = 0, model: str | None = None) -> int:
        query = select(func.count()).select_from(predictions).where(predictions.c.number > after)
        if model is not None:
            query = query.where(predictions.c.model == model)
        with self._guarded(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def has_prediction(self, prediction_ids: Sequence[str]) -> set[str]:
        """Which of them the ledger holds."""
        query = select(predictions.c.prediction_id).where(predictions.c.prediction_id.in_(prediction_ids))
        return {row["prediction_id"] for row in self._rows(query)}

    def newest_label(self) -> int:
        """The number of the last label; 0 while there is none."""
        with self._guarded(), self._engine.connect() as connection:
            return int(connection.execute(select(func.max(labels.c.number))).scalar_one() or 0)

    def count_labels(self, *, after: int = 0) -> int:
        query = select(func.count()).select_from(labels).where(labels.c.number > after)
        with self._guarded(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def labels(self, *, after: int = 0, limit: int = 100_000) -> list[Label]:
        """Labels with a number above `after`, oldest first."""
        query = select(labels).where(labels.c.number > after).order_by(labels.c.number).limit(limit)
        return [Label(**row) for row in self._rows(query)]

    def labelled_predictions(
        self, *, after: int = 0, until: int | None = None, model: str | None = None
    ) -> list[LabelledPrediction]:
        """Every prediction whose own or whose product's label has a number in (after, until], each once,
        with the last such label, in the order of these. A label for a product is for the last prediction
        of it."""
        newest_of_product = (
            select(predictions.c.product_id, func.max(predictions.c.number).label("number"))
            .where(predictions.c.product_id.in_(select(labels.c.product_id).where(labels.c.number > after)))
            .group_by(predictions.c.product_id)
            .subquery()
        )
        by_id = labels.join(predictions, labels.c.prediction_id == predictions.c.prediction_id)
        by_product = labels.join(
            newest_of_product, labels.c.product_id == newest_of_product.c.product_id
        ).join(predictions, predictions.c.number == newest_of_product.c.number)
        found: dict[int, LabelledPrediction] = {}
        for joined in (by_id, by_product):
            query = _labelled_query().select_from(joined).where(labels.c.number > after)
            if until is not None:
                query = query.where(labels.c.number <= until)
            if model is not None:
                query = query.where(predictions.c.model == model)
            for row in self._rows(query):
                one = _labelled(row)
                held = found.get(one.prediction.number)
                if held is None or held.label.number < one.label.number:
                    found[one.prediction.number] = one
        return sorted(found.values(), key=lambda one: one.label.number)

    # How it is done.

    def _insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        with self._guarded(), self._engine.begin() as connection:
            connection.execute(insert(table), rows)

    def _insert_one(self, table: Table, row: dict[str, Any]) -> int:
        with self._guarded(), self._engine.begin() as connection:
            query = insert(table).values(**row).returning(table.c.number)
            return int(connection.execute(query).scalar_one())

    def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._guarded(), self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            refused = isinstance(error, DataError | IntegrityError)
            kind = LedgerRefusedError if refused else LedgerError
            raise kind(f"ledger {self.name}: {why}") from error


_COLUMN_NAMES = tuple(item.name for item in fields(Columns))
_NOT_PLAIN = ("columns", "number", "text_embedding", "image_embedding")
_PLAIN_NAMES = tuple(item.name for item in fields(PredictionRecord) if item.name not in _NOT_PLAIN)
_LABEL_PREFIX = "label_"


def _prediction_row(record: PredictionRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _PLAIN_NAMES}
    for name in _COLUMN_NAMES:
        row[name] = getattr(record.columns, name)
    row["text_embedding"] = _packed(record.text_embedding)
    row["image_embedding"] = _packed(record.image_embedding)
    return row


def _prediction(row: Mapping[str, Any]) -> PredictionRecord:
    plain = {item.name: row[item.name] for item in fields(PredictionRecord) if item.name != "columns"}
    record = PredictionRecord(columns=Columns(**{name: row[name] for name in _COLUMN_NAMES}), **plain)
    return replace(
        record,
        text_embedding=_unpacked(row["text_embedding"]),
        image_embedding=_unpacked(row["image_embedding"]),
    )


def _packed(vector: np.ndarray | None) -> bytes | None:
    return None if vector is None else vector.astype("<f2", copy=False).tobytes()


def _unpacked(data: bytes | None) -> np.ndarray | None:
    return None if data is None else np.frombuffer(data, dtype="<f2")


def _labelled_query() -> Select[Any]:
    renamed = [column.label(_LABEL_PREFIX + column.name) for column in labels.columns]
    return select(predictions, *renamed)


def _labelled(row: Mapping[str, Any]) -> LabelledPrediction:
    label = Label(**{item.name: row[_LABEL_PREFIX + item.name] for item in fields(Label)})
    return LabelledPrediction(label=label, prediction=_prediction(row))


def _without_number(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "number"}


def _use_wal(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers and a writer at once; of a power cut, the last transactions may be lost, never the file.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "a URL that cannot be read"
