"""SQL on approvals: what waits for a decision, and deciding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.database import Database

_DECIDE = "SELECT * FROM runtime.decide($1, $2, $3, $4, $5, $6, $7, $8)"
_LISTED = """
SELECT a.call_id, a.step, a.tool, a.arguments, a.decision, a.changed_arguments, a.reason, a.user_id, a.decided_by,
       a.decided_at, p.proposed_at, p.expires_at, p.on_timeout
FROM runtime.approvals a JOIN runtime.proposals p USING (task_id, step)
WHERE a.task_id = $1 ORDER BY a.step, a.index
"""
_SCHEMA = """
SELECT schema FROM runtime.approvals WHERE task_id = $1 AND call_id = $2 ORDER BY step DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided on one call."""

    call_id: str
    decision: str
    arguments: dict[str, Any] | None
    reason: str | None
    user_id: str | None
    by: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """What `runtime.decide` says; the decision is the one that counts, whoever made it."""

    verdict: str
    decision: str | None
    decided_by: str | None
    decided_at: datetime | None


class Approvals:
    """Reads and decides. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def decide(self, tenant_id: UUID, task_id: UUID, asked: Decision) -> Ruling:
        """Decide, where the call waits and nobody has."""
        what = (asked.call_id, asked.decision, asked.arguments, asked.reason, asked.user_id, asked.by)
        row = await self._database.within(self._row(tenant_id, _DECIDE, task_id, tenant_id, *what))
        assert row is not None  # noqa: S101 - a function always answers
        return Ruling(**dict(row))

    async def schema(self, tenant_id: UUID, task_id: UUID, call_id: str) -> dict[str, Any] | None:
        """What the call's arguments are held against; None where there is no such call."""
        row = await self._database.within(self._row(tenant_id, _SCHEMA, task_id, call_id))
        return None if row is None else dict(row["schema"])

    async def listed(self, tenant_id: UUID, task_id: UUID) -> Sequence[Record]:
        """All calls of the task that waited, or wait, for a decision."""
        return await self._database.within(self._rows(tenant_id, task_id))

    async def _row(self, tenant_id: UUID, statement: str, *arguments: object) -> Record | None:
        async with self._database.as_tenant(tenant_id) as connection:
            row: Record | None = await connection.fetchrow(statement, *arguments)
            return row

    async def _rows(self, tenant_id: UUID, task_id: UUID) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(_LISTED, task_id)
            return rows
