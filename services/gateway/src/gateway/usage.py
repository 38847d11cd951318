"""SQL on `billing.usage`: what a tenant used and was charged, by day and model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.views import plain

_COUNTS = (
    "calls",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_BY_DAY_AND_MODEL = """
SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, provider, model, count(*)::bigint AS calls,
       sum(input_tokens)::bigint AS input_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
       sum(cache_write_5m_tokens)::bigint AS cache_write_5m_tokens,
       sum(cache_write_1h_tokens)::bigint AS cache_write_1h_tokens,
       sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
       coalesce(sum(charge), 0) AS charged
FROM billing.usage
WHERE tenant_id = identity.current_tenant()
  AND recorded_at >= $1::date::timestamp AT TIME ZONE 'UTC'
  AND recorded_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


class UsageReport:
    """Reports usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, tenant_id: UUID, first: date, last: date) -> dict[str, Any]:
        """Rows by day and model, both days included, and their totals. Raises `StoreUnavailable`."""
        rows = await self._database.within(self._rows(tenant_id, first, last))
        totals: dict[str, Any] = {name: sum(row[name] for row in rows) for name in _COUNTS}
        totals["cost_usd"] = plain(sum((row["charged"] for row in rows), Decimal(0)))
        return {"from": first, "to": last, "rows": [_row(row) for row in rows], "totals": totals}

    async def _rows(self, tenant_id: UUID, first: date, last: date) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(_BY_DAY_AND_MODEL, first, last)
            return rows


def _row(row: Record) -> dict[str, Any]:
    counts = {name: row[name] for name in _COUNTS}
    return {"day": row["day"], "provider": row["provider"], "model": row["model"], **counts} | {
        "cost_usd": plain(row["charged"])
    }
