"""Settlement: a batch of usage records in one statement."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0018"
down_revision = "0017"

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    """Add to what is there."""
    script = _SQL.joinpath("0021_settlement.sql").read_text(encoding="utf-8")
    driver = op.get_bind().connection.driver_connection
    assert driver is not None  # noqa: S101 - the engine has just opened it
    driver.execute(script)
