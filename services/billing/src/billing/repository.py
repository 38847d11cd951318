"""All of billing's SQL on the way from a usage record to the ledger.

Locks are always taken in the same order, in `billing.settle` and in `billing.reserve_together`: holds by attempt, then
the queues of tenants, then balances by their primary key. Nobody who has a queue or a balance ever waits for a hold, so
there is no circle to deadlock in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
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

HOLDS = """
SELECT attempt_id, tenant_id, amount, state, day, markup_percent, price_id FROM billing.holds
WHERE attempt_id = ANY ($1::uuid[])
"""
PRICES = "SELECT * FROM billing.prices WHERE price_id = ANY ($1::bigint[])"


async def holds_of(connection: Connection, records: Sequence[UsageRecorded]) -> dict[UUID, Hold]:
    """The records' holds, by attempt, as they are now. Another tenant's hold is none."""
    tenants = {record.attempt_id: record.tenant_id for record in records}
    rows = await connection.fetch(HOLDS, list(tenants))
    # Thousands of holds go by a handful of prices.
    versions = await connection.fetch(PRICES, list({row["price_id"] for row in rows}))
    prices = {price["price_id"]: price_of(price) for price in versions}
    return {
        row["attempt_id"]: Hold(row["amount"], row["state"], prices[row["price_id"]], row["day"], row["markup_percent"])
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


SETTLE = """
SELECT billing.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                      $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)
"""


async def settle(connection: Connection, bills: Sequence[Bill]) -> set[UUID]:
    """File the records, post their entries, resolve their holds; the attempts that were not known before."""
    lines = [
        (place, line.account, line.amount)
        for place, bill in enumerate(bills, 1)
        if (entry := bill.entry)
        for line in entry.lines
    ]
    rows = columns([_usage_row(bill) for bill in bills])
    filed: list[UUID] = await connection.fetchval(SETTLE, *rows, *(columns(lines) or [(), (), ()]))
    return set(filed)


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
        bill.hold is not None,
        bill.held and settlement is not None,
        bill.month,
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
VOID = "SELECT billing.resolve($1, array_fill(NULL::numeric, ARRAY[cardinality($1::uuid[])]))"


async def void(connection: Connection, attempts: Sequence[UUID]) -> None:
    """Give these holds up: nothing is charged. The caller has locked them."""
    if attempts:
        await connection.execute(VOID, attempts)


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
    """The parameters of a statement that unnests them; none where there is no row."""
    return list(zip(*rows, strict=True))
