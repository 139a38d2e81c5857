"""The newest label of each source, and those of late, without a look at all that were given before them."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("labels_of_prediction", "labels", ["prediction_id", "source", "number"])
    op.create_index("labels_of_product", "labels", ["product_id", "source", "number"])
    op.create_index("labels_of_product_by_number", "labels", ["product_id", "number"])
    op.drop_index("ix_labels_prediction_id", "labels")  # what they find, the new ones do
    op.drop_index("ix_labels_product_id", "labels")


def downgrade() -> None:
    op.create_index("ix_labels_prediction_id", "labels", ["prediction_id"])
    op.create_index("ix_labels_product_id", "labels", ["product_id"])
    for index in ("labels_of_prediction", "labels_of_product", "labels_of_product_by_number"):
        op.drop_index(index, "labels")
