"""SQL on tasks: as recorded in `history`, as running in `runtime`, as charged in `billing`; read as their tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from asyncpg import Record

from common.contracts import RunFinished
from common.contracts.events import EventId
from gateway.database import Database
from gateway.tickets import answer

# A retry is answered soon, or without the database.
_CHECK_SECONDS = 1.0

_SUBMITTED = """
SELECT t.tier, t.request_hash, t.submitted_at,
       CASE WHEN t.status = 'queued' THEN coalesce(r.status, 'queued') ELSE t.status END AS status
FROM history.tasks t LEFT JOIN runtime.runs r ON r.task_id = t.task_id
WHERE t.task_id = $1
"""

# What is charged is told once every call of a finished task is accounted for. A hold in doubt is not waited for: its
# worker died in the call, and unless the record turns up after all the platform pays for it.
VIEW = """
SELECT q.task_id, coalesce(t.tenant_id, r.tenant_id) AS tenant_id,
       coalesce(t.tier, r.tier) AS tier, t.status AS recorded_status, r.status AS run_status, r.outcome,
       t.user_id, t.conversation_id, t.priority, t.level, t.agent, t.metadata, t.submitted_at, t.output,
       t.error_type, t.error_message, t.usage,
       t.steps, coalesce(t.attempts, r.attempts) AS attempts, coalesce(t.model, t.requested_model) AS model,
       t.routing, t.fallbacks, t.structured, t.cached, r.progress,
       coalesce(t.started_at, r.started_at) AS started_at, coalesce(t.finished_at, r.finished_at) AS finished_at,
       w.reason AS parked_reason, w.wake_at AS parked_until, nullif(w.key, '') AS parked_key,
       CASE WHEN w.reason = 'approval' AND w.ready_at IS NULL THEN (
         SELECT jsonb_agg(jsonb_build_object('call_id', a.call_id, 'tool', a.tool, 'arguments', a.arguments)
                          ORDER BY a.index)
         FROM runtime.approvals a WHERE a.task_id = q.task_id AND a.decision IS NULL) END AS parked_calls,
       (SELECT coalesce(sum(u.charge), 0) FROM billing.usage u WHERE u.task_id = q.task_id) AS charged,
       EXISTS (SELECT FROM billing.holds h WHERE h.task_id = q.task_id AND h.state = 'open') AS unsettled
"""
_ONE = f"""{VIEW}
FROM (SELECT $1::uuid AS task_id) q
LEFT JOIN history.tasks t ON t.task_id = q.task_id
LEFT JOIN runtime.runs r ON r.task_id = q.task_id
LEFT JOIN runtime.parked w ON w.task_id = q.task_id
WHERE t.task_id IS NOT NULL OR r.task_id IS NOT NULL
"""
# Both reads look at the true end first: the run may have ended before that was recorded.
_PAGE = f"""{VIEW}
FROM history.tasks q JOIN history.tasks t ON t.task_id = q.task_id
LEFT JOIN runtime.runs r ON r.task_id = q.task_id
LEFT JOIN runtime.parked w ON w.task_id = q.task_id
WHERE q.submitted_at IS NOT NULL
  AND ($1::timestamptz IS NULL OR (q.submitted_at, q.task_id) < ($1, $2::uuid))
  AND $3::text IS NULL AND ($4::text IS NULL OR q.tier = $4)
ORDER BY q.submitted_at DESC, q.task_id DESC LIMIT $5
"""
# Of one status: what is recorded with it, and of what is recorded as queued that whose run has it. Each part has its
# index, so that a status which is rare is not looked for among all the others.
_PAGE_OF_STATUS = f"""{VIEW}
FROM (
  (SELECT task_id, submitted_at FROM history.tasks
   WHERE status = $3::text AND status <> 'queued' AND submitted_at IS NOT NULL
     AND ($1::timestamptz IS NULL OR (submitted_at, task_id) < ($1, $2::uuid)) AND ($4::text IS NULL OR tier = $4)
   ORDER BY submitted_at DESC, task_id DESC LIMIT $5)
  UNION ALL
  (SELECT o.task_id, o.submitted_at FROM history.tasks o LEFT JOIN runtime.runs x ON x.task_id = o.task_id
   WHERE o.status = 'queued' AND coalesce(x.status, 'queued') = $3 AND o.submitted_at IS NOT NULL
     AND ($1::timestamptz IS NULL OR (o.submitted_at, o.task_id) < ($1, $2::uuid)) AND ($4::text IS NULL OR o.tier = $4)
   ORDER BY o.submitted_at DESC, o.task_id DESC LIMIT $5)
) q JOIN history.tasks t ON t.task_id = q.task_id
LEFT JOIN runtime.runs r ON r.task_id = q.task_id
LEFT JOIN runtime.parked w ON w.task_id = q.task_id
ORDER BY q.submitted_at DESC, q.task_id DESC LIMIT $5
"""  # noqa: S608 - made of constants

_STATE = """
SELECT coalesce(t.tier, r.tier) AS tier, t.priority, t.status AS recorded_status, r.status AS run_status,
       r.fence, r.attempts, r.outcome, t.submitted_at, coalesce(r.finished_at, t.finished_at) AS finished_at
