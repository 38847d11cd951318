"""Billing, one process, against a consumer that does nothing but acknowledge, on the same usage records."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from uuid import UUID, uuid4

import asyncpg
import httpx2

from benchmarks.figures import Figure, ratio
from benchmarks.money.calls import MODEL, PROVIDER
from benchmarks.stand import RUNS, as_admin, run, stack_of
from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.usage import Usage
from common.messaging.publisher import Publisher, publisher
from common.messaging.topology import AGENT_WORKER, BILLING_QUEUE, EVENTS
from deploy.local.ports import HOST
from tests.acceptance.stack import Stack
from tests.servers import Servers
from tests.stage import Stage

RECORDS = 10_000
TENANTS = 50
IN_FLIGHT = 500
# Each call has its hold, and its tenant, user and run their balances, as they are when its record comes.
_HOLDS = """
WITH calls AS (
  INSERT INTO billing.holds (attempt_id, tenant_id, user_id, task_id, fence, step, call, provider, model, price_id,
                             amount, day)
  SELECT r.attempt_id, r.tenant_id, 'anna', r.attempt_id, 1, 1, 1, p.provider, p.model, p.price_id, 0.01,
         (now() AT TIME ZONE 'UTC')::date
  FROM unnest($1::uuid[], $2::uuid[]) AS r (attempt_id, tenant_id) JOIN billing.prices p ON p.model = $3
  RETURNING *
)
INSERT INTO billing.balances AS b (tenant_id, scope, subject, period, cap, held)
SELECT c.tenant_id, s.scope, s.subject, s.period, 1000, sum(c.amount) FROM calls c CROSS JOIN LATERAL (VALUES
  ('run', c.task_id::text, 'epoch'::date), ('tenant_day', '', c.day),
  ('tenant_month', '', date_trunc('month', c.day)::date), ('user_day', c.user_id, c.day)) AS s (scope, subject, period)
GROUP BY 1, 2, 3, 4
ON CONFLICT (tenant_id, scope, subject, period) DO UPDATE SET held = b.held + excluded.held
"""


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Records per second of each, from the first to the last, in turns."""
    ours, theirs = [], []
    with stack_of(servers, logs, ()) as stack:
        for _ in range(RUNS):
            run(_fill(stack.stage))
            theirs.append(_bare(stack))
            run(_fill(stack.stage))
            stack.start("billing")
            ours.append(run(_settled(stack)))
            stack.terminate("billing")
    return [
        ratio("billing, against bare consume-and-ack", ours, theirs, must=0.25, aim=0.5),
        Figure("billing, usage records settled", "/s", tuple(ours)),
        Figure("bare consume-and-ack", "/s", tuple(theirs)),
    ]


async def _fill(stage: Stage) -> None:
    """Calls that are held, and their records in the queue."""
    tenants = [stage.new_tenant() for _ in range(TENANTS)]
    calls = [(uuid4(), tenants[number % TENANTS]) for number in range(RECORDS)]
    admin = await asyncpg.connect(stage.admin_dsn)
    await admin.execute(_HOLDS, [call for call, _ in calls], [tenant for _, tenant in calls], MODEL)
    await admin.execute("VACUUM ANALYZE billing.holds, billing.balances")
    await admin.close()
    async with publisher(stage.rabbit(AGENT_WORKER), AGENT_WORKER) as worker:
        for first in range(0, RECORDS, IN_FLIGHT):
            await _publish(worker, calls[first : first + IN_FLIGHT])


async def _publish(worker: Publisher, calls: Sequence[tuple[UUID, UUID]]) -> None:
    async with asyncio.TaskGroup() as group:
        for attempt, tenant in calls:
            record = UsageRecorded(
                attempt_id=attempt, task_id=attempt, tenant_id=tenant, user_id="anna", agent="default",
                provider=PROVIDER, model=MODEL, step=1, call=1, fence=1, provider_request_id="req",
                usage=Usage(input_tokens=700, output_tokens=150), recorded_at=now(),
            )  # fmt: skip
            sent = worker.publish(EVENTS, record.kind, record, subject=attempt, stable_id=str(attempt))
            group.create_task(sent)


def _bare(stack: Stack) -> float:
    command = ["benchmarks.rivals.consume", as_admin(stack.stage), BILLING_QUEUE, str(RECORDS)]
    found = subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, text=True, timeout=180)
    return float(found.stdout)


async def _settled(stack: Stack) -> float:
    """Records per second, by billing's own count, from its first batch on."""
    url = f"http://{HOST}:{stack.port('billing')}/metrics"
    first: tuple[float, float] | None = None
    async with asyncio.timeout(180), httpx2.AsyncClient() as client:
        while True:
            try:
                text = (await client.get(url)).text
            except httpx2.HTTPError:
                await asyncio.sleep(0.01)
                continue
            at, settled = perf_counter(), _total(text)
            if first is None and settled:
                first = (at, settled)
            if first is not None and settled >= RECORDS:
                return (settled - first[1]) / (at - first[0])
            await asyncio.sleep(0.1)


def _total(metrics: str) -> float:
    lines = (line for line in metrics.splitlines() if line.startswith("laneway_billing_settled_total"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
