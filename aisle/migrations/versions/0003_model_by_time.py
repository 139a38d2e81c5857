"""The newest predictions of a model without a look at all of them."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("predictions_of_model_by_time", "predictions", ["model", "at_s", "number"])


def downgrade() -> None:
    op.drop_index("predictions_of_model_by_time", "predictions")
