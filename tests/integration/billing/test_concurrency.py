"""Under any concurrency: nothing deadlocks, nothing is charged twice, and no cap is exceeded, held amounts included."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from itertools import product
from uuid import UUID, uuid4

import pytest

from agent_worker.leave import CallRequest
from agent_worker.repository import RunRepository
from common import postgres
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.contracts.usage import Usage
from common.postgres import Pool
from tests.integration.billing.calls import MODEL, PROVIDER, Call, balances, settle
from tests.stage import Stage, eventually

HOLD = Decimal("0.007")
USED = Usage(input_tokens=1500, output_tokens=300)
"""Costs 0.003 of that."""


@pytest.fixture
async def many(stage: Stage) -> AsyncIterator[Pool]:
    """As the owner, on many connections."""
    settings = stage.postgres("laneway_owner").model_copy(update={"pool_size": 24, "timeout": 30.0})
    async with postgres.pool(settings, "test-many") as made:
        yield made


async def test_hundreds_of_reserves_at_once_stay_below_a_tight_cap(stage: Stage, many: Pool) -> None:
    tenant = stage.new_tenant(tenant_day_cap_usd="0.1")  # fits 14 holds of 0.007
    verdicts = await asyncio.gather(*(Call(tenant, uuid4()).reserve(many) for _ in range(300)))
    assert sorted(set(verdicts)) == ["held", "wait"]
    assert verdicts.count("held") == 14
    held, _ = (await balances(many, tenant))["tenant_day"]
    assert held == 14 * HOLD


async def test_reserving_and_settling_side_by_side(stage: Stage, pool: Pool, many: Pool) -> None:
    """Three tenants with caps that bite; batches across them, in any order, each delivered twice at the same time.

    A deadlock would be raised here, from a reserve or from a settlement.
    """
    tenants = [stage.new_tenant(tenant_day_cap_usd="0.3", user_day_cap_usd="0.2") for _ in range(3)]
    chance = random.Random(7)

    async def work() -> None:
        for _ in range(5):
            calls = [Call(tenant, uuid4(), user_id=chance.choice(["anna", "ben", None])) for tenant in tenants * 3]
            held = [call for call in calls if await call.reserve(many) == "held"]
            chance.shuffle(held)
            records = [call.record(usage=USED) for call in held]
            if records:
                await asyncio.gather(settle(pool, *records), settle(pool, *reversed(records)))

    exceeded: list[str] = []
    watcher = asyncio.create_task(_watch(many, tenants, exceeded))
    async with asyncio.timeout(120):
        await asyncio.gather(*(work() for _ in range(24)))
    watcher.cancel()
    assert exceeded == []
    for tenant in tenants:
        await _assert_books(many, tenant)


async def test_two_workers_batches_and_settlements_side_by_side(stage: Stage, pool: Pool, many: Pool) -> None:
    """Runs of three tenants on two workers, whose calls go in batches, while their earlier calls are settled."""
    tenants = [stage.new_tenant() for _ in range(3)]
    before = await _deadlocks(many)

    async def runs(repository: RunRepository, user: str | None, tenant: UUID) -> None:
        submitted = _submitted(tenant)
        task = submitted.task_id
        assert (await repository.acquire(submitted, "test")).decision == "acquired"
        async with asyncio.TaskGroup() as settling:
            for number in range(1, 6):
                call = Call(tenant, task, number=number, user_id=user)
                asked = CallRequest(call.attempt_id, 1, number, user, PROVIDER, MODEL, 1000, 1000, None)
                assert (await repository.begin_call(tenant, task, 1, asked, None)).verdict == "held"
                settling.create_task(settle(pool, call.record(usage=USED)))
        assert await repository.finish(task, 1, "completed", b"{}", now())

    async with postgres.pool(stage.postgres("laneway_worker"), "test-worker") as workers, asyncio.timeout(120):
        repositories = [RunRepository(workers, 30, timedelta(minutes=1)) for _ in range(2)]
        who = product(repositories, ("anna", "ben", None), tenants * 8)
        await asyncio.gather(*(runs(repository, user, tenant) for repository, user, tenant in who))
    for tenant in tenants:
        await _assert_books(many, tenant)
    assert await _deadlocks(many) == before


# Holds of the tenant's days that went above the cap that was in force by the log of changes.
_ABOVE_THE_LOG = """
WITH days AS (
  SELECT m.*, sum(m.held + m.charged)
           OVER (PARTITION BY m.period ORDER BY m.at, m.opens ROWS UNBOUNDED PRECEDING) AS used
  FROM billing.scope_moves($1, $2) m WHERE m.scope = 'tenant_day'
)
SELECT d.at, d.used FROM days d WHERE d.opens AND d.used > coalesce(
  (SELECT l.new_value::numeric FROM billing.budget_log l
   WHERE l.tenant_id = $1 AND l.scope = 'tenant_day' AND l.at < d.at ORDER BY l.id DESC LIMIT 1), 0.05)
