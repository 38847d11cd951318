"""All of billing's SQL on the way from a usage record to the ledger.

Locks are always taken in the same order, here and in `billing.reserve`: holds by attempt, then balances by their
primary key. Nobody who holds a balance ever waits for a hold, so there is no circle to deadlock in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from billing.bill import Bill, Hold, Price
from billing.ledger import Entry
from billing.pricebook import Rates
from common.contracts import UsageRecorded
from common.postgres import to_json

if TYPE_CHECKING:
    from common.postgres import Connection

LOCK_HOLDS = """
SELECT h.attempt_id, h.tenant_id, h.amount, h.state, h.day, h.markup_percent, p.*
FROM billing.holds h JOIN billing.prices p USING (price_id)
WHERE h.attempt_id = ANY ($1::uuid[])
ORDER BY h.attempt_id FOR NO KEY UPDATE OF h
"""


async def lock_holds(connection: Connection, records: Sequence[UsageRecorded]) -> dict[UUID, Hold]:
    """The records' holds, by attempt, locked until the transaction ends. Another tenant's hold is none."""
    tenants = {record.attempt_id: record.tenant_id for record in records}
    rows = await connection.fetch(LOCK_HOLDS, list(tenants))
    return {
        row["attempt_id"]: Hold(row["amount"], row["state"], price_of(row), row["day"], row["markup_percent"])
        for row in rows
        if row["tenant_id"] == tenants[row["attempt_id"]]
    }


LISTED_PRICES = """
SELECT r.attempt_id, p.*
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS r (attempt_id, provider, model, at)
JOIN billing.prices p ON p.provider = r.provider AND p.model = r.model AND p.superseded_at IS NULL
  AND p.valid_from <= r.at AND (p.valid_until IS NULL OR p.valid_until > r.at)
"""


async def listed_prices(connection: Connection, records: Sequence[UsageRecorded]) -> dict[UUID, Price]:
    """The price that was valid when each call was made, as the book says now; by attempt, unpriced ones left out."""
    if not records:
        return {}
    asked = columns([(r.attempt_id, r.provider, r.model, r.recorded_at) for r in records])
    return {row["attempt_id"]: price_of(row) for row in await connection.fetch(LISTED_PRICES, *asked)}


# The attempt is the key: a record that was filed before changes nothing, whoever delivers it again. Sorted, so that
# two batches with the same attempts wait for each other in one direction only.
FILE_USAGE = """
INSERT INTO billing.usage (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call,
  input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
  vector, estimated, provider_request_id, price_id, cost, charge, variance, metadata, recorded_at)
SELECT attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call,
  input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
  vector::jsonb, estimated, provider_request_id, price_id, cost, charge, variance, metadata::jsonb, recorded_at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int[], $9::int[],
  $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
  $16::text[], $17::boolean[], $18::text[], $19::bigint[], $20::numeric[], $21::numeric[], $22::numeric[],
  $23::text[], $24::timestamptz[])
  AS r (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call,
  input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
  vector, estimated, provider_request_id, price_id, cost, charge, variance, metadata, recorded_at)
ORDER BY attempt_id
ON CONFLICT (attempt_id) DO NOTHING
RETURNING attempt_id
"""


async def file_usage(connection: Connection, bills: Sequence[Bill]) -> set[UUID]:
    """File the records; the attempts that were not known before."""
    rows = await connection.fetch(FILE_USAGE, *columns([_usage_row(bill) for bill in bills]))
    return {row["attempt_id"] for row in rows}


def _usage_row(bill: Bill) -> tuple[Any, ...]:
    record, usage, settlement = bill.record, bill.record.usage, bill.settlement
    who = (record.attempt_id, record.tenant_id, record.user_id, record.task_id, record.agent)
    where = (record.provider, record.model, record.step, record.call)
    read = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens)
    written = (usage.output_tokens, usage.reasoning_tokens)
    told = (usage.model_dump_json(), record.estimated, record.provider_request_id)
    amounts = (settlement.cost, settlement.charge, settlement.variance) if settlement else (None, None, None)
    return (
        *who,
        *where,
        *read,
        *written,
        *told,
        bill.price_id,
        *amounts,
        to_json(record.metadata),
        record.recorded_at,
    )


FILED_USAGE = "SELECT attempt_id, provider, model, vector FROM billing.usage WHERE attempt_id = ANY ($1::uuid[])"


async def conflicting(connection: Connection, repeated: Sequence[UsageRecorded]) -> list[UsageRecorded]:
    """Of records whose attempts were known: those that say something else than what was filed."""
    if not repeated:
        return []
    rows = await connection.fetch(FILED_USAGE, [record.attempt_id for record in repeated])
    filed = {row["attempt_id"]: (row["provider"], row["model"], row["vector"]) for row in rows}
    return [r for r in repeated if filed[r.attempt_id] != (r.provider, r.model, r.usage.model_dump(mode="json"))]


FILE_CONFLICTS = """
INSERT INTO billing.usage_conflicts (attempt_id, tenant_id, record)
SELECT attempt_id, tenant_id, record::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS r (attempt_id, tenant_id, record)
ORDER BY attempt_id ON CONFLICT DO NOTHING
"""


async def file_conflicts(connection: Connection, records: Sequence[UsageRecorded]) -> None:
    """Keep records that contradict what was filed, to be looked into."""
    if records:
        rows = [(record.attempt_id, record.tenant_id, to_json(record.model_dump(mode="json"))) for record in records]
        await connection.execute(FILE_CONFLICTS, *columns(rows))


POST = """
INSERT INTO billing.ledger (entry_id, kind, account, tenant_id, month, amount, attempt_id, hold_id, price_id, reverses)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::date[], $6::numeric[], $7::uuid[], $8::uuid[],
                     $9::bigint[], $10::uuid[])
