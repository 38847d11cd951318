"""SQL on `runtime.pauses`: what operators have stopped, and the log of it."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import structlog

from common.contracts import PausesChanged
from common.errors import BrokerUnavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import CONTROL
from gateway.database import Database

_log = structlog.get_logger(__name__)

Scope = Literal["everything", "tier", "tenant", "agent"]

_PAUSES = "SELECT scope, name, kill, set_by, reason, set_at FROM runtime.pauses ORDER BY set_at"
_LOG = "SELECT at, action, scope, name, set_by, reason FROM runtime.pause_log ORDER BY id DESC LIMIT $1"
_PAUSE = "SELECT scope, name, kill, set_by, reason, set_at FROM runtime.pause($1, $2, $3, $4, $5)"
_RESUME = "SELECT runtime.resume($1, $2, $3, $4)"
_TENANT = "SELECT EXISTS (SELECT FROM identity.tenants WHERE tenant_id = $1)"
# A bell is no task: any id will do that is the same each time.
_SUBJECT = UUID(int=0)


class Pauses:
    """What is paused. Every call raises `StoreUnavailable` where PostgreSQL does not answer in time."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher

    async def current(self) -> list[dict[str, Any]]:
        """What is paused now, the oldest first."""
        return await self._database.within(self._rows(_PAUSES))

    async def log(self, limit: int) -> list[dict[str, Any]]:
        """What was paused and resumed, the newest first."""
        return await self._database.within(self._rows(_LOG, limit))

    async def pause(self, scope: Scope, name: str, *, kill: bool, by: str, reason: str) -> dict[str, Any]:
        """Pause; with `kill` stop and park what runs, too. The pause as it stands now."""
        [made] = await self._database.within(self._rows(_PAUSE, scope, name, kill, by, reason))
        await self._ring()
        return made

    async def resume(self, scope: Scope, name: str, *, by: str, reason: str) -> bool:
        """End a pause; False where there is none."""
        [row] = await self._database.within(self._rows(_RESUME, scope, name, by, reason))
        await self._ring()
        return bool(row["resume"])

    async def tenant_exists(self, tenant_id: UUID) -> bool:
        """Whether there is such a tenant."""
        return await self._database.within(self._tenant_exists(tenant_id))

    async def _tenant_exists(self, tenant_id: UUID) -> bool:
        async with self._database.as_tenant(tenant_id) as connection:
            return bool(await connection.fetchval(_TENANT, tenant_id))

    async def _rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        async with self._database.statement() as connection:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]

    async def _ring(self) -> None:
        """Tell the workers. One that does not hear it looks by itself, each second."""
        try:
            await self._publisher.publish(CONTROL, "", PausesChanged(), subject=_SUBJECT, stable_id="pauses")
        except BrokerUnavailable as error:
            _log.info("pauses.untold", error=repr(error))
