"""The ledger's tables, as they are after the newest revision of `aisle/migrations`. A test compares both."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from aisle.prediction import Role

REVISION = "0004"  # the newest
TITLE_CHARS = 120  # of a product's title that are kept
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what is called INTEGER

metadata = MetaData()
predictions = Table(
    "predictions",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("prediction_id", String(32), nullable=False, unique=True),
    Column("at_s", Float(53), nullable=False),
    Column("role", String(16), nullable=False, server_default=Role.CHAMPION.value),
    Column("model", String(128), nullable=False),
    Column("product_id", String(256)),
    Column("title", String(TITLE_CHARS)),
    Column("category", String(128), nullable=False),
    Column("confidence", Float(53), nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("text_source", String(16), nullable=False),
    Column("image_source", String(16), nullable=False),
    Column("text_encoder", String(16), nullable=False),
    Column("image_encoder", String(16), nullable=False),
    Column("latency_s", Float(53)),
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
    Index("predictions_of_model_by_time", "model", "at_s", "number"),
    Index("predictions_by_time", "at_s", "number"),
    Index("predictions_of_acceptance", "accepted", "at_s", "number"),
    Index("predictions_of_category", "category", "at_s", "number"),
)
labels = Table(
    "labels",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("prediction_id", String(32)),
    Column("product_id", String(256)),
    Column("category", String(128), nullable=False),
    Column("source", String(32), nullable=False),
    Index("labels_of_prediction", "prediction_id", "source", "number"),
    Index("labels_of_product", "product_id", "source", "number"),
    Index("labels_of_product_by_number", "product_id", "number"),
)
products = Table(  # each with its last answer
    "products",
    metadata,
    Column("product_id", String(256), primary_key=True),
    Column("first_at_s", Float(53), nullable=False),
    Column("last_at_s", Float(53), nullable=False),
    Column("title", String(TITLE_CHARS)),
    Column("prediction_id", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("category", String(128), nullable=False),
    Column("confidence", Float(53), nullable=False),
    Column("accepted", Boolean, nullable=False),
    Index("products_by_time", "last_at_s"),
)
events = Table(
    "events",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("kind", String(64), nullable=False, index=True),
    Column("detail", JSON, nullable=False),
)
deployments = Table(
    "deployments",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("at_s", Float(53), nullable=False),
    Column("role", String(16), nullable=False, server_default=Role.CHAMPION.value),
    Column("mode", String(16)),  # of a challenger: shadow or canary
    Column("share", Float(53)),
    Column("model", String(128), nullable=False),
    Column("reason", String(1024), nullable=False),
)
