"""SQL on schedules and on what became of their ticks, read and written as their tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.schedule_schemas import MOST_SCHEDULES

_COLUMNS = """s.schedule_id, s.tenant_id, s.name, s.cron, s.time_zone, s.missed, s.enabled, s.task, s.tier,
s.created_at, s.updated_at, s.next_at, s.waiting"""
# A tenant's schedules are counted by one at a time.
_COUNTING = "SELECT pg_advisory_xact_lock(7316005, hashtext($1))"
_ADD = f"""
INSERT INTO runtime.schedules AS s (schedule_id, tenant_id, name, cron, time_zone, missed, enabled, task, message,
  user_id, tier, allowed_to, next_at, due_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13
WHERE (SELECT count(*) FROM runtime.schedules) < {MOST_SCHEDULES}
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants
# What somebody else has changed since it was read is not overwritten. A new rhythm starts with its own first tick.
_CHANGE = f"""
UPDATE runtime.schedules s SET name = $3, cron = $4, time_zone = $5, missed = $6, enabled = $7, task = $8, message = $9,
  user_id = $10, tier = $11, allowed_to = $12, updated_at = clock_timestamp(),
  next_at = CASE WHEN $14 THEN $13::timestamptz ELSE next_at END,
  due_at = CASE WHEN $14 THEN $13::timestamptz ELSE due_at END,
  waiting = CASE WHEN NOT $14 THEN waiting END
WHERE schedule_id = $1 AND tenant_id = $2 AND updated_at = $15
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants
# Who publishes its tick notes that first, and what came of it at the end: neither comes between this and the change.
_BEFORE = f"SELECT {_COLUMNS} FROM runtime.schedules s WHERE schedule_id = $1 FOR NO KEY UPDATE"  # noqa: S608 - as above
_DELETE = f"DELETE FROM runtime.schedules s WHERE schedule_id = $1 RETURNING {_COLUMNS}"  # noqa: S608 - as above
_ONE = f"SELECT {_COLUMNS} FROM runtime.schedules s WHERE schedule_id = $1"  # noqa: S608 - as above
_PAGE = f"""
SELECT {_COLUMNS} FROM runtime.schedules s WHERE $1::uuid IS NULL OR schedule_id < $1
ORDER BY schedule_id DESC LIMIT $2
"""  # noqa: S608 - made of constants
_TICKS = """
SELECT t.schedule_id, t.tick_at, t.until, t.outcome, t.reason, t.task_id, t.settled_at
FROM unnest($1::uuid[]) AS q (schedule_id) CROSS JOIN LATERAL (
  SELECT * FROM runtime.ticks n WHERE n.schedule_id = q.schedule_id ORDER BY n.tick_at DESC LIMIT $2) t
ORDER BY t.tick_at DESC
"""
# The persister that fires may have to look sooner than it meant to.
_RING = "SELECT pg_notify('laneway_parking', '')"


@dataclass(frozen=True, slots=True)
class Definition:
    """The columns that a tenant decides on, in the order of the statements."""

    name: str | None
    cron: str
    time_zone: str
    missed: str
    enabled: bool
    task: dict[str, Any]
    message: bytes
    user_id: str | None
    tier: str | None
    allowed_to: Sequence[str]
    next_at: datetime | None

    @property
    def columns(self) -> tuple[object, ...]:
        """As parameters."""
        return tuple(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Changed:
    """A schedule as it is now, and as it was the moment before: a tick may have been settled since it was read."""

    now: Record
    before: Record


class Schedules:
    """Reads and writes them. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant_id: UUID, schedule_id: UUID, made: Definition) -> Record | None:
        """The new schedule; None where the tenant has as many as it may."""
        return await self._database.within(self._add(tenant_id, schedule_id, made))

    async def _add(self, tenant_id: UUID, schedule_id: UUID, made: Definition) -> Record | None:
        async with self._database.as_tenant(tenant_id) as connection:
            await connection.execute(_COUNTING, str(tenant_id))
            row: Record | None = await connection.fetchrow(_ADD, schedule_id, tenant_id, *made.columns)
            await connection.execute(_RING)
            return row

    async def change(self, was: Record, made: Definition, *, afresh: bool) -> Changed | None:
        """Change it; None where it was changed or deleted since. `afresh`: it ticks at other times."""
        return await self._database.within(self._change(was, made, afresh))

    async def _change(self, was: Record, made: Definition, afresh: bool) -> Changed | None:
        async with self._database.as_tenant(was["tenant_id"]) as connection:
            before: Record | None = await connection.fetchrow(_BEFORE, was["schedule_id"])
            row: Record | None = await connection.fetchrow(
                _CHANGE, was["schedule_id"], was["tenant_id"], *made.columns, afresh, was["updated_at"]
            )
            await connection.execute(_RING)
            return Changed(row, before) if row is not None and before is not None else None

    async def delete(self, tenant_id: UUID, schedule_id: UUID) -> Record | None:
        """The schedule as it was the moment before; None where there was none."""
        rows = await self._database.within(self._rows(tenant_id, _DELETE, schedule_id))
        return rows[0] if rows else None

    async def find(self, tenant_id: UUID, schedule_id: UUID) -> Record | None:
        """One of the tenant's."""
        rows = await self._database.within(self._rows(tenant_id, _ONE, schedule_id))
        return rows[0] if rows else None

    async def page(self, tenant_id: UUID, before: UUID | None, limit: int) -> Sequence[Record]:
        """The tenant's, newest first."""
        return await self._database.within(self._rows(tenant_id, _PAGE, before, limit))

    async def ticks(self, tenant_id: UUID, schedule_ids: Sequence[UUID], limit: int) -> Sequence[Record]:
        """Of each the last so many ticks that are settled, newest first."""
        return await self._database.within(self._rows(tenant_id, _TICKS, schedule_ids, limit))

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
