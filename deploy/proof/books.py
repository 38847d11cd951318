"""Reads what is compared: the proof by the admin API, the calls from the database, the audit from the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import orjson

from billing.pricebook import Rates
from common.contracts.usage import Usage
from deploy.proof.audit import Booked

_CALLS = """
WITH posted AS (
  SELECT attempt_id, -sum(amount) AS cost FROM billing.ledger
  WHERE attempt_id IS NOT NULL AND account LIKE 'payable:%' GROUP BY attempt_id
)
SELECT attempt_id, coalesce(h.provider, u.provider) AS provider, h.state, u.vector, u.provider_request_id,
       coalesce(u.estimated, false) AS estimated, coalesce(extract(epoch FROM u.recorded_at), 0)::float8 AS recorded_at,
       p.input_mtok, p.cache_read_mtok, p.cache_write_5m_mtok, p.cache_write_1h_mtok, p.output_mtok,
       coalesce(l.cost, 0) AS cost
FROM billing.holds h FULL JOIN billing.usage u USING (attempt_id) LEFT JOIN posted l USING (attempt_id)
LEFT JOIN billing.prices p ON p.price_id = coalesce(u.price_id, h.price_id)
"""
_PAGE_SECONDS = 600


async def months(client: httpx2.AsyncClient, **asked: str) -> AsyncIterator[dict[str, Any]]:
    """Every tenant's months, as `GET /v1/admin/proof` proves them. The client has the admin key."""
    after: dict[str, str] = {}
    while True:
        answer = await client.get("/v1/admin/proof", params=asked | after, timeout=_PAGE_SECONDS)
        answer.raise_for_status()
        page = answer.json()
        for item in page["items"]:
            yield item
        if page["next"] is None:
            return
        after = {"after": page["next"]}


async def booked(dsn: str) -> dict[UUID, Booked]:
    """All calls in the books, by attempt."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(_CALLS)
    finally:
        await connection.close()
    return {row["attempt_id"]: _booked(row) for row in rows}


def _booked(row: asyncpg.Record) -> Booked:
    rates = None
    if row["input_mtok"] is not None:
        names = ("input_mtok", "cache_read_mtok", "cache_write_5m_mtok", "cache_write_1h_mtok", "output_mtok")
        rates = Rates(*(row[name] for name in names))
    return Booked(
        attempt_id=row["attempt_id"],
        provider=row["provider"],
        state=row["state"],
        rates=rates,
        usage=None if row["vector"] is None else Usage.model_validate(orjson.loads(row["vector"])),
        estimated=row["estimated"],
        request_id=row["provider_request_id"],
        cost=row["cost"],
        recorded_at=row["recorded_at"],
    )


async def audit(simulator: str) -> dict[str, Any]:
    """The simulator's totals and calls."""
    async with httpx2.AsyncClient(base_url=simulator, timeout=_PAGE_SECONDS) as client:
        answer = await client.get("/control/audit")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found
