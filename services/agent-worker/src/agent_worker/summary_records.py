"""SQL of the summaries of conversations."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from agent_worker.history import Exchange
from common import postgres
from common.postgres import Pool

_NEWEST = "SELECT upto, text FROM runtime.summary_for($1)"
_TURNS = "SELECT messages FROM runtime.turns_for($1, $2, $3, $4)"
_KEEP = "SELECT runtime.keep_summary($1, $2, $3, $4)"


@dataclass(frozen=True, slots=True)
class Summary:
    """What was said in a conversation's first exchanges, as many as `upto`."""

    upto: int
    text: str


class SummaryRecords:
    """Of the conversations of runs. Every method raises `StoreUnavailable` where PostgreSQL does not answer."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def newest(self, task_id: UUID) -> Summary | None:
        """The one that there is."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            row = await connection.fetchrow(_NEWEST, task_id)
        return None if row is None else Summary(row["upto"], row["text"])

    async def exchanges(self, task_id: UUID, after: int, upto: int, size: int) -> tuple[Exchange, ...]:
        """The newest exchanges of a range that have this size together at most, oldest first."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            rows = await connection.fetch(_TURNS, task_id, after, upto, size)
        return tuple(Exchange.read(row["messages"]) for row in reversed(rows))

    async def keep(self, task_id: UUID, fence: int, summary: Summary) -> None:
        """In the place of the one before; nothing where another worker has the run."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_KEEP, task_id, fence, summary.upto, summary.text)
