"""All SQL about correcting calls that were filed before.

Locks are taken in the order of `billing.repository`, after those of the usage: holds by attempt, then balances by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from billing.bill import Price
from billing.correcting import Correction, Filed
from billing.pricing import Settlement
from billing.repository import QUEUE, columns, price_of
from common.contracts.usage import Usage

if TYPE_CHECKING:
    from asyncpg import Record

    from common.postgres import Connection

PRICED_BY_WHAT_WAS_SUPERSEDED = """
SELECT u.attempt_id FROM billing.usage u JOIN billing.prices p USING (price_id)
WHERE u.recorded_at >= $1 AND u.recorded_at < $2 AND p.superseded_at IS NOT NULL
ORDER BY u.attempt_id
"""


async def priced_by_what_was_superseded(connection: Connection, begin: datetime, end: datetime) -> list[UUID]:
    """Calls whose price the book does not stand by any more."""
    rows = await connection.fetch(PRICED_BY_WHAT_WAS_SUPERSEDED, begin, end)
    return [row["attempt_id"] for row in rows]


UNPRICED_WITH_A_PRICE = """
SELECT u.attempt_id FROM billing.usage u
WHERE u.price_id IS NULL AND EXISTS (
  SELECT FROM billing.prices p
  WHERE p.provider = u.provider AND p.model = u.model AND p.superseded_at IS NULL
    AND p.valid_from <= u.recorded_at AND (p.valid_until IS NULL OR p.valid_until > u.recorded_at))
ORDER BY u.attempt_id LIMIT $1
"""


async def unpriced_with_a_price(connection: Connection, size: int) -> list[UUID]:
    """Calls that had no price, and have one now."""
    return [row["attempt_id"] for row in await connection.fetch(UNPRICED_WITH_A_PRICE, size)]


LOCK_USAGE = "SELECT FROM billing.usage WHERE attempt_id = ANY ($1::uuid[]) ORDER BY attempt_id FOR NO KEY UPDATE"
LOCK_HOLDS = "SELECT FROM billing.holds WHERE attempt_id = ANY ($1::uuid[]) ORDER BY attempt_id FOR NO KEY UPDATE"
# A call is priced as of the moment in which its hold was taken, as it was at first.
FILED = """
SELECT u.attempt_id, u.tenant_id, u.vector, u.revision, u.price_id AS priced_by, u.cost, u.charge, u.recorded_at,
       h.attempt_id IS NOT NULL AS held, h.day, coalesce(h.markup_percent, 0) AS markup_percent, p.*
FROM billing.usage u LEFT JOIN billing.holds h ON h.attempt_id = u.attempt_id AND h.tenant_id = u.tenant_id
JOIN billing.prices p ON p.provider = u.provider AND p.model = u.model AND p.superseded_at IS NULL
  AND p.valid_from <= coalesce(h.opened_at, u.recorded_at)
  AND (p.valid_until IS NULL OR p.valid_until > coalesce(h.opened_at, u.recorded_at))
WHERE u.attempt_id = ANY ($1::uuid[])
"""


async def lock(connection: Connection, attempts: Sequence[UUID]) -> None:
    """Their usage and their holds, until the transaction ends."""
    await connection.execute(LOCK_USAGE, attempts)
    await connection.execute(LOCK_HOLDS, attempts)


async def filed(connection: Connection, attempts: Sequence[UUID]) -> list[tuple[Filed, Price]]:
    """How they are filed, each with the price that the book has for it now; left out where it has none."""
    return [(_filed(row), price_of(row)) for row in await connection.fetch(FILED, attempts)]


def _filed(row: Record) -> Filed:
    day: date = row["day"] or row["recorded_at"].astimezone(UTC).date()
    return Filed(
        attempt_id=row["attempt_id"],
        tenant_id=row["tenant_id"],
        provider=row["provider"],
        usage=Usage.model_validate(row["vector"]),
        month=day.replace(day=1),
        held=row["held"],
        markup_percent=row["markup_percent"],
        revision=row["revision"],
        price_id=row["priced_by"],
        settlement=None if row["cost"] is None else Settlement(row["cost"], row["charge"]),
    )


CORRECT_USAGE = """
UPDATE billing.usage u
SET price_id = r.price_id, cost = r.cost, charge = r.charge, variance = r.variance, revision = r.revision
FROM unnest($1::uuid[], $2::bigint[], $3::numeric[], $4::numeric[], $5::numeric[], $6::int[])
  AS r (attempt_id, price_id, cost, charge, variance, revision)
WHERE u.attempt_id = r.attempt_id
"""
# Where there was a charge it was made against a hold, in every scope of that.
GIVE_BACK = """
WITH given AS (
  UPDATE billing.holds h SET charged = h.charged - r.amount
  FROM unnest($1::uuid[], $2::numeric[]) AS r (attempt_id, amount)
  WHERE h.attempt_id = r.attempt_id AND h.state = 'settled'
  RETURNING h.tenant_id, h.user_id, h.task_id, h.conversation_id, h.day, r.amount
), moves AS (
  SELECT g.tenant_id, s.scope, s.subject, s.period, sum(g.amount) AS amount
  FROM given g CROSS JOIN LATERAL (VALUES
    ('conversation', g.conversation_id::text, 'epoch'::date), ('run', g.task_id::text, 'epoch'::date),
    ('tenant_day', '', g.day), ('tenant_month', '', date_trunc('month', g.day)::date), ('user_day', g.user_id, g.day)
  ) AS s (scope, subject, period)
  WHERE s.subject IS NOT NULL
  GROUP BY g.tenant_id, s.scope, s.subject, s.period
), locked AS MATERIALIZED (
  SELECT b.tenant_id, b.scope, b.subject, b.period, m.amount
  FROM billing.balances b JOIN moves m USING (tenant_id, scope, subject, period)
  ORDER BY b.tenant_id, b.scope, b.subject, b.period
  FOR NO KEY UPDATE OF b
)
UPDATE billing.balances b SET charged = b.charged - l.amount
FROM locked l
WHERE (b.tenant_id, b.scope, b.subject, b.period) = (l.tenant_id, l.scope, l.subject, l.period)
"""


async def correct(connection: Connection, corrections: Sequence[Correction]) -> None:
    """Put the amounts where they are read: with the usage, the hold and the balances. The caller has the locks."""
    await connection.execute(CORRECT_USAGE, *columns([_amounts(one) for one in corrections]))
    if lower := [(one.filed.attempt_id, one.given_back) for one in corrections if one.given_back]:
        await connection.execute(QUEUE, [attempt for attempt, _ in lower])
        await connection.execute(GIVE_BACK, *columns(lower))


def _amounts(one: Correction) -> tuple[Any, ...]:
    settlement = one.settlement
    amounts = (settlement.cost, settlement.charge, settlement.variance)
    return (one.filed.attempt_id, one.price_id, *amounts, one.revision)
