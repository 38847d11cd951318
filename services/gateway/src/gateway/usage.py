"""SQL on `billing.usage`: what a tenant used and was charged, added up as it is asked for, or record by record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record

from common.errors import StoreUnavailable
from gateway.database import Database
from gateway.views import plain

_log = structlog.get_logger(__name__)
COUNTS = (
    "calls",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)
DIMENSIONS: Mapping[str, Mapping[str, str]] = {
    "day": {"day": "(recorded_at AT TIME ZONE 'UTC')::date"},
    "model": {"provider": "provider", "model": "model"},
    "agent": {"agent": "agent"},
    "user": {"user_id": "user_id"},
    "label": {"label": "metadata ->> $3"},
}
"""What usage may be grouped by: the columns of each, and their expressions."""
MOST_ROWS = 10_000
_REPORT = """
SELECT {columns}, count(*)::bigint AS calls,
       sum(input_tokens)::bigint AS input_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
       sum(cache_write_5m_tokens)::bigint AS cache_write_5m_tokens,
       sum(cache_write_1h_tokens)::bigint AS cache_write_1h_tokens,
       sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
       coalesce(sum(charge), 0) AS charged
FROM billing.usage
WHERE tenant_id = identity.current_tenant() AND recorded_at >= $1 AND recorded_at < $2 AND ($3::text IS NULL OR true)
GROUP BY {numbers} ORDER BY {numbers} LIMIT 10001
"""
_THERE = "SELECT EXISTS (SELECT FROM identity.tenants WHERE tenant_id = identity.current_tenant())"
_RECORDS = """
SELECT recorded_at, attempt_id, task_id, step, call, user_id, agent, provider, model, input_tokens, cache_read_tokens,
       cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, estimated, charge, metadata
FROM billing.usage
WHERE tenant_id = identity.current_tenant() AND recorded_at >= $1 AND recorded_at < $2
  AND (recorded_at, attempt_id) > ($3, $4)
ORDER BY recorded_at, attempt_id LIMIT $5
"""
# What one export has in memory. Each chunk is a transaction of its own: a client that reads slowly keeps nothing open.
CHUNK = 2000
_PAUSES = (0.1, 0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Grouping:
    """By what, in this order; and which of the tasks' metadata is meant by `label`."""

    dimensions: tuple[str, ...] = ("day", "model")
    label: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The columns of a row, and their expressions."""
        return {name: sql for dimension in self.dimensions for name, sql in DIMENSIONS[dimension].items()}


class TooManyRowsError(Exception):
    """The grouping gives more rows than an answer may have."""


class UsageReport:
    """Reports usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, tenant_id: UUID, first: date, last: date, by: Grouping) -> dict[str, Any] | None:
        """Rows, of both days and those between, and their totals; None where there is no such tenant.

        Raises `StoreUnavailable` or `TooManyRowsError`.
        """
        rows = await self._database.within(self._rows(tenant_id, first, last, by))
        if rows is None:
            return None
        if len(rows) > MOST_ROWS:
            raise TooManyRowsError
        totals: dict[str, Any] = {name: sum(row[name] for row in rows) for name in COUNTS}
        totals["cost_usd"] = plain(sum((row["charged"] for row in rows), Decimal(0)))
        return {"from": first, "to": last, "rows": [_row(row, by) for row in rows], "totals": totals}

    async def _rows(self, tenant_id: UUID, first: date, last: date, by: Grouping) -> Sequence[Record] | None:
        columns = ", ".join(f"{sql} AS {name}" for name, sql in by.columns.items())
        numbers = ", ".join(str(number) for number in range(1, len(by.columns) + 1))
        query = _REPORT.format(columns=columns, numbers=numbers)
        async with self._database.as_tenant(tenant_id) as connection:
            if not await connection.fetchval(_THERE):
                return None
            rows: Sequence[Record] = await connection.fetch(query, *_bounds(first, last), by.label)
            return rows

    async def exists(self, tenant_id: UUID) -> bool:
        """Whether there is such a tenant. Raises `StoreUnavailable`."""
        return await self._database.within(self._exists(tenant_id))

    async def _exists(self, tenant_id: UUID) -> bool:
        async with self._database.as_tenant(tenant_id) as connection:
            return bool(await connection.fetchval(_THERE))

    async def records(self, tenant_id: UUID, first: date, last: date) -> AsyncGenerator[Sequence[dict[str, Any]], None]:
        """Every record of both days and those between, oldest first, in chunks. Raises `StoreUnavailable`.

        A chunk is asked for again where the database is away for a moment: each begins after the last record of the
        one before.
        """
        place: tuple[datetime, UUID] = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
        while rows := await self._chunk(tenant_id, first, last, place):
            place = (rows[-1]["recorded_at"], rows[-1]["attempt_id"])
            yield [_record(row) for row in rows]

    async def _chunk(self, tenant_id: UUID, first: date, last: date, place: tuple[datetime, UUID]) -> Sequence[Record]:
        for pause in _PAUSES:
            try:
                return await self._database.within(self._read(tenant_id, first, last, place))
            except StoreUnavailable as error:
                _log.warning("usage.export_waits", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
        return await self._database.within(self._read(tenant_id, first, last, place))

    async def _read(self, tenant_id: UUID, first: date, last: date, place: tuple[datetime, UUID]) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(_RECORDS, *_bounds(first, last), *place, CHUNK)
            return rows


def _bounds(first: date, last: date) -> tuple[datetime, datetime]:
    begin, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last))
    return begin, end + timedelta(days=1)


def _row(row: Record, by: Grouping) -> dict[str, Any]:
    named = {name: row[name] for name in by.columns}
    return named | {name: row[name] for name in COUNTS} | {"cost_usd": plain(row["charged"])}


def _record(row: Record) -> dict[str, Any]:
    document = dict(row)
    charge = document.pop("charge")
    return document | {"cost_usd": None if charge is None else plain(charge)}
