"""SQL on holds that went in doubt, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.views import plain

_DOUBTS = "SELECT * FROM billing.doubts($1, $2, $3, $4, $5)"


@dataclass(frozen=True, slots=True)
class Place:
    """One in the order, which is by when they went in doubt."""

    doubted_at: datetime
    attempt_id: UUID


class Doubts:
    """Reads them. Raises `StoreUnavailable` where PostgreSQL does not answer in time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def listed(
        self, tenant_id: UUID | None, resolved: bool | None, before: Place | None, limit: int
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """The newest first, of one tenant or of all; and the place of the last, where there are more."""
        rows = await self._database.within(self._listed(tenant_id, resolved, before, limit + 1))
        shown = rows[:limit]
        last = Place(shown[-1]["doubted_at"], shown[-1]["attempt_id"]) if len(rows) > limit else None
        return [_doubt(row) for row in shown], last

    async def _listed(
        self, tenant_id: UUID | None, resolved: bool | None, before: Place | None, limit: int
    ) -> list[Record]:
        place = (before.doubted_at, before.attempt_id) if before else (None, None)
        async with self._database.statement() as connection:
            return list(await connection.fetch(_DOUBTS, tenant_id, resolved, *place, limit))


def _doubt(row: Record) -> dict[str, Any]:
    named = ("attempt_id", "tenant_id", "task_id", "user_id", "provider", "model", "opened_at", "doubted_at")
    charged = row["charged"]
    resolution = None if row["resolved_at"] is None else "voided" if charged is None else "settled"
    return {name: row[name] for name in named} | {
        "amount_usd": plain(row["amount"]),
        "resolution": resolution,
        "policy": row["policy"],
        "charged_usd": None if charged is None else plain(charged),
        "resolved_at": row["resolved_at"],
    }
