"""SQL on batches. A batch is its tasks: their ids follow from its own, so all of them are found, recorded or not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from asyncpg import Record

from common.batches import batch_key
from common.contracts.runs import TERMINAL
from common.pipelining import Pipelined
from gateway.batch_tickets import moment, task_ids
from gateway.database import Database
from gateway.tasks import VIEW

# What is true of each task, from whichever of its records is furthest; none where nobody has recorded it.
_STATUS = "CASE WHEN t.status <> 'queued' THEN t.status ELSE coalesce(r.status, t.status) END"
_HEAD = """
SELECT batch_size, batch_index, submitted_at FROM history.tasks WHERE batch_id = $1 AND submitted_at IS NOT NULL LIMIT 1
"""
_RECORDED = f"""
SELECT t.batch_index, t.batch_size, t.request_hash, t.submitted_at, {_STATUS} <> 'queued' AS taken
FROM history.tasks t LEFT JOIN runtime.runs r ON r.task_id = t.task_id
WHERE t.batch_id = $1 AND t.submitted_at IS NOT NULL
"""  # noqa: S608 - made of constants
_COUNTS = f"""
SELECT coalesce({_STATUS}, 'unrecorded') AS status, count(*) AS tasks
FROM unnest($1::uuid[]) q (task_id)
LEFT JOIN history.tasks t ON t.task_id = q.task_id LEFT JOIN runtime.runs r ON r.task_id = q.task_id
GROUP BY 1
"""  # noqa: S608 - made of constants
_COST = """
SELECT coalesce(sum(u.charge), 0) AS charged,
       EXISTS (SELECT FROM billing.holds h WHERE h.task_id = ANY ($1) AND h.state = 'open') AS unsettled
FROM billing.usage u WHERE u.task_id = ANY ($1)
"""
_MOVED = f"""
SELECT q.place, {_STATUS} AS status, coalesce(t.started_at, r.started_at) AS started_at
FROM unnest($1::uuid[], $2::integer[]) q (task_id, place)
LEFT JOIN history.tasks t ON t.task_id = q.task_id LEFT JOIN runtime.runs r ON r.task_id = q.task_id
WHERE {_STATUS} NOT IN ('queued', 'parked') OR r.started_at IS NOT NULL
ORDER BY q.place
"""  # noqa: S608 - made of constants
_VIEWS = f"""{VIEW}, q.place
FROM unnest($1::uuid[]) WITH ORDINALITY q (task_id, place)
LEFT JOIN history.tasks t ON t.task_id = q.task_id
LEFT JOIN runtime.runs r ON r.task_id = q.task_id
LEFT JOIN runtime.parked w ON w.task_id = q.task_id
WHERE t.task_id IS NOT NULL OR r.task_id IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that exists."""

    id: UUID
    tenant_id: UUID
    size: int
    submitted_at: datetime

    @property
    def task_ids(self) -> tuple[UUID, ...]:
        """Those of all its tasks, in their order."""
        return task_ids(self.id, self.size)


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """A task of a batch as it was recorded."""

    size: int
    request_hash: str
    batch_submitted_at: datetime
    taken: bool
    """As of `tasks.Submitted`."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A task that is no longer just queued."""

    place: int
    status: str
    started_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in TERMINAL


class Batches:
    """Reads batches. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database, redis: Pipelined) -> None:
        self._database = database
        self._redis = redis

    async def find(self, tenant_id: UUID, batch_id: UUID) -> Batch | None:
        """The batch, from the record or, before anything of it is recorded, from what was answered.

        Raises `CacheUnavailable` too: then nobody can say that there is no such batch.
        """
        rows = await self._rows(tenant_id, _HEAD, batch_id)
        if rows:
            row = rows[0]
            return Batch(batch_id, tenant_id, row["batch_size"], moment(row["submitted_at"], -row["batch_index"]))
        size, at = await self._redis.execute("HMGET", batch_key(tenant_id, batch_id), "size", "at")
        return Batch(batch_id, tenant_id, int(size), datetime.fromisoformat(at.decode())) if size else None

    async def recorded(self, tenant_id: UUID, batch_id: UUID) -> dict[int, RecordedTask]:
        """What is recorded of a batch's submission, by the tasks' places."""
        return {
            row["batch_index"]: RecordedTask(
                row["batch_size"],
                row["request_hash"],
                moment(row["submitted_at"], -row["batch_index"]),
                row["taken"],
            )
            for row in await self._rows(tenant_id, _RECORDED, batch_id)
        }

    async def counts(self, batch: Batch, without: Collection[UUID] = ()) -> dict[str, int]:
        """How many tasks have which status, those aside that are named."""
        counted = [task_id for task_id in batch.task_ids if task_id not in without]
        rows = await self._rows(batch.tenant_id, _COUNTS, counted)
        return {row["status"]: row["tasks"] for row in rows}

    async def cost(self, batch: Batch) -> tuple[Decimal, bool]:
        """What is charged so far, and whether a call is not settled yet."""
        (row,) = await self._rows(batch.tenant_id, _COST, batch.task_ids)
        return row["charged"], row["unsettled"]

    async def moved(self, batch: Batch, places: Sequence[int]) -> list[Moved]:
        """Those of the tasks that a worker has begun, or that have ended, in the order of the batch."""
        ids = [batch.task_ids[place] for place in places]
        rows = await self._rows(batch.tenant_id, _MOVED, ids, list(places))
        return [Moved(row["place"], row["status"], row["started_at"]) for row in rows]

    async def views(self, batch: Batch, places: Sequence[int]) -> dict[int, Record]:
        """All there is to show of these tasks, by place; nothing of what nobody has recorded."""
        ids = [batch.task_ids[place] for place in places]
        rows = await self._rows(batch.tenant_id, _VIEWS, ids)
        return {places[row["place"] - 1]: row for row in rows}

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        return await self._database.within(self._fetch(tenant_id, statement, *arguments))

    async def _fetch(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
