"""What was asked and how long it took, roles of models, products, and order by time; numbers of 64 bits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBERED = ("predictions", "labels", "events", "deployments")


def upgrade() -> None:
    op.add_column("predictions", sa.Column("role", sa.String(16), nullable=False, server_default="champion"))
    op.add_column("predictions", sa.Column("title", sa.String(120)))
    op.add_column("predictions", sa.Column("latency_s", sa.Float(53)))
    op.create_index("predictions_by_time", "predictions", ["at_s", "number"])
    op.create_index("predictions_of_acceptance", "predictions", ["accepted", "at_s", "number"])
    op.create_index("predictions_of_category", "predictions", ["category", "at_s", "number"])
    op.add_column("deployments", sa.Column("role", sa.String(16), nullable=False, server_default="champion"))
    op.add_column("deployments", sa.Column("mode", sa.String(16)))
    op.add_column("deployments", sa.Column("share", sa.Float(53)))
    op.create_table(
        "products",
        sa.Column("product_id", sa.String(256), primary_key=True),
        sa.Column("first_at_s", sa.Float(53), nullable=False),
        sa.Column("last_at_s", sa.Float(53), nullable=False),
        sa.Column("title", sa.String(120)),
        sa.Column("prediction_id", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("category", sa.String(128), nullable=False),
        sa.Column("confidence", sa.Float(53), nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
    )
    op.create_index("products_by_time", "products", ["last_at_s"])
    if op.get_bind().dialect.name == "postgresql":  # SQLite's are of 64 bits always
        for table in NUMBERED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN number TYPE BIGINT")
            op.execute(f"ALTER SEQUENCE {table}_number_seq AS BIGINT")


def downgrade() -> None:
    op.drop_table("products")
    for column in ("role", "mode", "share"):
        op.drop_column("deployments", column)
    for index in ("predictions_by_time", "predictions_of_acceptance", "predictions_of_category"):
        op.drop_index(index, "predictions")
    for column in ("role", "title", "latency_s"):
        op.drop_column("predictions", column)
