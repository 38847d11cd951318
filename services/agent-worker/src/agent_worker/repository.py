"""All SQL of the agent worker: calls of the functions in schema `runtime`.

What every run asks for goes in batches (see `batching`): one round trip and one commit for all that ask at the same
time. Rows are locked in the order of their ids, by tenant where balances are concerned, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from operator import attrgetter
from time import monotonic
from typing import Any, Literal, NamedTuple
from uuid import UUID

from asyncpg import Record

from agent_worker.batching import Batched
from agent_worker.history import Exchange, History
from agent_worker.lease import Lease
from agent_worker.leave import CallRequest, Leave
from agent_worker.obstacles import Obstacle, Pause
from agent_worker.proposals import Proposal, document_of, proposal_from
from agent_worker.summary_records import SummaryRecords
from common import postgres
from common.contracts import TaskSubmitted
from common.contracts.events import StreamEvent
from common.contracts.runs import TerminalStatus
from common.postgres import Pool

_ACQUIRE = """
SELECT a.* FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $8::bytea[], runtime.limits($3, $7))
  WITH ORDINALITY AS r (task_id, tenant_id, tier, agent, worker, message, cap, n)
CROSS JOIN LATERAL runtime.acquire(r.task_id, r.tenant_id, r.tier, r.worker, $1, r.cap, r.message, r.agent) AS a
ORDER BY r.n
"""
_RENEW = "SELECT task_id, cancel_requested FROM runtime.renew($1, $2, $3)"
_BEGIN_CALLS = (
    "SELECT * FROM runtime.begin_calls("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::numeric[], $16, $17)"
)
_FINISH = """
SELECT runtime.finish(r.task_id, r.fence, r.status, r.outcome, r.finished_at, r.turn::jsonb, r.turn_bytes)
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::bytea[], $5::timestamptz[], $6::text[], $7::bigint[])
  WITH ORDINALITY AS r (task_id, fence, status, outcome, finished_at, turn, turn_bytes, n) ORDER BY r.n
"""
_HISTORY = "SELECT number, messages FROM runtime.history($1, $2)"
_CUT_CALLS = "SELECT attempt_id, fence, step FROM runtime.cut_calls($1, $2)"
_NOTE_RECEIVED = "SELECT runtime.note_received($1, $2, $3, $4)"
_PAUSES = "SELECT scope, name, kill FROM runtime.pauses"
_RELEASE = "SELECT runtime.release($1, $2, $3, $4, $5, $6)"
_PARK = "SELECT runtime.park($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_BEGIN_TOOLS = "SELECT runtime.begin_tools($1, $2, $3, $4, $5)"
_NOTE_RESULT = "SELECT runtime.note_result($1, $2, $3, $4, $5)"


@dataclass(frozen=True, slots=True)
class SavedStep:
    """A finished step as it is stored; `last_seq` is the last event that still stands after it."""

    number: int
    fence: int
    last_seq: int
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What the attempt to acquire a run found."""

    decision: Literal["acquired", "finished", "leased", "parked", "full"]
    status: str
    fence: int
    attempts: int
    calls: int
    started_at: datetime | None
    finished_at: datetime | None
    lease_until: datetime | None
    cancel_requested: bool
    outcome: bytes | None
    steps: tuple[SavedStep, ...]
    lease: Lease
    parked_seconds: float = 0.0
    """How long it has been parked since it first began."""
    told: tuple[StreamEvent, ...] = ()
    """What the stream of a run that is parked is to say of it."""
    refusal: str | None = None
    """Why the run, which was acquired, is to be ended at once: its conversation's rules."""
    interrupted: tuple[UUID, ...] = ()
    """Runs of its conversation that were cancelled for one that is parked, and that are to be told."""
    deferrals: int = 0
    """How often it was left for later, as no model could be had."""
    alone: int = 0
    """Of the attempts those in a process that ran nothing else."""
    proposal: Proposal | None = None
    """The step that the run goes on with, where its model's part is done."""


class _Acquire(NamedTuple):
    task_id: UUID
    tenant_id: UUID
    tier: str
    agent: str
    worker: str
    takes_turns: bool
    message: bytes | None


