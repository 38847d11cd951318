"""Alembic's entry: runs the migrations over the connection that `deploy.migrations` hands it."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="laneway_schema_version")
with context.begin_transaction():
    context.run_migrations()
