"""A hold and its settlement for each model call, as workers and billing make them, against bare updates of a row.

Sixteen connections on both sides. Twelve are workers', each with so many runs at a time as a worker has slots, which
ask together as a worker's runs do; four are billing's, which settle in batches what was held. Bare are sixteen clients
that each add one to a row of their own, one transaction after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from uuid import UUID, uuid4

import asyncpg

from agent_worker.accounts import until_available
from agent_worker.leave import CallRequest
from agent_worker.repository import RunRepository
from benchmarks.figures import Figure, ratio
from benchmarks.stand import RUNS, run
from billing import handlers
from common import postgres
from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.identifiers import attempt_id
from common.contracts.usage import Usage
from common.messaging.consumer import BatchPolicy
from common.postgres import Pool
from tests.servers import Servers
from tests.stage import Stage, staged

WORKERS, SETTLERS = 12, 4
CONNECTIONS = WORKERS + SETTLERS
SLOTS = 32
RUNS_OF_A_WORKER = 160
CALLS_OF_A_RUN = 3
COMPANY = BatchPolicy()
UPDATES = 1000
# Before the clock starts: a connection's first statements look up types, and plan what is kept from then on.
FIRST_RUNS, FIRST_UPDATES = 2 * SLOTS, 100
PROVIDER, MODEL = "anthropic", "claude-haiku-4-5"
_RUN = """
INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts, worker, lease_until)
SELECT r.task_id, r.tenant_id, 'pro', 'running', 1, 1, 'bench', now() + interval '1 day'
FROM unnest($1::uuid[], $2::uuid[]) AS r (task_id, tenant_id)
"""


@dataclass(frozen=True)
class Task:
    """A run that asks for calls."""

    task_id: UUID
    tenant_id: UUID


def many_tenants(servers: Servers, logs: Path) -> list[Figure]:
    """Calls a second of 50 tenants, and bare updates a second, in turns."""
    del logs
    with staged(servers) as stage:
        ours, theirs = [], []
        for _ in range(RUNS):
            theirs.append(run(_bare(stage)))
            ours.append(run(_calls(stage, [_tenant(stage) for _ in range(50)])))
    return [
        ratio("hold and settle a call, 50 tenants, against a bare update", ours, theirs, must=0.5, aim=1.0),
        Figure("calls held and settled, 50 tenants", "/s", tuple(ours)),
        Figure("bare updates of single rows, 16 connections", "/s", tuple(theirs)),
    ]


def hot_tenant(servers: Servers, logs: Path) -> list[Figure]:
    """The same of one tenant, whose balances every call locks."""
    del logs
    with staged(servers) as stage:
        rates = tuple(run(_calls(stage, [_tenant(stage)])) for _ in range(RUNS))
    return [Figure("calls held and settled, one hot tenant", "/s", rates, must=500, aim=1000)]


def _tenant(stage: Stage) -> UUID:
    return stage.new_tenant(
        user_day_cap_usd="1000000", tenant_day_cap_usd="1000000", tenant_month_cap_usd="1000000", run_cap_usd="1000"
    )


async def _bare(stage: Stage) -> float:
    """Updates a second."""
    admin = await asyncpg.connect(stage.admin_dsn)
    await admin.execute(
        "DROP TABLE IF EXISTS bare; CREATE TABLE bare (id int PRIMARY KEY, n int) WITH (fillfactor = 50)"
    )
    await admin.execute("INSERT INTO bare SELECT i, 0 FROM generate_series(1, $1::int) AS i", CONNECTIONS)
    await admin.close()
    connections = [await asyncpg.connect(stage.admin_dsn) for _ in range(CONNECTIONS)]

    async def update(number: int, connection: asyncpg.Connection[asyncpg.Record], times: int) -> None:
        for _ in range(times):
            await connection.execute("UPDATE bare SET n = n + 1 WHERE id = $1", number)

    await asyncio.gather(*(update(number, one, FIRST_UPDATES) for number, one in enumerate(connections, 1)))
    began = perf_counter()
    await asyncio.gather(*(update(number, one, UPDATES) for number, one in enumerate(connections, 1)))
    seconds = perf_counter() - began
    for connection in connections:
        await connection.close()
    return CONNECTIONS * UPDATES / seconds


async def _calls(stage: Stage, tenants: Sequence[UUID]) -> float:
    """Calls a second that are held and settled: from the first hold to the last settlement."""
    async with (
        _pools(stage, "laneway_worker", WORKERS) as workers,
        _pools(stage, "laneway_billing", SETTLERS) as settlers,
    ):
        await _round(stage, workers, settlers, tenants, FIRST_RUNS)
        return await _round(stage, workers, settlers, tenants, RUNS_OF_A_WORKER)


async def _round(
    stage: Stage, workers: Sequence[Pool], settlers: Sequence[Pool], tenants: Sequence[UUID], runs: int
) -> float:
    """Calls a second of so many runs of each worker."""
    tasks = [Task(uuid4(), tenants[number % len(tenants)]) for number in range(WORKERS * runs)]
    await _begin(stage, tasks)
    held: asyncio.Queue[UsageRecorded | None] = asyncio.Queue()
    began = perf_counter()
    settling = [asyncio.create_task(_settle(pool, held)) for pool in settlers]
    await asyncio.gather(*(_work(pool, tasks[number::WORKERS], held) for number, pool in enumerate(workers)))
    for _ in settlers:
        held.put_nowait(None)
    await asyncio.gather(*settling)
    return len(tasks) * CALLS_OF_A_RUN / (perf_counter() - began)


@asynccontextmanager
async def _pools(stage: Stage, role: str, count: int) -> AsyncIterator[list[Pool]]:
    """So many of one connection each, which are open."""
    settings = stage.postgres(role).model_copy(update={"pool_size": 1, "timeout": 60})
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(postgres.pool(settings, "bench")) for _ in range(count)]
        await asyncio.gather(*(pool.fetchval("SELECT 1") for pool in pools))
        yield pools


async def _begin(stage: Stage, tasks: Sequence[Task]) -> None:
    admin = await asyncpg.connect(stage.admin_dsn)
    await admin.execute(_RUN, [task.task_id for task in tasks], [task.tenant_id for task in tasks])
    await admin.close()


async def _work(pool: Pool, tasks: Sequence[Task], held: asyncio.Queue[UsageRecorded | None]) -> None:
    """One worker: its slots take one run after the other."""
    repository, waiting = RunRepository(pool, 60, timedelta(seconds=10)), iter(tasks)

    async def slot() -> None:
        for task in waiting:
            for number in range(1, CALLS_OF_A_RUN + 1):
                await _hold(repository, task, number)
                held.put_nowait(_record(task, number))

    await asyncio.gather(*(slot() for _ in range(SLOTS)))


async def _hold(repository: RunRepository, task: Task, number: int) -> None:
    request = CallRequest(
        attempt_id(task.task_id, number, number), number, number, "anna", PROVIDER, MODEL, 1000, 1000, None
    )
    leave = await until_available(lambda: repository.begin_call(task.tenant_id, task.task_id, 1, request, None))
    assert leave.verdict == "held", leave


def _record(task: Task, number: int) -> UsageRecorded:
    return UsageRecorded(
        attempt_id=attempt_id(task.task_id, number, number), task_id=task.task_id, tenant_id=task.tenant_id,
        user_id="anna", agent="default", provider=PROVIDER, model=MODEL, step=number, call=number, fence=1,
        usage=Usage(input_tokens=700, output_tokens=150), provider_request_id="req", recorded_at=now(),
    )  # fmt: skip


async def _settle(pool: Pool, held: asyncio.Queue[UsageRecorded | None]) -> None:
    """One process of billing: what came by now, in one transaction; for company it waits as billing does."""
    while True:
        batch = [await held.get()]
        if held.qsize() + 1 < COMPANY.size:
            await asyncio.sleep(COMPANY.linger)
        while len(batch) < COMPANY.size and not held.empty() and batch[-1] is not None:
            batch.append(held.get_nowait())
        if records := [record for record in batch if record is not None]:
            await handlers.settle_usage(records, pool, 60)
        if batch[-1] is None:
            return
