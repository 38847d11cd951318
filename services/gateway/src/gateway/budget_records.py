"""SQL on budgets: what is in force for a tenant and what is spent of it, and what operators have set in its place."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import asyncpg

from common.errors import PoisonError
from gateway.database import Database
from gateway.views import plain

Scope = Literal["conversation", "run", "tenant_day", "tenant_month", "user_day"]
OF_TENANT: tuple[Scope, ...] = ("tenant_day", "tenant_month")
OF_MANY: tuple[Scope, ...] = ("conversation", "run", "user_day")

_ZONE = "SELECT time_zone FROM identity.tenants WHERE tenant_id = $1"
_IN_FORCE = """
SELECT a.scope, a.subject, c.cap, c.source, coalesce(b.held, 0) AS held, coalesce(b.charged, 0) AS charged,
       p.begins_at, p.ends_at,
       ARRAY(SELECT w.threshold FROM billing.budget_warnings w WHERE w.tenant_id = $1 AND w.scope = a.scope
             AND w.subject = a.subject AND w.period = d.period ORDER BY w.threshold) AS warned
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS a (scope, subject, n)
CROSS JOIN LATERAL (SELECT billing.day_at($1, clock_timestamp()) AS today) AS t
CROSS JOIN LATERAL (SELECT CASE a.scope WHEN 'tenant_month' THEN date_trunc('month', t.today)::date
  WHEN 'tenant_day' THEN t.today WHEN 'user_day' THEN t.today ELSE 'epoch' END AS period) AS d
CROSS JOIN LATERAL billing.cap_of($1, a.scope, a.subject) AS c
CROSS JOIN LATERAL billing.period_of($1, a.scope, d.period) AS p
LEFT JOIN billing.balances b ON b.tenant_id = $1 AND b.scope = a.scope AND b.subject = a.subject AND b.period = d.period
ORDER BY a.n
"""
# Of a scope with many subjects: those that have used something in the period that it is, or have a cap of their own.
_SUBJECTS = """
SELECT subject FROM (
  (SELECT b.subject FROM billing.balances b
   WHERE b.tenant_id = $1 AND b.scope = $2 AND b.subject > $3
     AND b.period = CASE $2 WHEN 'user_day' THEN billing.day_at($1, clock_timestamp()) ELSE 'epoch' END
   ORDER BY b.subject LIMIT $4)
  UNION
  (SELECT o.subject FROM billing.budgets o WHERE o.tenant_id = $1 AND o.scope = $2 AND o.subject > $3
   ORDER BY o.subject LIMIT $4)) AS s ORDER BY subject LIMIT $4
