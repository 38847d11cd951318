"""SQL on the plans of tenants: which one each has, and has had since when."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from gateway.database import Database

_HISTORY = """
SELECT t.plan AS present, h.plan, greatest(h.day, (t.created_at AT TIME ZONE t.time_zone)::date) AS first_day, h.since,
       h.set_by AS by, h.reason
FROM identity.tenants t JOIN identity.tenant_plans h USING (tenant_id)
WHERE t.tenant_id = $1 ORDER BY h.id DESC LIMIT $2
"""
_PUT = "SELECT identity.put_plan($1, $2, $3, $4)"


class UnknownPlanError(ValueError):
    """There is no such plan."""


class Plans:
    """Every method raises `StoreUnavailable` where PostgreSQL does not answer in time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_tenant(self, tenant_id: UUID, limit: int) -> dict[str, Any] | None:
        """The plan of a tenant, and the ones that it has had, the newest first; None: there is no such tenant."""
        return await self._database.within(self._of_tenant(tenant_id, limit))

    async def _of_tenant(self, tenant_id: UUID, limit: int) -> dict[str, Any] | None:
        async with self._database.as_tenant(tenant_id) as connection:
            rows = await connection.fetch(_HISTORY, tenant_id, limit)
        if not rows:
            return None
        history = [{name: row[name] for name in ("plan", "first_day", "since", "by", "reason")} for row in rows]
        return {"tenant_id": tenant_id, "plan": rows[0]["present"], "history": history}

    async def put(self, tenant_id: UUID, plan: str, *, by: str, reason: str) -> bool:
        """Give a tenant another plan. False where there is no such tenant. Raises `UnknownPlanError`."""
        try:
            return await self._database.within(self._put(tenant_id, plan, by, reason))
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownPlanError(plan) from error

    async def _put(self, *arguments: object) -> bool:
        async with self._database.statement() as connection:
            return bool(await connection.fetchval(_PUT, *arguments))
