"""All SQL about warnings of budgets, and about months that would be used up too early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from common.contracts import BudgetWarned

if TYPE_CHECKING:
    from common.postgres import Connection

# By one process at a time each, in the order in which they came about.
UNTOLD = """
SELECT warning_id, tenant_id, scope, nullif(subject, '') AS subject, threshold, trim_scale(cap) AS cap_usd,
       trim_scale(charged) AS charged_usd, nullif(period, 'epoch') AS period, warned_at
FROM billing.budget_warnings WHERE told_at IS NULL ORDER BY warned_at LIMIT $1
FOR NO KEY UPDATE SKIP LOCKED
"""


async def untold(connection: Connection, limit: int) -> list[BudgetWarned]:
    """Some that were not told yet, locked until the transaction ends."""
    return [BudgetWarned(**dict(row)) for row in await connection.fetch(UNTOLD, limit)]


NOTE_TOLD = """
UPDATE billing.budget_warnings SET told_at = clock_timestamp() WHERE told_at IS NULL AND warning_id = ANY ($1::uuid[])
"""


async def note_told(connection: Connection, warnings: Sequence[UUID]) -> None:
    """The broker has these."""
    await connection.execute(NOTE_TOLD, warnings)


BURNING = "SELECT tenant_id, used_up_at FROM billing.burning()"


async def burning(connection: Connection) -> Sequence[Any]:
    """Tenants whose month would be used up before it ends, with when."""
    rows: Sequence[Any] = await connection.fetch(BURNING)
    return rows
