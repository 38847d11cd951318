"""SQL on a tenant's tasks that have not ended, for admission to count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Record

from common.admission import OUTSTANDING_SECONDS
from gateway.database import Database

# As long as each counts when it is submitted: from its time, if it is to wait for one.
_OPEN = """
SELECT t.task_id, t.priority,
       extract(epoch FROM greatest(t.submitted_at, w.wake_at) - now())::float8 + $2 AS seconds
FROM history.tasks t
LEFT JOIN runtime.runs r ON r.task_id = t.task_id LEFT JOIN runtime.parked w ON w.task_id = t.task_id
WHERE t.tenant_id = $1 AND t.status = 'queued' AND t.submitted_at IS NOT NULL AND t.priority IS NOT NULL
  AND (r.task_id IS NULL OR r.status IN ('running', 'parked'))
  AND greatest(t.submitted_at, w.wake_at) > now() - make_interval(secs => $2)
ORDER BY t.submitted_at DESC, t.task_id DESC LIMIT $3
"""
_ENDED = "SELECT task_id FROM runtime.runs WHERE task_id = ANY ($1) AND status NOT IN ('running', 'parked')"


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

    async def open(self, tenant_id: UUID, limit: int) -> list[OpenTask]:
        """The tenant's tasks that count as outstanding, the newest first, as far as they are recorded."""
        rows = await self._rows(tenant_id, _OPEN, tenant_id, OUTSTANDING_SECONDS, limit)
        return [OpenTask(row["task_id"], row["priority"], row["seconds"]) for row in rows]

    async def ended(self, tenant_id: UUID, task_ids: Sequence[UUID]) -> frozenset[UUID]:
        """Those of the tasks that have ended by now."""
        return frozenset(row["task_id"] for row in await self._rows(tenant_id, _ENDED, task_ids))

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        return await self._database.within(self._fetch(tenant_id, statement, *arguments))

    async def _fetch(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
