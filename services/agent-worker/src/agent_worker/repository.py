"""All SQL of the agent worker: calls of the functions in schema `runtime`, each one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from common import postgres
from common.contracts.runs import TerminalStatus
from common.postgres import Pool

_ACQUIRE = "SELECT * FROM runtime.acquire($1, $2, $3, $4, $5)"
_RENEW = "SELECT task_id, cancel_requested FROM runtime.renew($1, $2, $3)"
_BEGIN_CALL = "SELECT * FROM runtime.begin_call($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
_FINISH = "SELECT runtime.finish($1, $2, $3, $4, $5)"
_RELEASE = "SELECT runtime.release($1, $2, $3, $4, $5)"


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

    decision: Literal["acquired", "finished", "leased"]
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


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One model call for which leave is asked."""

    attempt_id: UUID
    step: int
    call: int
    user_id: str | None
    provider: str
    model: str
    input_bound: int
    max_output_tokens: int
    run_cap: Decimal | None


@dataclass(frozen=True, slots=True)
class Leave:
    """The answer: held, or why not, with the scope and the amounts in US dollars that decided."""

    verdict: Literal["held", "fenced", "cancelled", "wait", "exceeded", "unpriced"]
    scope: str | None
    amount: Decimal | None
    cap: Decimal | None


class RunRepository:
    """The runs of this process. Every method raises `StoreUnavailable` where PostgreSQL does not answer."""

    def __init__(self, pool: Pool, timeout: float, lease: timedelta) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lease = lease

    async def acquire(self, task_id: UUID, tenant_id: UUID, tier: str, worker: str) -> Acquisition:
        """Take the run where nobody has it."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            row = await connection.fetchrow(_ACQUIRE, task_id, tenant_id, tier, worker, self._lease)
        assert row is not None  # noqa: S101 - a function with OUT parameters returns one row
        steps = tuple(SavedStep(s["step"], s["fence"], s["last_seq"], s["state"]) for s in row["steps"] or ())
        return Acquisition(**{**dict(row), "steps": steps})

    async def renew(self, held: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
        """Renew these runs' leases; by task id, whether its cancel was asked for. What is absent was lost."""
        tasks, fences = [task for task, _ in held], [fence for _, fence in held]
        async with postgres.acquire(self._pool, self._timeout) as connection:
            rows = await connection.fetch(_RENEW, tasks, fences, self._lease)
        return {row["task_id"]: row["cancel_requested"] for row in rows}

    async def begin_call(self, task_id: UUID, fence: int, call: CallRequest, saved: SavedStep | None) -> Leave:
        """Check the fence, save the step before, take the hold: one transaction."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            row = await connection.fetchrow(
                _BEGIN_CALL,
                task_id,
                fence,
                *_checkpoint(saved),
                call.attempt_id,
                call.step,
                call.call,
                call.user_id,
                call.provider,
                call.model,
                call.input_bound,
                call.max_output_tokens,
                call.run_cap,
            )
        assert row is not None  # noqa: S101 - as above
        return Leave(**dict(row))

    async def finish(
        self, task_id: UUID, fence: int, status: TerminalStatus, outcome: bytes, finished_at: datetime
    ) -> bool:
        """Decide the end of the run; False where another worker holds the fence."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            decided = await connection.fetchval(_FINISH, task_id, fence, status, outcome, finished_at)
        return bool(decided)

    async def release(self, task_id: UUID, fence: int, saved: SavedStep | None) -> None:
        """Give the run back at once, with the step that is finished but not yet saved."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_RELEASE, task_id, fence, *_checkpoint(saved))

    async def answers(self) -> bool:
        """Whether the database answers."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return bool(await connection.fetchval("SELECT true"))


def _checkpoint(saved: SavedStep | None) -> tuple[int | None, int | None, dict[str, Any] | None]:
    return (None, None, None) if saved is None else (saved.number, saved.last_seq, saved.state)
