"""The tables as they were before they had revisions; those that are there already are left alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("prediction_id", sa.String(32), nullable=False, unique=True),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("product_id", sa.String(256)),
        sa.Column("category", sa.String(128), nullable=False),
        sa.Column("confidence", sa.Float(53), nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("text_source", sa.String(16), nullable=False),
        sa.Column("image_source", sa.String(16), nullable=False),
        sa.Column("text_encoder", sa.String(16), nullable=False),
        sa.Column("image_encoder", sa.String(16), nullable=False),
        sa.Column("text_chars", sa.Integer),
        sa.Column("language", sa.String(8)),
        sa.Column("description_missing", sa.Boolean),
        sa.Column("image_width", sa.Integer),
        sa.Column("image_height", sa.Integer),
        sa.Column("brightness", sa.Float(53)),
        sa.Column("text_embedding", sa.LargeBinary),
        sa.Column("image_embedding", sa.LargeBinary),
        if_not_exists=True,
    )
    _index("predictions_of_product", "predictions", "product_id", "number")
    _index("predictions_of_model", "predictions", "model", "number")
    op.create_table(
        "labels",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.Column("prediction_id", sa.String(32)),
        sa.Column("product_id", sa.String(256)),
        sa.Column("category", sa.String(128), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        if_not_exists=True,
    )
    _index("ix_labels_prediction_id", "labels", "prediction_id")
    _index("ix_labels_product_id", "labels", "product_id")
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        if_not_exists=True,
    )
    _index("ix_events_kind", "events", "kind")
    op.create_table(
        "deployments",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    for table in ("deployments", "events", "labels", "predictions"):
        op.drop_table(table)


def _index(name: str, table: str, *columns: str) -> None:
    op.create_index(name, table, columns, if_not_exists=True)
