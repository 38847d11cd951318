"""SQL on cancels of many tasks: written down first, then carried out part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from common.ending import Swept
from gateway.database import Database

_BEGIN = "SELECT runtime.begin_cancellation($1, $2, $3, $4, $5, $6, $7)"
_SWEEP = "SELECT * FROM runtime.sweep($1, $2)"
_SWEPT = "SELECT swept_at IS NOT NULL FROM runtime.cancellations WHERE cancellation_id = $1"


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Which tasks are to be cancelled: a tenant's that were submitted until a moment, as far as the filters fit."""

    id: UUID
    tenant_id: UUID
    as_of: datetime
    status: str | None = None
    batch_id: UUID | None = None
    metadata: Mapping[str, str] | None = None
    conversation_id: UUID | None = None


class CancellationRecords:
    """Writes cancels down and carries them out. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, cancellation: Cancellation) -> None:
        """Make it durable: from now on it will be carried out, whoever is there to do it."""
        await self._database.within(self._begin(cancellation))

    async def _begin(self, asked: Cancellation) -> None:
        async with self._database.as_tenant(asked.tenant_id) as connection:
            metadata = None if asked.metadata is None else dict(asked.metadata)
            which = (asked.status, asked.batch_id, metadata, asked.conversation_id)
            await connection.execute(_BEGIN, asked.id, asked.tenant_id, asked.as_of, *which)

    async def sweep(self, cancellation: Cancellation, limit: int) -> tuple[list[Swept], bool]:
        """Cancel the next tasks, in one transaction; whether that was all of what is recorded."""
        return await self._database.within(self._sweep(cancellation, limit))

    async def _sweep(self, asked: Cancellation, limit: int) -> tuple[list[Swept], bool]:
        async with self._database.as_tenant(asked.tenant_id) as connection:
            swept = [Swept(**dict(row)) for row in await connection.fetch(_SWEEP, asked.id, limit)]
            return swept, bool(await connection.fetchval(_SWEPT, asked.id))