"""


async def post(connection: Connection, entries: Sequence[Entry]) -> None:
    """Post entries that were not posted before; those without lines are none."""
    if rows := [row for entry in entries for row in _ledger_rows(entry)]:
        await connection.execute(POST, *columns(rows))


def _ledger_rows(entry: Entry) -> list[tuple[Any, ...]]:
    source = entry.source
    named = (source.attempt_id, source.hold_id, source.price_id) if source else (None, None, None)
    return [
        (entry.entry_id, entry.kind, line.account, entry.tenant_id, entry.month, line.amount, *named, entry.reverses)
        for line in entry.lines
    ]


# A statement of its own: the next one sees what those before in the queue have committed.
QUEUE = """
SELECT billing.queue_for(ARRAY(SELECT DISTINCT tenant_id FROM billing.holds WHERE attempt_id = ANY ($1::uuid[])))
"""
# A hold is resolved once: settled with its charge, or voided where that is NULL. The same statement moves what it held
# out of every scope it was taken against, whose rows it locks in the order of their key before it changes any, and
# warns of what they have spent of their caps.
RESOLVE_HOLDS = """
WITH resolved AS (
  UPDATE billing.holds h
  SET state = CASE WHEN r.charge IS NULL THEN 'voided' ELSE 'settled' END, charged = r.charge,
      resolved_at = clock_timestamp()
  FROM unnest($1::uuid[], $2::numeric[]) AS r (attempt_id, charge)
  WHERE h.attempt_id = r.attempt_id AND h.state IN ('open', 'in_doubt')
  RETURNING h.tenant_id, h.user_id, h.task_id, h.conversation_id, h.day, h.amount, coalesce(r.charge, 0) AS charge
), moves AS (
  SELECT h.tenant_id, s.scope, s.subject, s.period, sum(h.amount) AS released, sum(h.charge) AS charged
  FROM resolved h CROSS JOIN LATERAL (VALUES
    ('conversation', h.conversation_id::text, 'epoch'::date), ('run', h.task_id::text, 'epoch'::date),
    ('tenant_day', '', h.day), ('tenant_month', '', date_trunc('month', h.day)::date), ('user_day', h.user_id, h.day)
  ) AS s (scope, subject, period)
  WHERE s.subject IS NOT NULL
  GROUP BY h.tenant_id, s.scope, s.subject, s.period
), locked AS MATERIALIZED (
  SELECT b.tenant_id, b.scope, b.subject, b.period, m.released, m.charged
  FROM billing.balances b JOIN moves m USING (tenant_id, scope, subject, period)
  ORDER BY b.tenant_id, b.scope, b.subject, b.period
  FOR NO KEY UPDATE OF b
), moved AS (
  UPDATE billing.balances b SET held = b.held - l.released, charged = b.charged + l.charged
  FROM locked l
  WHERE (b.tenant_id, b.scope, b.subject, b.period) = (l.tenant_id, l.scope, l.subject, l.period)
  RETURNING b.*
)
INSERT INTO billing.budget_warnings (tenant_id, scope, subject, period, threshold, cap, charged)
SELECT m.tenant_id, m.scope, m.subject, m.period, t.threshold, m.cap, m.charged
FROM moved m CROSS JOIN (VALUES (50), (80), (100)) AS t (threshold)
WHERE m.charged > 0 AND m.charged >= m.cap * t.threshold * 0.01
ORDER BY m.tenant_id, m.scope, m.subject, m.period, t.threshold
ON CONFLICT DO NOTHING
"""


async def resolve_holds(connection: Connection, charges: Mapping[UUID, Decimal | None]) -> None:
    """Settle holds with their charge, or void them where it is None. The caller has locked them."""
    if charges:
        await connection.execute(QUEUE, list(charges))
        await connection.execute(RESOLVE_HOLDS, list(charges), list(charges.values()))


NOTE_LAG = """
INSERT INTO billing.consumers (process, settled_until) VALUES ($1, clock_timestamp() - $2::interval)
ON CONFLICT (process) DO UPDATE SET settled_until = excluded.settled_until
"""
COUNT_KEEPING_UP = """
WITH forgotten AS (DELETE FROM billing.consumers WHERE settled_until < clock_timestamp() - interval '1 day')
SELECT count(*) FROM billing.consumers WHERE settled_until > clock_timestamp() - $1::interval
"""


async def note_lag(connection: Connection, process: UUID, lag: timedelta) -> None:
    """What the process was given until that long ago is settled."""
    await connection.execute(NOTE_LAG, process, lag)


async def count_keeping_up(connection: Connection, lag: timedelta) -> int:
    """How many processes have said that they are no further behind."""
    count: int = await connection.fetchval(COUNT_KEEPING_UP, lag)
    return count


def price_of(row: asyncpg.Record) -> Price:
    """A row with the columns of `billing.prices`."""
    return Price(
        row["price_id"],
        Rates(
            row["input_mtok"],
            row["cache_read_mtok"],
            row["cache_write_5m_mtok"],
            row["cache_write_1h_mtok"],
            row["output_mtok"],
        ),
    )


def columns(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The parameters of a statement that unnests them."""
    return list(zip(*rows, strict=True))
