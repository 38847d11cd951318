"""SQL on invoices: those that were issued, and what would be issued for a month by what is posted now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.usage import MOST_ROWS, TooManyRowsError
from gateway.views import plain

_MONTHS = """
SELECT m.month::date AS month, i.number, i.total, i.issued_at
FROM identity.tenants t
CROSS JOIN generate_series(
  least(date_trunc('month', t.created_at AT TIME ZONE 'UTC'),
        (SELECT min(l.month) FROM billing.ledger l WHERE l.tenant_id = t.tenant_id)::timestamp),
  billing.day_at(t.tenant_id, clock_timestamp())::timestamp, '1 month') AS m (month)
LEFT JOIN billing.invoices i ON i.tenant_id = t.tenant_id AND i.month = m.month::date
WHERE t.tenant_id = identity.current_tenant() ORDER BY 1 DESC, 2 LIMIT $1
"""
_ISSUED = """
SELECT i.number, i.total, i.issued_at, l.kind, l.provider, l.model, l.agent, l.user_id, l.calls, l.input_tokens,
       l.output_tokens, l.amount, l.plan, l.days, l.of_days
FROM billing.invoices i LEFT JOIN billing.invoice_lines l USING (invoice_id)
WHERE i.tenant_id = identity.current_tenant() AND i.month = $1 ORDER BY i.number, l.line
"""
_DRAFT = """
SELECT * FROM billing.invoice_draft(identity.current_tenant(), $1) WHERE amount <> 0 OR calls <> 0
ORDER BY kind DESC, provider, model, agent, user_id, plan
"""
# By what is posted now: with all corrections, those too for which no credit note is issued yet.
_BY_LABEL = """
SELECT u.metadata ->> $2 AS value, count(*) FILTER (WHERE l.kind = 'usage') AS calls, sum(l.amount) AS amount
FROM billing.ledger l JOIN billing.usage u USING (attempt_id)
WHERE l.tenant_id = identity.current_tenant() AND l.month = $1 AND l.account = 'receivable'
GROUP BY 1 ORDER BY 1 LIMIT 10001
"""
_THERE = "SELECT EXISTS (SELECT FROM identity.tenants WHERE tenant_id = identity.current_tenant())"
# Documents in a list: ten years with a credit note for each month.
_MOST = 240
_FIELDS = (
    "kind", "provider", "model", "agent", "user_id", "calls", "input_tokens", "output_tokens", "plan", "days", "of_days"
)  # fmt: skip


class Invoices:
    """Reads invoices. Every method raises `StoreUnavailable`, and gives None where there is no such tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def months(self, tenant_id: UUID) -> dict[str, Any] | None:
        """What was issued, and the months for which nothing was yet; newest first."""
        return await self._database.within(self._months(tenant_id))

    async def _months(self, tenant_id: UUID) -> dict[str, Any] | None:
        async with self._database.as_tenant(tenant_id) as connection:
            if not await connection.fetchval(_THERE):
                return None
            rows = await connection.fetch(_MONTHS, _MOST)
        return {"invoices": [_head(row["month"], row) for row in rows]}

    async def month(self, tenant_id: UUID, month: date) -> dict[str, Any] | None:
        """All documents of a month with their lines: what was issued, else the draft."""
        return await self._database.within(self._month(tenant_id, month))

    async def _month(self, tenant_id: UUID, month: date) -> dict[str, Any] | None:
        async with self._database.as_tenant(tenant_id) as connection:
            if not await connection.fetchval(_THERE):
                return None
            documents = _documents(month, await connection.fetch(_ISSUED, month))
            if not documents:
                documents = [_draft(month, await connection.fetch(_DRAFT, month))]
        total = sum((Decimal(document["total_usd"]) for document in documents), Decimal(0))
        state = documents[0]["state"]
        return {"month": _text(month), "state": state, "total_usd": plain(total), "documents": documents}

    async def by_label(self, tenant_id: UUID, month: date, label: str) -> dict[str, Any] | None:
        """What was charged for the calls of a month, by the values of a label. Raises `TooManyRowsError`."""
        return await self._database.within(self._by_label(tenant_id, month, label))

    async def _by_label(self, tenant_id: UUID, month: date, label: str) -> dict[str, Any] | None:
        async with self._database.as_tenant(tenant_id) as connection:
            if not await connection.fetchval(_THERE):
                return None
            rows = await connection.fetch(_BY_LABEL, month, label)
        if len(rows) > MOST_ROWS:
            raise TooManyRowsError
        lines = [{"value": row["value"], "calls": row["calls"], "amount_usd": plain(row["amount"])} for row in rows]
        total = sum((row["amount"] for row in rows), Decimal(0))
        return {"month": _text(month), "label": label, "lines": lines, "total_usd": plain(total)}


def _documents(month: date, rows: Sequence[Record]) -> list[dict[str, Any]]:
    documents: dict[int, dict[str, Any]] = {}
    for row in rows:
        document = documents.setdefault(row["number"], {**_head(month, row), "lines": []})
        if row["kind"] is not None:  # nothing was used, and the plan takes nothing
            document["lines"].append(_line(row))
    return list(documents.values())


def _draft(month: date, rows: Sequence[Record]) -> dict[str, Any]:
    total = sum((row["amount"] for row in rows), Decimal(0))
    head = _head(month, {"number": None, "total": total, "issued_at": None})
    return {**head, "lines": [_line(row) for row in rows]}


def _head(month: date, row: Any) -> dict[str, Any]:
    draft = row["number"] is None
    return {
        "month": _text(month),
        "number": row["number"] or 0,
        "kind": "credit_note" if row["number"] else "invoice",
        "state": "draft" if draft else "final",
        "total_usd": None if row["total"] is None else plain(row["total"]),
        "issued_at": row["issued_at"],
    }


def _line(row: Record) -> dict[str, Any]:
    return {name: row[name] for name in _FIELDS} | {"amount_usd": plain(row["amount"])}


def _text(month: date) -> str:
    return f"{month:%Y-%m}"
