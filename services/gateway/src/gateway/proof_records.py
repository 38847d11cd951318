"""SQL of the proof: a tenant's caps, holds, usage, postings and invoices of a month, put against each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.views import plain

# All that is read of a month is read as of one moment: what is settled meanwhile would look like a difference.
_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_BOOKS = "SELECT tenant_id, month FROM billing.books($1, $2, $3, $4, $5)"
_THERE = "SELECT EXISTS (SELECT FROM identity.tenants WHERE tenant_id = identity.current_tenant())"
_SUMS = "SELECT * FROM billing.proof_sums(identity.current_tenant(), $1)"
_CAPS = """
SELECT DISTINCT ON (scope) scope, count(*) OVER s AS periods, (sum(holds) OVER s)::bigint AS holds,
       nullif(subject, '') AS subject, period, peak, cap
FROM billing.scope_peaks(identity.current_tenant(), $1) WHERE cap IS NOT NULL
WINDOW s AS (PARTITION BY scope) ORDER BY scope, cap - peak
"""
_DIFFERENCES = """
SELECT what, subject, expected, found, count(*) OVER () AS total
FROM billing.proof_differences(identity.current_tenant(), $1) ORDER BY what, subject LIMIT $2
"""
_MOST_DIFFERENCES = 100
# A month of a million calls is added up moment by moment in half of it.
SECONDS = 120.0


@dataclass(frozen=True)
class Asked:
    """Whose books, and from after which in the order of tenants and months."""

    tenant_id: UUID | None
    month: date | None
    after: tuple[UUID, date] | None
    limit: int


class Proofs:
    """Proves one month after another, one at a time: it is work for the database that nobody waits for."""

    def __init__(self, database: Database) -> None:
        """`database` is one whose deadline is `SECONDS`."""
        self._database = database
        self._one_at_a_time = asyncio.Lock()

    async def books(self, asked: Asked) -> list[tuple[UUID, date]]:
        """The next ones, and one more where there are more. Raises `StoreUnavailable`."""
        return await self._database.within(self._books(asked))

    async def _books(self, asked: Asked) -> list[tuple[UUID, date]]:
        tenant, month = asked.after or (None, None)
        async with self._database.statement() as connection:
            rows = await connection.fetch(_BOOKS, asked.tenant_id, asked.month, tenant, month, asked.limit + 1)
        return [(row["tenant_id"], row["month"]) for row in rows]

    async def is_there(self, tenant_id: UUID) -> bool:
        """Whether there is such a tenant. Raises `StoreUnavailable`."""
        return await self._database.within(self._is_there(tenant_id))

    async def _is_there(self, tenant_id: UUID) -> bool:
        async with self._database.as_tenant(tenant_id) as connection:
            return bool(await connection.fetchval(_THERE))

    async def prove(self, tenant_id: UUID, month: date) -> dict[str, Any]:
        """One tenant's month. Raises `StoreUnavailable`."""
        async with self._one_at_a_time:
            return await self._database.within(self._prove(tenant_id, month))

    async def _prove(self, tenant_id: UUID, month: date) -> dict[str, Any]:
        async with self._database.as_tenant(tenant_id) as connection:
            await connection.execute(_ONE_MOMENT)
            (sums,) = await connection.fetch(_SUMS, month, timeout=SECONDS)
            caps = await connection.fetch(_CAPS, month, timeout=SECONDS)
            found = await connection.fetch(_DIFFERENCES, month, _MOST_DIFFERENCES, timeout=SECONDS)
        return {
            "tenant_id": tenant_id,
            "month": f"{month:%Y-%m}",
            "agrees": not found,
            "caps": [_cap(row) for row in caps],
            **_sums(sums),
            "differences": [_difference(row) for row in found],
            "differences_in_all": found[0]["total"] if found else 0,
        }


def _cap(row: Record) -> dict[str, Any]:
    named = {name: row[name] for name in ("scope", "periods", "holds", "subject", "period")}
    return named | {"cap_usd": None if row["cap"] is None else plain(row["cap"]), "peak_usd": plain(row["peak"])}


def _sums(row: Record) -> dict[str, Any]:
    """The row's numbers in groups; those that are money as text."""
    owed: Decimal = row["posted_charge_usd"] + row["fee_usd"] - row["allowance_usd"]
    return {
        "holds": _group(row, "open", "in_doubt", "settled", "voided", "open_usd", "held_usd", "voided_usd"),
        "usage": _group(row, "calls", "estimated", "unpriced", "cost_usd", "charge_usd", "variance_usd"),
        "posted": {
            "cost_usd": plain(row["posted_cost_usd"]),
            "charge_usd": plain(row["posted_charge_usd"]),
            "variance_usd": plain(row["posted_variance_usd"]),
            "fee_usd": plain(row["fee_usd"]),
            "allowance_usd": plain(row["allowance_usd"]),
            "owed_usd": plain(owed),
        },
        "invoices": {
            "issued": row["invoices"],
            "total_usd": None if row["invoiced_usd"] is None else plain(row["invoiced_usd"]),
        },
    }


def _group(row: Record, *names: str) -> dict[str, Any]:
    values: Sequence[Any] = [row[name] for name in names]
    return {name: plain(value) if name.endswith("_usd") else value for name, value in zip(names, values, strict=True)}


def _difference(row: Record) -> dict[str, Any]:
    return {
        "what": row["what"],
        "subject": row["subject"],
        "expected": None if row["expected"] is None else plain(row["expected"]),
        "found": None if row["found"] is None else plain(row["found"]),
    }