"""
_OVERRIDES = """
SELECT scope, nullif(subject, '') AS subject, cap AS cap_usd, set_by AS by, reason, set_at FROM billing.budgets
WHERE tenant_id = $1 ORDER BY scope, subject LIMIT $2
"""
_LOG = """
SELECT at, action, scope, nullif(subject, '') AS subject, old_value AS old, new_value AS new, set_by AS by, reason
FROM billing.budget_log WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2
"""
_PUT = "SELECT billing.put_budget($1, $2, $3, $4::numeric, $5, $6)"
_PUT_ZONE = "SELECT billing.put_time_zone($1, $2, $3, $4)"
_BURNING = "SELECT * FROM billing.burning() ORDER BY used_up_at, tenant_id"


class UnknownZoneError(ValueError):
    """PostgreSQL knows no such time zone."""


class Budgets:
    """Reads and changes budgets. Every method raises `StoreUnavailable` where PostgreSQL does not answer in time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_tenant(self, tenant_id: UUID) -> dict[str, Any] | None:
        """The tenant's own budgets, and what each run, user and conversation has; None: there is no such tenant."""
        asked = [(scope, "") for scope in (*OF_TENANT, *OF_MANY)]
        found = await self._database.within(self._in_force(tenant_id, asked))
        if found is None:
            return None
        zone, rows = found
        shown = [_each(row) if row["scope"] in OF_MANY else _budget(row) for row in rows]
        return {"time_zone": zone, "budgets": shown, "next": None}

    async def of_scope(
        self, tenant_id: UUID, scope: Scope, subject: str | None, after: str, limit: int
    ) -> dict[str, Any] | None:
        """The budgets of one subject, or of all that have used something; None: there is no such tenant."""
        found = await self._database.within(self._of_scope(tenant_id, scope, subject, after, limit))
        if found is None:
            return None
        zone, rows = found
        last = rows[-1]["subject"] if subject is None and len(rows) == limit else None
        return {"time_zone": zone, "budgets": [_budget(row) for row in rows], "next": last}

    async def _of_scope(
        self, tenant_id: UUID, scope: Scope, subject: str | None, after: str, limit: int
    ) -> tuple[str, list[Any]] | None:
        subjects = [subject]
        if subject is None:
            async with self._database.as_tenant(tenant_id) as connection:
                subjects = [r["subject"] for r in await connection.fetch(_SUBJECTS, tenant_id, scope, after, limit)]
        return await self._in_force(tenant_id, [(scope, one or "") for one in subjects])

    async def _in_force(self, tenant_id: UUID, asked: list[tuple[Scope, str]]) -> tuple[str, list[Any]] | None:
        scopes, subjects = [scope for scope, _ in asked], [subject for _, subject in asked]
        async with self._database.as_tenant(tenant_id) as connection:
            zone: str | None = await connection.fetchval(_ZONE, tenant_id)
            if zone is None:
                return None
            return zone, list(await connection.fetch(_IN_FORCE, tenant_id, scopes, subjects))

    async def overrides(self, tenant_id: UUID, limit: int) -> list[dict[str, Any]]:
        """What operators have set, by scope and subject."""
        rows = await self._database.within(self._rows(tenant_id, _OVERRIDES, limit))
        return [{**row, "cap_usd": plain(row["cap_usd"])} for row in rows]

    async def log(self, tenant_id: UUID, limit: int) -> list[dict[str, Any]]:
        """What operators have changed, the newest first."""
        return await self._database.within(self._rows(tenant_id, _LOG, limit))

    async def _rows(self, tenant_id: UUID, statement: str, limit: int) -> list[dict[str, Any]]:
        async with self._database.as_tenant(tenant_id) as connection:
            return [dict(row) for row in await connection.fetch(statement, tenant_id, limit)]

    async def put(
        self, tenant_id: UUID, scope: Scope, subject: str, cap: Decimal | None, *, by: str, reason: str
    ) -> bool:
        """Set an override, or remove it (None). False where there is no such tenant, or nothing to remove."""
        return await self._database.within(self._changed(_PUT, tenant_id, scope, subject, cap, by, reason))

    async def put_time_zone(self, tenant_id: UUID, zone: str, *, by: str, reason: str) -> bool:
        """False where there is no such tenant. Raises `UnknownZoneError`."""
        try:
            return await self._database.within(self._changed(_PUT_ZONE, tenant_id, zone, by, reason))
        except PoisonError as error:
            if isinstance(error.__cause__, asyncpg.InvalidParameterValueError):
                raise UnknownZoneError(zone) from error
            raise

    async def _changed(self, statement: str, *arguments: object) -> bool:
        async with self._database.statement() as connection:
            return bool(await connection.fetchval(statement, *arguments))

    async def burning(self) -> list[dict[str, Any]]:
        """Tenants that would use up their month before it ends, the first to do so first."""
        return await self._database.within(self._burning())

    async def _burning(self) -> list[dict[str, Any]]:
        async with self._database.statement() as connection:
            return [_burning(row) for row in await connection.fetch(_BURNING)]


def _budget(row: Any) -> dict[str, Any]:
    cap, held, charged = row["cap"], row["held"], row["charged"]
    period = {"begins_at": row["begins_at"], "ends_at": row["ends_at"]} if row["ends_at"] is not None else None
    return {
        "scope": row["scope"],
        "subject": row["subject"] or None,
        "each": False,
        "cap_usd": None if cap is None else plain(cap),
        "source": row["source"],
        "held_usd": plain(held),
        "charged_usd": plain(charged),
        "left_usd": None if cap is None else plain(max(cap - charged - held, Decimal(0))),
        "period": period,
        "warned": list(row["warned"]),
    }


def _each(row: Any) -> dict[str, Any]:
    """What every subject of a scope has that has no cap of its own: nothing is spent of that as such."""
    return {**_budget(row), "each": True, "held_usd": None, "charged_usd": None, "left_usd": None, "warned": []}


def _burning(row: Any) -> dict[str, Any]:
    return {
        "tenant_id": row["tenant_id"],
        "name": row["name"],
        "plan": row["plan"],
        "cap_usd": plain(row["cap"]),
        "charged_usd": plain(row["charged"]),
        "usd_per_day": plain(row["usd_per_day"]),
        "used_up_at": row["used_up_at"],
        "month_ends_at": row["month_ends_at"],
    }
