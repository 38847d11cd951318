"""All SQL about issuing invoices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from common.postgres import Connection

# The lines are what is posted without what was issued before: of an invoice all, of a credit note the difference. One
# statement, so that a correction which is posted meanwhile is in all of it or in none.
ISSUE = """
WITH before AS (
  SELECT l.kind, l.provider, l.model, l.agent, l.user_id, l.plan, l.days, l.of_days, sum(l.calls)::bigint AS calls,
         sum(l.input_tokens)::bigint AS input_tokens, sum(l.output_tokens)::bigint AS output_tokens,
         sum(l.amount) AS amount
  FROM billing.invoice_lines l JOIN billing.invoices i USING (invoice_id)
  WHERE i.tenant_id = $1 AND i.month = $2 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), both_ AS (
  SELECT kind, provider, model, agent, user_id, plan, days, of_days, calls, input_tokens, output_tokens, amount
  FROM billing.invoice_draft($1, $2)
  UNION ALL
  SELECT kind, provider, model, agent, user_id, plan, days, of_days, -calls, -input_tokens, -output_tokens, -amount
  FROM before
), lines AS (
  SELECT kind, provider, model, agent, user_id, plan, days, of_days, sum(calls) AS calls,
         sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(amount) AS amount
  FROM both_ GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 HAVING sum(amount) <> 0 OR sum(calls) <> 0
), issued AS (
  INSERT INTO billing.invoices (tenant_id, month, number, plan, total, issued_by)
  SELECT $1, $2, n.number, $3, coalesce((SELECT sum(amount) FROM lines), 0), $4
  FROM (SELECT count(*) AS number FROM billing.invoices WHERE tenant_id = $1 AND month = $2) AS n
  WHERE n.number = 0 OR EXISTS (SELECT FROM lines)
  RETURNING invoice_id, number, total
), written AS (
  INSERT INTO billing.invoice_lines
    (invoice_id, line, tenant_id, kind, provider, model, agent, user_id, calls, input_tokens, output_tokens, amount,
     plan, days, of_days)
  SELECT i.invoice_id, row_number() OVER (ORDER BY l.kind DESC, l.provider, l.model, l.agent, l.user_id, l.plan), $1,
         l.kind, l.provider, l.model, l.agent, l.user_id, l.calls, l.input_tokens, l.output_tokens, l.amount,
         l.plan, l.days, l.of_days
  FROM issued i CROSS JOIN lines l
)
SELECT number, total FROM issued
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """A document; number 0 is the month's invoice, later ones are credit notes."""

    number: int
    total: Decimal


async def issue(connection: Connection, tenant_id: UUID, month: date, plan: str, by: str) -> Issued | None:
    """Issue what is not issued yet; None where that is nothing. The caller has closed the month in this transaction."""
    row = await connection.fetchrow(ISSUE, tenant_id, month, plan, by)
    return Issued(row["number"], row["total"]) if row else None
