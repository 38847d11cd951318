"""A month with a million postings, four for each call: the time to its invoice."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import perf_counter
from uuid import UUID

import asyncpg

from benchmarks.figures import Figure
from benchmarks.stand import RUNS, run
from billing.closing import close_month
from billing.invoice_records import issue
from common import postgres
from common.postgres import Pool
from tests.servers import Servers
from tests.stage import Stage, staged

CALLS, POSTINGS = 250_000, 1_000_000
_MONTH = "date_trunc('month', now() AT TIME ZONE 'UTC' - interval '1 month')::date"
# Of 40 users, 3 agents and 4 models, over the days of the month: as they stand when the month is over. The triggers
# look up what each entry names; here they would look a million times for what was just put there.
_FILL = (
    "ALTER TABLE billing.ledger DISABLE TRIGGER USER",
    f"""
    CREATE TEMPORARY TABLE calls AS
    SELECT gen_random_uuid() AS attempt_id, gen_random_uuid() AS task_id, i, p.price_id, p.provider, p.model,
           {_MONTH} + i % 28 AS day, ({_MONTH} + i % 28 + time '12:00' + (i / 28) * interval '1 second') AS at,
           0.0012 + (i % 97) * 0.0000001 AS cost
    FROM generate_series(1, {CALLS}) AS i
    JOIN (SELECT *, row_number() OVER (ORDER BY price_id) - 1 AS n FROM billing.prices LIMIT 4) AS p ON p.n = i % 4
    """,
    """
    INSERT INTO billing.holds (attempt_id, tenant_id, user_id, task_id, fence, step, call, provider, model, price_id,
                               amount, charged, state, day, opened_at, resolved_at)
    SELECT attempt_id, $1::uuid, 'user-' || i % 40, task_id, 1, 1, 1, provider, model, price_id, 0.01, cost, 'settled',
           day, at AT TIME ZONE 'UTC', (at + interval '3 seconds') AT TIME ZONE 'UTC' FROM calls
    """,
    """
    INSERT INTO billing.usage (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call,
      input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
      vector, estimated, price_id, cost, charge, variance, metadata, recorded_at)
    SELECT attempt_id, $1::uuid, 'user-' || i % 40, task_id, 'agent-' || i % 3, provider, model, 1, 1, 700, 0, 0, 0,
      100, 0, '{}', false, price_id, cost, cost, 0, jsonb_build_object('team', 'team-' || i % 7), at AT TIME ZONE 'UTC'
    FROM calls
    """,
    f"""
    INSERT INTO billing.ledger (entry_id, kind, account, tenant_id, month, amount, attempt_id, hold_id, price_id)
    SELECT attempt_id, 'usage', l.account, $1::uuid, {_MONTH}, l.sign * cost, attempt_id, attempt_id, price_id
    FROM calls CROSS JOIN LATERAL (VALUES ('receivable', 1), ('revenue', -1), ('cost', 1), ('payable:' || provider, -1))
      AS l (account, sign)
    """,
    """
    INSERT INTO billing.balances (tenant_id, scope, subject, period, cap, charged)
    SELECT $1::uuid, s.scope, s.subject, s.period, 1000000, sum(c.cost) FROM calls c CROSS JOIN LATERAL (VALUES
      ('run', c.task_id::text, 'epoch'::date), ('tenant_day', '', c.day), ('user_day', 'user-' || c.i % 40, c.day),
      ('tenant_month', '', date_trunc('month', c.day)::date)) AS s (scope, subject, period)
    GROUP BY 1, 2, 3, 4
    """,
    "DROP TABLE calls",
    "ALTER TABLE billing.ledger ENABLE ALWAYS TRIGGER append_only",
    "ALTER TABLE billing.ledger ENABLE ALWAYS TRIGGER balanced",
    "ALTER TABLE billing.ledger ENABLE ALWAYS TRIGGER founded",
    "VACUUM ANALYZE billing.ledger, billing.usage, billing.holds, billing.balances",
)  # fmt: skip


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Seconds to close the month and issue its invoice, each time for the first time."""
    del logs
    with staged(servers) as stage:
        tenant = stage.new_tenant(monthly_fee_usd="49", free_allowance_usd="10")
        run(_fill(stage, tenant))
        invoiced = [run(_invoiced(stage, tenant, keep=number == RUNS - 1)) for number in range(RUNS)]
    return [
        Figure(f"a month's invoice over {POSTINGS:,} postings", "s", tuple(invoiced), better="less", must=5, aim=2),
    ]


def _billing(stage: Stage) -> AbstractAsyncContextManager[Pool]:
    settings = stage.postgres("laneway_billing").model_copy(update={"timeout": 600})
    return postgres.pool(settings, "bench")


async def _fill(stage: Stage, tenant: UUID) -> None:
    admin = await asyncpg.connect(stage.admin_dsn)
    for statement in _FILL:
        await admin.execute(statement, *([tenant] if "$1" in statement else []))
    await admin.close()


async def _invoiced(stage: Stage, tenant: UUID, *, keep: bool) -> float:
    """As `laneway-billing invoices issue` does it; undone unless it is to be kept."""
    async with _billing(stage) as pool:
        month = await pool.fetchval(f"SELECT {_MONTH}")
        began = perf_counter()
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            closed = await close_month(connection, tenant, month)
            issued = await issue(connection, tenant, month, closed.terms.plan, "bench")
            assert issued is not None
            assert issued.total == closed.owed
            await (transaction.commit() if keep else transaction.rollback())
        return perf_counter() - began
