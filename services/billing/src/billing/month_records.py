"""All SQL about closing a tenant's month."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from billing.months import Posted, Terms

if TYPE_CHECKING:
    from common.postgres import Connection

# Whose days begin in another zone may have postings in a month that it was not there in by UTC.
TENANTS = """
SELECT tenant_id FROM identity.tenants t
WHERE created_at < ($1::date + interval '1 month') AT TIME ZONE 'UTC'
  AND (disabled_at IS NULL OR disabled_at >= $1::timestamp AT TIME ZONE 'UTC')
  OR EXISTS (SELECT FROM billing.ledger l WHERE l.tenant_id = t.tenant_id AND l.month = $1)
ORDER BY tenant_id
"""


async def tenants_of(connection: Connection, month: date) -> Sequence[UUID]:
    """Those that were there in a month, on one day of it at least."""
    return [row["tenant_id"] for row in await connection.fetch(TENANTS, month)]


# Two that close the same month would both post the difference.
LOCK_MONTH = "SELECT pg_advisory_xact_lock(hashtextextended('laneway month ' || $1::uuid || $2::date, 0))"


async def lock_month(connection: Connection, tenant_id: UUID, month: date) -> None:
    """Until the transaction ends."""
    await connection.execute(LOCK_MONTH, tenant_id, month)


# A month of the tenant's own time zone, as its holds and budgets go by.
ENDED = """
SELECT billing.day_begins(($2::date + interval '1 month')::date, t.time_zone) AS at, clock_timestamp() AS now
FROM identity.tenants t WHERE t.tenant_id = $1
"""


async def end_of(connection: Connection, tenant_id: UUID, month: date) -> tuple[datetime, datetime] | None:
    """When a tenant's month ends or has ended, and what the time is; None where there is no such tenant."""
    row = await connection.fetchrow(ENDED, tenant_id, month)
    return (row["at"], row["now"]) if row else None


UNRESOLVED = """
SELECT count(*) FROM billing.holds
WHERE state IN ('open', 'in_doubt') AND tenant_id = $1 AND day >= $2::date AND day < $2::date + interval '1 month'
"""


async def unresolved(connection: Connection, tenant_id: UUID, month: date) -> int:
    """How many of its holds may still become charges."""
    count: int = await connection.fetchval(UNRESOLVED, tenant_id, month)
    return count


# By the plans that the tenant had in the month; a tenant that was not there yet has the present one's name on it.
KEEP_TERMS = """
WITH plans AS MATERIALIZED (
  SELECT * FROM billing.plans_of_month($1, $2)
), closed AS (
  INSERT INTO billing.months (tenant_id, month, plan, free_allowance_usd, monthly_fee_usd)
  SELECT t.tenant_id, $2, coalesce((SELECT p.plan FROM plans p WHERE p.lasts), t.plan),
         (SELECT coalesce(sum(p.allowance), 0) FROM plans p), (SELECT coalesce(sum(p.fee), 0) FROM plans p)
  FROM identity.tenants t WHERE t.tenant_id = $1
  ON CONFLICT (tenant_id, month) DO NOTHING RETURNING tenant_id
)
INSERT INTO billing.month_plans (tenant_id, month, plan, days, of_days, fee_usd, allowance_usd)
SELECT c.tenant_id, $2, p.plan, p.days, p.of_days, p.fee, p.allowance FROM closed c CROSS JOIN plans p
"""
TERMS = "SELECT plan, free_allowance_usd, monthly_fee_usd FROM billing.months WHERE tenant_id = $1 AND month = $2"


async def keep_terms(connection: Connection, tenant_id: UUID, month: date) -> Terms | None:
    """What its plans come to, kept with the month when it is closed first; None where there is no such tenant."""
    await connection.execute(KEEP_TERMS, tenant_id, month)
    row = await connection.fetchrow(TERMS, tenant_id, month)
    return Terms(row["plan"], row["free_allowance_usd"], row["monthly_fee_usd"]) if row else None


POSTED = """
SELECT coalesce(sum(amount) FILTER (WHERE account = 'receivable' AND attempt_id IS NOT NULL), 0) AS charges,
       coalesce(sum(amount) FILTER (WHERE account = 'allowance'), 0) AS allowance,
       count(*) FILTER (WHERE account = 'allowance') AS allowances,
       sum(amount) FILTER (WHERE account = 'receivable' AND kind = 'fee') AS fee
FROM billing.ledger WHERE tenant_id = $1 AND month = $2
"""


async def posted(connection: Connection, tenant_id: UUID, month: date) -> Posted:
    """What the ledger has."""
    row = await connection.fetchrow(POSTED, tenant_id, month)
    assert row is not None  # noqa: S101 - an aggregate has one row
    fee: Decimal | None = row["fee"]
    return Posted(row["charges"], row["allowance"], row["allowances"], fee)