FROM (SELECT $1::uuid AS task_id) q
LEFT JOIN history.tasks t ON t.task_id = q.task_id
LEFT JOIN runtime.runs r ON r.task_id = q.task_id
WHERE t.task_id IS NOT NULL OR r.task_id IS NOT NULL
"""
_CANCEL = "SELECT status, fence, decided FROM runtime.cancel($1, $2, $3)"
_REFUSE = "SELECT runtime.refuse($1, $2, $3, $4, $5)"
_REFUSE_EACH = "SELECT runtime.refuse_each($1, $2, $3, $4, $5)"
_EVENTS = """
SELECT fence, seq, type, at, data FROM history.events
WHERE task_id = $1 AND (fence, seq) > ($2, $3) AND at BETWEEN $5 AND $6 ORDER BY fence, seq LIMIT $4
"""
# Between the clocks of two machines, with much to spare.
_CLOCKS_APART = timedelta(days=1)
_BEFORE_ALL, _AFTER_ALL = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
_TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submission as it was recorded."""

    request_hash: str | None
    answer: bytes
    taken: bool
    """Whether it was ever taken from its lane, or ended: only then it is sure that its lane had it."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a task is, by the record and by the run; a run ends before its end is recorded."""

    tier: str
    priority: int | None
    recorded_status: str | None
    run_status: str | None
    fence: int
    outcome: bytes | None
    submitted_at: datetime | None
    finished_at: datetime | None

    @property
    def period(self) -> tuple[datetime, datetime]:
        """In which all its events are, by whichever clock: the record's partitions are by time."""
        begin = self.submitted_at - _CLOCKS_APART if self.submitted_at else _BEFORE_ALL
        return begin, self.finished_at + _CLOCKS_APART if self.ended and self.finished_at else _AFTER_ALL

    @property
    def recorded(self) -> bool:
        """Whether the end is in `history`, and with it every event."""
        return self.recorded_status in _TERMINAL

    @property
    def status(self) -> str:
        """The truth of this moment."""
        if self.recorded_status in _TERMINAL:
            return str(self.recorded_status)
        return self.run_status or "queued"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _TERMINAL


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What `runtime.cancel` says."""

    status: str
    fence: int
    decided: bool


class Tasks:
    """Reads tasks and cancels them. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submitted(self, tenant_id: UUID, task_id: UUID) -> Submitted | None:
        """The submission of a task, where it is recorded."""
        row = await self._database.within(self._row(tenant_id, _SUBMITTED, task_id), _CHECK_SECONDS)
        if row is None or row["submitted_at"] is None:
            return None
        status = row["status"]
        again = answer(task_id, row["tier"], status, row["submitted_at"])
        return Submitted(row["request_hash"], again, taken=status != "queued")

    async def view(self, tenant_id: UUID, task_id: UUID) -> Record | None:
        """All there is to show of a task."""
        return await self._database.within(self._row(tenant_id, _ONE, task_id))

    async def page(
        self,
        tenant_id: UUID,
        *,
        before: tuple[datetime, UUID] | None,
        status: str | None,
        tier: str | None,
        limit: int,
    ) -> Sequence[Record]:
        """Tasks, newest first, from those submitted before a place in that order."""
        at, task_id = before or (None, None)
        statement = _PAGE if status is None else _PAGE_OF_STATUS
        return await self._database.within(self._rows(tenant_id, statement, at, task_id, status, tier, limit))

    async def state(self, tenant_id: UUID, task_id: UUID) -> State | None:
        """How far the task is; None where neither a record nor a run is known."""
        row = await self._database.within(self._row(tenant_id, _STATE, task_id))
        if row is None:
            return None
        return State(
            row["tier"],
            row["priority"],
            row["recorded_status"],
            row["run_status"],
            row["fence"] or 1,
            row["outcome"],
            row["submitted_at"],
            row["finished_at"],
        )

    async def cancel(self, tenant_id: UUID, task_id: UUID, tier: str) -> Cancelled:
        """Cancel a task that is known to exist."""
        row = await self._database.within(self._row(tenant_id, _CANCEL, task_id, tenant_id, tier))
        assert row is not None  # noqa: S101 - a function always answers
        return Cancelled(row["status"], row["fence"], row["decided"])

    async def refuse(self, tenant_id: UUID, end: RunFinished) -> None:
        """End a task that its lane refused, unless it has a run all the same."""
        arguments = (end.task_id, tenant_id, end.tier, end.encode(), end.finished_at)
        await self._database.within(self._row(tenant_id, _REFUSE, *arguments))

    async def refuse_each(self, tenant_id: UUID, ends: Sequence[RunFinished]) -> None:
        """As `refuse`, of many tasks at once."""
        tasks, tiers, outcomes = zip(*((end.task_id, end.tier, end.encode()) for end in ends), strict=True)
        arguments = (tasks, tenant_id, tiers, outcomes, ends[0].finished_at)
        await self._database.within(self._row(tenant_id, _REFUSE_EACH, *arguments))

    async def events(
        self, tenant_id: UUID, task_id: UUID, after: EventId, limit: int, state: State | None
    ) -> Sequence[Record]:
        """Recorded events after an id, in their order."""
        begin, end = state.period if state is not None else (_BEFORE_ALL, _AFTER_ALL)
        arguments = (task_id, after.fence, after.seq, limit, begin, end)
        return await self._database.within(self._rows(tenant_id, _EVENTS, *arguments))

    async def _row(self, tenant_id: UUID, statement: str, *arguments: object) -> Record | None:
        async with self._database.as_tenant(tenant_id) as connection:
            row: Record | None = await connection.fetchrow(statement, *arguments)
            return row

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
