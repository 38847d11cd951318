"""Pauses: what operators have stopped, and the log of it."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

_SCRIPT = Path(__file__).parents[1] / "sql" / "0006_pauses.sql"


def upgrade() -> None:
    """Apply the script."""
    # The driver itself: it takes a script of many statements, and leaves `%` alone where there are no parameters.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None  # noqa: S101 - the engine has just opened it
    driver.execute(_SCRIPT.read_text(encoding="utf-8"))
