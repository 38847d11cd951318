"""SQL on schedules and their ticks, over the waker's connection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg

from common.contracts import RunFinished
from common.scheduling import LANE_FULL, PUBLISHING

if TYPE_CHECKING:
    from common.postgres import Connection

KEPT_TICKS = 50

DUE = "SELECT * FROM runtime.due_schedules($1)"
# In the order of their keys; what was deleted meanwhile is not among them.
LOCK = """
SELECT schedule_id FROM runtime.schedules WHERE schedule_id = ANY ($1) ORDER BY schedule_id FOR NO KEY UPDATE
"""
# What its tenant has changed or deleted meanwhile waits no longer.
ANNOUNCE = """
UPDATE runtime.schedules s SET waiting = $4
FROM unnest($1::uuid[], $2::timestamptz[]) AS r (schedule_id, tick)
WHERE s.schedule_id = r.schedule_id AND s.next_at = r.tick AND s.waiting = $3
RETURNING s.schedule_id
"""
# What its tenant has changed meanwhile has another first tick, and keeps it.
ADVANCE = """
UPDATE runtime.schedules s
SET next_at = r.next_at, waiting = r.waiting, tried_at = r.tried_at, due_at = CASE WHEN r.waiting IS NULL THEN r.next_at
  WHEN r.next_at IS NOT NULL THEN clock_timestamp() + $6 * interval '1 second' END
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::timestamptz[])
  AS r (schedule_id, was, next_at, waiting, tried_at)
WHERE s.schedule_id = r.schedule_id AND s.next_at = r.was
"""
RECORD_TICKS = """
INSERT INTO runtime.ticks (schedule_id, tenant_id, tick_at, until, outcome, reason, task_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::uuid[])
ON CONFLICT (schedule_id, tick_at) DO NOTHING
"""
FORGET_TICKS = """
DELETE FROM runtime.ticks t USING (
  SELECT schedule_id, tick_at, row_number() OVER (PARTITION BY schedule_id ORDER BY tick_at DESC) AS n
  FROM runtime.ticks WHERE schedule_id = ANY ($1)) k
WHERE t.schedule_id = k.schedule_id AND t.tick_at = k.tick_at AND k.n > $2
"""
REFUSE = "SELECT runtime.refuse($1, $2, $3, $4, $5)"


class TickRow(NamedTuple):
    """A row of `runtime.ticks`."""

    schedule_id: UUID
    tenant_id: UUID
    tick_at: datetime
    until: datetime
    outcome: str
    reason: str | None
    task_id: UUID | None


class Advance(NamedTuple):
    """From which tick a schedule goes on to which, and what that one waits for, since when."""

    schedule_id: UUID
    was: datetime
    next_at: datetime | None
    waiting: str | None
    tried_at: datetime | None


async def due(connection: Connection, limit: int) -> list[asyncpg.Record]:
    """Schedules to look at, the longest due first."""
    return list(await connection.fetch(DUE, limit))


async def announce(connection: Connection, schedules: Sequence[asyncpg.Record]) -> set[UUID]:
    """Say that these are published now, which their lanes have refused; those of them that still wait for that."""
    ids, ticks = [one["schedule_id"] for one in schedules], [one["next_at"] for one in schedules]
    return {row["schedule_id"] for row in await connection.fetch(ANNOUNCE, ids, ticks, LANE_FULL, PUBLISHING)}


async def lock(connection: Connection, schedule_ids: Sequence[UUID]) -> set[UUID]:
    """Those of them that there are, for the rest of the transaction."""
    return {row["schedule_id"] for row in await connection.fetch(LOCK, schedule_ids)}


async def advance(connection: Connection, steps: Sequence[Advance], retry_seconds: float) -> None:
    """Go on to these ticks; those that wait for something are looked at again after so many seconds."""
    await connection.execute(ADVANCE, *zip(*steps, strict=True), retry_seconds)


async def record_ticks(connection: Connection, ticks: Sequence[TickRow]) -> None:
    """Each once; of a schedule the last ones are kept."""
    if ticks:
        await connection.execute(RECORD_TICKS, *zip(*ticks, strict=True))
        await connection.execute(FORGET_TICKS, [tick.schedule_id for tick in ticks], KEPT_TICKS)


async def refuse(connection: Connection, end: RunFinished) -> None:
    """End a task that was never taken from its lane."""
    await connection.execute(REFUSE, end.task_id, end.tenant_id, end.tier, end.encode(), end.finished_at)
