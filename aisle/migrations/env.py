"""Alembic runs this for every command: migrations go over the connection that `aisle.ledger` gives, in its
transaction."""

from __future__ import annotations

from alembic import context

from aisle.ledger_tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
