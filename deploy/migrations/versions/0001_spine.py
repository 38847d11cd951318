"""Identity, runtime, history and billing: the first schema."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

_SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    """Create everything, in the order in which the parts name each other."""
    for name in ("0001_roles_and_identity", "0002_billing", "0003_runtime", "0004_history"):
        script = _SQL.joinpath(f"{name}.sql").read_text(encoding="utf-8")
        # The driver itself: it takes a script of many statements, and leaves `%` alone where there are no parameters.
        driver = op.get_bind().connection.driver_connection
        assert driver is not None  # noqa: S101 - the engine has just opened it
        driver.execute(script)