"""


async def test_caps_and_days_that_change_while_holds_are_taken_and_settled(
    stage: Stage, pool: Pool, many: Pool
) -> None:
    """Each hold goes by the cap of its moment: by what the holds say of that, and by the log of who changed it."""
    tenant = stage.new_tenant(tenant_day_cap_usd="0.05")
    # Where it is a day earlier than in the zone that it is given meanwhile, whatever the time is.
    await many.execute("UPDATE identity.tenants SET time_zone = 'Etc/GMT+12' WHERE tenant_id = $1", tenant)
    held, refused = asyncio.Event(), asyncio.Event()

    async def meddle() -> None:
        await held.wait()
        await _put(many, tenant, "0.002")
        refused.clear()
        await refused.wait()
        for cap in ("0.1", "0.002", "0.06", None) * 6:
            await _put(many, tenant, cap)
        assert await many.fetchval("SELECT billing.put_time_zone($1, 'Etc/GMT-14', 'ada', 'a test')", tenant)
        for cap in ("0.03", "0.06", "0.01", "5"):
            await _put(many, tenant, cap)

    async with postgres.pool(stage.postgres("laneway_worker"), "test-worker") as workers, asyncio.timeout(120):
        repositories = [RunRepository(workers, 30, timedelta(minutes=1)) for _ in range(2)]
        runs = (_five_calls(repository, pool, tenant, held, refused) for repository in repositories * 12)
        await asyncio.gather(meddle(), *runs)
    days = await many.fetch("SELECT DISTINCT day FROM billing.holds WHERE tenant_id = $1", tenant)
    assert len(days) == 2
    for month in {row["day"].replace(day=1) for row in days}:
        assert await many.fetch("SELECT * FROM billing.proof_differences($1, $2)", tenant, month) == []
        assert await many.fetch(_ABOVE_THE_LOG, tenant, month) == []


async def _put(owner: Pool, tenant: UUID, cap: str | None) -> None:
    query = "SELECT billing.put_budget($1, 'tenant_day', '', $2::text::numeric, 'ada', 'a test')"
    assert await owner.fetchval(query, tenant, cap)


async def _five_calls(
    repository: RunRepository, pool: Pool, tenant: UUID, held: asyncio.Event, refused: asyncio.Event
) -> None:
    """Of one run; each is asked for until it fits."""
    submitted = _submitted(tenant)
    assert (await repository.acquire(submitted, "test")).decision == "acquired"
    for number in range(1, 6):
        call = Call(tenant, submitted.task_id, number=number, user_id="anna")
        asked = CallRequest(call.attempt_id, 1, number, "anna", PROVIDER, MODEL, 1000, 1000, None)
        while (await repository.begin_call(tenant, submitted.task_id, 1, asked, None)).verdict != "held":
            refused.set()
        held.set()
        await settle(pool, call.record(usage=USED))


def _submitted(tenant: UUID) -> TaskSubmitted:
    return TaskSubmitted(
        task_id=uuid4(),
        tenant_id=tenant,
        tier="free",
        level=30,
        priority=5,
        agent="default",
        input=(InputMessage(role="user", content="hello"),),
        request_hash="",
        submitted_at=now(),
    )


async def _deadlocks(owner: Pool) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(await owner.fetchval(query))


async def _watch(owner: Pool, tenants: list[UUID], exceeded: list[str]) -> None:
    query = "SELECT scope FROM billing.balances WHERE held + charged > cap AND tenant_id = ANY ($1)"
    while True:
        exceeded.extend(row["scope"] for row in await owner.fetch(query, tenants))


async def _assert_books(owner: Pool, tenant: object) -> None:
    """Nothing is held any more; what each scope was charged is what was posted."""
    query = """
    SELECT (SELECT sum(amount) FROM billing.ledger WHERE tenant_id = $1 AND account = 'receivable') AS posted,
           (SELECT sum(amount) FROM billing.ledger WHERE tenant_id = $1) AS sum,
           (SELECT count(*) FROM billing.holds WHERE tenant_id = $1 AND state <> 'settled') AS unsettled,
           (SELECT sum(held) FROM billing.balances WHERE tenant_id = $1) AS held,
           (SELECT sum(charged) FROM billing.balances WHERE tenant_id = $1 AND scope = 'run') AS runs,
           (SELECT charged FROM billing.balances WHERE tenant_id = $1 AND scope = 'tenant_day') AS day,
           (SELECT charged FROM billing.balances WHERE tenant_id = $1 AND scope = 'tenant_month') AS month
    """
    books = await owner.fetchrow(query, tenant)
    assert books is not None
    assert (books["sum"], books["unsettled"], books["held"]) == (0, 0, 0)
    assert books["posted"] == books["runs"] == books["day"] == books["month"] > 0


async def test_who_changes_balances_queues_for_the_tenant_and_for_no_other(
    stage: Stage, pool: Pool, many: Pool
) -> None:
    """Waiting for the rows alone, those who came late may be served first, and one of them for ever."""
    call, other = Call(stage.new_tenant(), uuid4()), Call(stage.new_tenant(), uuid4())
    for one in (call, other):
        assert await one.reserve(many) == "held"
    async with many.acquire() as first:
        transaction = first.transaction()
        await transaction.start()
        await first.execute("SELECT billing.queue_for(ARRAY[$1::uuid])", call.tenant_id)
        waiting = asyncio.create_task(settle(pool, call.record(usage=USED)))
        await settle(pool, other.record(usage=USED))

        async def queued() -> bool:
            count: int = await many.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
            return count > 0

        await eventually(queued, 30)
        assert not waiting.done()
        await transaction.rollback()
    await waiting
    for one in (call, other):
        assert (await balances(many, one.tenant_id))["run"] == (Decimal(0), Decimal("0.003"))