class _BeginCall(NamedTuple):
    tenant_id: UUID
    task_id: UUID
    fence: int
    call: CallRequest
    saved: SavedStep | None


class _Finish(NamedTuple):
    task_id: UUID
    fence: int
    status: TerminalStatus
    outcome: bytes
    finished_at: datetime
    turn: str | None
    turn_bytes: int | None


# As `astuple`, which copies every value deeply: that took longer than all else that a worker does for a hold.
_asked_of = attrgetter(*(field.name for field in fields(CallRequest)))
# The locks of a batch are held until its commit: a few dozen runs give all that is to be gained.
_BATCH = 32


class RunRepository:
    """The runs of this process. Every method raises `StoreUnavailable` where PostgreSQL does not answer."""

    def __init__(self, pool: Pool, timeout: float, lease: timedelta) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lease = lease
        self.summaries = SummaryRecords(pool, timeout)
        self._acquiring = Batched(self._acquire, size=_BATCH, order=attrgetter("task_id"))
        self._beginning = Batched(self._begin_calls, size=_BATCH, order=attrgetter("tenant_id", "task_id"))
        self._finishing = Batched(self._finish, size=_BATCH, order=attrgetter("task_id"))

    async def acquire(self, task: TaskSubmitted, worker: str, message: bytes | None = None) -> Acquisition:
        """Take the run where nobody has it and nothing is in its way.

        With its message it is parked where something is; a task that names conditions cannot do without it. Without it
        the answer is `full`: to be asked again, with it.
        """
        asked = _Acquire(
            task.task_id,
            task.tenant_id,
            task.tier,
            task.agent,
            worker,
            message is not None and task.takes_turns,
            message,
        )
        return await self._acquiring.call(asked)

    async def _acquire(self, asked: Sequence[_Acquire]) -> list[Acquisition]:
        seconds, asked_at = self._lease.total_seconds(), monotonic()
        async with postgres.acquire(self._pool, self._timeout) as connection:
            rows = await connection.fetch(_ACQUIRE, self._lease, *_columns(asked))
        return [_acquisition(row, Lease(seconds, asked_at)) for row in rows]

    async def renew(self, held: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
        """Renew these runs' leases; by task id, whether its cancel was asked for. What is absent was lost."""
        tasks, fences = [task for task, _ in held], [fence for _, fence in held]
        async with postgres.acquire(self._pool, self._timeout) as connection:
            rows = await connection.fetch(_RENEW, tasks, fences, self._lease)
        return {row["task_id"]: row["cancel_requested"] for row in rows}

    async def begin_call(
        self, tenant_id: UUID, task_id: UUID, fence: int, call: CallRequest, saved: SavedStep | None
    ) -> Leave:
        """Check the fence, save the step before, take the hold: all or nothing."""
        return await self._beginning.call(_BeginCall(tenant_id, task_id, fence, call, saved))

    async def _begin_calls(self, asked: Sequence[_BeginCall]) -> list[Leave]:
        rows = [(a.tenant_id, a.task_id, a.fence, *_checkpoint_text(a.saved), *_asked_of(a.call)) for a in asked]
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return [Leave(**dict(row)) for row in await connection.fetch(_BEGIN_CALLS, *_columns(rows))]

    async def finish(
        self,
        task_id: UUID,
        fence: int,
        status: TerminalStatus,
        outcome: bytes,
        finished_at: datetime,
        exchange: Exchange | None = None,
    ) -> bool:
        """Decide the end of the run, with what it adds to its conversation; False where another has the fence."""
        turn = (None, None) if exchange is None else (postgres.to_json(exchange.document()), exchange.size)
        return await self._finishing.call(_Finish(task_id, fence, status, outcome, finished_at, *turn))

    async def _finish(self, asked: Sequence[_Finish]) -> list[bool]:
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return [bool(row[0]) for row in await connection.fetch(_FINISH, *_columns(asked))]

    async def history(self, task_id: UUID, size: int) -> History:
        """The newest exchanges of the run's conversation that have this size together at most."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            rows = await connection.fetch(_HISTORY, task_id, size)
        kept = [Exchange.read(row["messages"]) for row in reversed(rows) if row["messages"] is not None]
        # The newest that is left out comes last, without what it says. They are numbered from 1 on.
        return History(tuple(kept), rows[-1]["number"] if len(kept) < len(rows) else 0)

    async def release(self, task_id: UUID, fence: int, saved: SavedStep | None, *, deferred: bool = False) -> None:
        """Give the run back at once, with the step that is finished but not yet saved; deferred, it counts as such."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_RELEASE, task_id, fence, *_checkpoint(saved), deferred)

    async def park(
        self, task: TaskSubmitted, fence: int, obstacle: Obstacle, told: StreamEvent, saved: SavedStep | None
    ) -> bool:
        """Let the run wait without a slot, with the step that is finished but not yet saved; False where it was lost.

        `told` is the last event of the stream, durable already, that says so.
        """
        waiting = (obstacle.reason, obstacle.key, obstacle.wake_at, task.encode())
        event = [told.model_dump(mode="json", exclude={"fence"})]
        proposal = None if obstacle.proposal is None else document_of(obstacle.proposal, told.id)
        async with postgres.acquire(self._pool, self._timeout) as connection:
            values = (task.task_id, fence, *waiting, event, *_checkpoint(saved), proposal, obstacle.needs)
            return bool(await connection.fetchval(_PARK, *values))

    async def begin_tools(
        self, task_id: UUID, fence: int, step: int, indexes: Sequence[int], proposal: dict[str, Any] | None
    ) -> dict[int, dict[str, Any] | None] | None:
        """Note that these calls of a step will be made, with the step where it is not stored; what is known of those
        that are begun already, by their place. None where another has the fence."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            begun = await connection.fetchval(_BEGIN_TOOLS, task_id, fence, step, indexes, proposal)
        return None if begun is None else {call["index"]: call["result"] for call in begun}

    async def note_result(self, task_id: UUID, fence: int, step: int, index: int, result: dict[str, Any]) -> None:
        """What a call that was begun has come to."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_NOTE_RESULT, task_id, fence, step, index, result)

    async def cut_calls(self, task_id: UUID, fence: int) -> list[tuple[UUID, int, int]]:
        """Attempt, fence and step of the run's calls before this fence that nothing has resolved: of each the last."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return [tuple(row) for row in await connection.fetch(_CUT_CALLS, task_id, fence)]

    async def note_received(self, task_id: UUID, fence: int, attempt_id: UUID, received: dict[str, Any]) -> None:
        """Put down what was received of a call whose worker died, for billing to go by where its record never comes."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_NOTE_RECEIVED, task_id, fence, attempt_id, received)

    async def pauses(self) -> frozenset[Pause]:
        """What operators have paused."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return frozenset(Pause(**dict(row)) for row in await connection.fetch(_PAUSES))

    async def answers(self) -> bool:
        """Whether the database answers."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return bool(await connection.fetchval("SELECT true"))


def _checkpoint(saved: SavedStep | None) -> tuple[int | None, int | None, dict[str, Any] | None]:
    return (None, None, None) if saved is None else (saved.number, saved.last_seq, saved.state)


def _checkpoint_text(saved: SavedStep | None) -> tuple[int | None, int | None, str | None]:
    number, last_seq, state = _checkpoint(saved)
    return number, last_seq, None if state is None else postgres.to_json(state)


def _acquisition(row: Record, lease: Lease) -> Acquisition:
    steps = tuple(SavedStep(s["step"], s["fence"], s["last_seq"], s["state"]) for s in row["steps"] or ())
    told = tuple(StreamEvent(fence=row["fence"], **event) for event in row["told"] or ())
    interrupted = tuple(row["interrupted"] or ())
    proposal = None if row["proposal"] is None else proposal_from(row["proposal"])
    read = {"steps": steps, "told": told, "interrupted": interrupted, "proposal": proposal, "lease": lease}
    return Acquisition(**{**dict(row), **read})


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))
