"""SQL on a tenant's tasks that have not ended, for admission to count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from asyncpg import Record

from common.admission import OUTSTANDING_SECONDS
from gateway.database import Database

# As long as each counts when it is submitted: from its time, if it is to wait for one. A page is so many of the tasks
# that are recorded as queued, whether they count or not, so that each takes as long as the others.
_PAGE = """
SELECT t.task_id, t.priority, t.submitted_at,
       extract(epoch FROM greatest(t.submitted_at, w.wake_at) - now())::float8 + $2 AS seconds,
       t.priority IS NOT NULL AND (r.task_id IS NULL OR r.status IN ('running', 'parked')) AS open
FROM (
  SELECT task_id, priority, submitted_at FROM history.tasks
  WHERE tenant_id = $1 AND status = 'queued' AND (submitted_at, task_id) < ($3, $4::uuid)
  ORDER BY submitted_at DESC, task_id DESC LIMIT $5
) t
LEFT JOIN runtime.runs r ON r.task_id = t.task_id LEFT JOIN runtime.parked w ON w.task_id = t.task_id
ORDER BY t.submitted_at DESC, t.task_id DESC
"""
_ENDED = "SELECT task_id FROM runtime.runs WHERE task_id = ANY ($1) AND status NOT IN ('running', 'parked')"


Place = tuple[datetime, UUID]
"""Of a task among its tenant's: when it was submitted, and its id."""
NEWEST: Place = (datetime(3000, 1, 1, tzinfo=UTC), UUID(int=0))
"""Before all of them."""


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task that has not ended."""

    id: UUID
    priority: int
    seconds: float
    """For which it counts yet, unless somebody says that it has ended."""


class OpenTasks:
    """Reads them. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, tenant_id: UUID, after: Place, size: int) -> tuple[list[OpenTask], Place | None]:
        """Of so many of its recorded tasks, the newest first, those that count; and where the next page begins."""
        rows = await self._rows(tenant_id, _PAGE, tenant_id, OUTSTANDING_SECONDS, *after, size)
        tasks = [
            OpenTask(row["task_id"], row["priority"], row["seconds"])
            for row in rows
            if row["open"] and row["seconds"] > 0
        ]
        return tasks, (rows[-1]["submitted_at"], rows[-1]["task_id"]) if len(rows) == size else None

    async def ended(self, tenant_id: UUID, task_ids: Sequence[UUID]) -> frozenset[UUID]:
        """Those of the tasks that have ended by now."""
        return frozenset(row["task_id"] for row in await self._rows(tenant_id, _ENDED, task_ids))

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        return await self._database.within(self._fetch(tenant_id, statement, *arguments))

    async def _fetch(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
