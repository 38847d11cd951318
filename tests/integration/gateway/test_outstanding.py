"""Outstanding tasks after Redis was emptied: the cap and the levels hold, and they are counted once for all who ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from structlog.testing import capture_logs

from common import postgres
from common.admission import OUTSTANDING_SECONDS, level_of, outstanding_key, release, whole_key
from common.pipelining import Argument, Pipelined, Script
from common.redis import Client
from gateway.admission import Admission, Candidate
from gateway.background import Background
from gateway.database import Database
from gateway.outstanding import Outstanding
from gateway.outstanding_records import OpenTasks
from gateway.principals import Principal
from tests.integration.gateway.batching import questions, recorded, recording, submit
from tests.integration.gateway.conftest import Fragile, Running, Tap, Tenant, forget
from tests.stage import Stage, eventually, pipelined


async def _outstanding(state: Client, tenant: Tenant) -> int:
    return sum([await state.zcard(outstanding_key(tenant.id, priority)) for priority in range(10)])


async def _recorded(gateway: Running, tenant: Tenant, count: int, **fields: Any) -> list[UUID]:
    batch = (await submit(gateway, tenant, questions(count, **fields))).json()
    await recorded(gateway, batch)
    return [UUID(task["id"]) for task in batch["tasks"]]


async def test_the_cap_holds_though_redis_was_emptied(gateway: Running, stage: Stage, state: Client) -> None:
    tenant = await gateway.tenant("pro", max_outstanding=10)
    async with recording(stage):
        tasks = await _recorded(gateway, tenant, 9)
    run = (
        "INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts) VALUES ($1, $2, 'pro', $3, 1, 1)"
    )
    await gateway.database.execute(run, tasks[0], tenant.id, "completed")  # its end is not recorded yet
    await gateway.database.execute(run, tasks[1], tenant.id, "running")
    await forget(state, tenant)
    refused = await submit(gateway, tenant, questions(3))
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:laneway:problem:too-many-outstanding")
    assert await _outstanding(state, tenant) == 8
    assert [(await gateway.submit(tenant)).status_code for _ in range(3)] == [202, 202, 429]


async def test_a_task_that_counts_already_may_come_again(gateway: Running, stage: Stage, state: Client) -> None:
    tenant = await gateway.tenant("pro", max_outstanding=2)
    keys = [f"order-{tenant.id}-{n}" for n in range(3)]
    async with recording(stage):
        for key in keys[:2]:
            assert (await gateway.submit(tenant, key=key)).status_code == 202

        async def both() -> bool:
            count = "SELECT count(*) FROM history.tasks WHERE tenant_id = $1"
            return bool(await gateway.database.fetchval(count, tenant.id) == 2)

        await eventually(both)
    await forget(state, tenant)
    assert [(await gateway.submit(tenant, key=key)).status_code for key in keys] == [200, 200, 429]


async def test_levels_are_right_again(gateway: Running, stage: Stage, state: Client, tap: Tap) -> None:
    tenant = await gateway.tenant()
    async with recording(stage):
        await _recorded(gateway, tenant, 7, priority=9)
        await _recorded(gateway, tenant, 9, priority=2)
    await forget(state, tenant)
    levels = [await _level(gateway, tap, tenant, priority) for priority in (5, 0)]
    assert levels == [level_of(7), level_of(17)]


async def _level(gateway: Running, tap: Tap, tenant: Tenant, priority: int) -> int:
    task = (await gateway.submit(tenant, priority=priority)).json()
    return (await tap.messages(task["id"]))[0].priority or 0


async def test_they_are_counted_once_for_all_who_ask(gateway: Running, stage: Stage, state: Client) -> None:
    tenant = await gateway.tenant("pro", max_outstanding=20)
    async with recording(stage):
        await _recorded(gateway, tenant, 15)
    await forget(state, tenant)
    with capture_logs() as logs:
        answers = await asyncio.gather(*(gateway.submit(tenant) for _ in range(30)))
        await gateway.submit(tenant)
    assert Counter(answer.status_code for answer in answers) == {202: 5, 429: 25}
    counted = [entry for entry in logs if entry["event"] == "admission.recounted"]
    assert [(entry["tenant_id"], entry["tasks"]) for entry in counted] == [(str(tenant.id), 15)]


async def test_a_task_of_later_counts_until_its_time_and_what_is_long_gone_does_not(
    gateway: Running, stage: Stage, state: Client
) -> None:
    tenant = await gateway.tenant()
    start = datetime.now(UTC) + timedelta(days=3)
    async with recording(stage):
        (later,) = await _recorded(gateway, tenant, 1, not_before=start.isoformat())
        (forgotten,) = await _recorded(gateway, tenant, 1)
    long_ago = "UPDATE history.tasks SET submitted_at = submitted_at - interval '7 hours' WHERE task_id = ANY ($1)"
    await gateway.database.execute(long_ago, [later, forgotten])
    await gateway.database.execute(
        "INSERT INTO runtime.parked (task_id, tenant_id, tier, reason, wake_at, priority, submitted_at, message, told)"
        " VALUES ($1, $2, 'pro', 'not_before', $3, 5, now(), '', '[]')",
        later,
        tenant.id,
        start,
    )
    await forget(state, tenant)
    await gateway.submit(tenant, priority=1)
    assert await state.zrange(outstanding_key(tenant.id, 5), 0, -1) == [str(later).encode()]
    score = await state.zscore(outstanding_key(tenant.id, 5), str(later))
    assert score is not None
    forgotten_at = datetime.fromtimestamp(score / 1000, UTC)
    assert abs(forgotten_at - start - timedelta(seconds=OUTSTANDING_SECONDS)) < timedelta(seconds=30)
    assert await state.ttl(outstanding_key(tenant.id, 5)) > timedelta(days=3).total_seconds()


async def test_without_postgresql_they_are_admitted_and_counted_later(
    fragile: Fragile, stage: Stage, state: Client
) -> None:
    gateway = fragile.gateway
    tenant = await gateway.tenant("pro", max_outstanding=5)
    async with recording(stage):
        await _recorded(gateway, tenant, 5)
        await forget(state, tenant)
        for how in ("hang", "cut"):
            getattr(fragile.postgres, how)()
            assert (await gateway.submit(tenant)).status_code == 202, "by what Redis has"
            assert not await state.exists(whole_key(tenant.id))
        fragile.postgres.restore()

        async def counted() -> bool:
            return (await gateway.submit(tenant)).status_code == 429

        await eventually(counted, 30)


async def test_what_was_admitted_without_redis_is_counted_when_it_is_back(
    fragile: Fragile, stage: Stage, state: Client
) -> None:
    gateway = fragile.gateway
    tenant = await gateway.tenant()
    async with recording(stage):
        await _recorded(gateway, tenant, 1)
        fragile.redis.cut()
        batch = (await submit(gateway, tenant, questions(4))).json()
        await recorded(gateway, batch)
        assert await _outstanding(state, tenant) == 1
        fragile.redis.restore()

        async def counted() -> bool:
            assert (await gateway.submit(tenant)).status_code == 202
            return await _outstanding(state, tenant) >= 6

        await eventually(counted)


async def test_what_ends_while_it_is_counted_does_not_stay(gateway: Running, stage: Stage, state: Client) -> None:
    """Its release comes before it is added, so that nobody else would take it out again."""
    tenant = await gateway.tenant()
    async with recording(stage):
        tasks = await _recorded(gateway, tenant, 3)
    await forget(state, tenant)
    ending = tasks[1]

    class Ending(Pipelined):
        async def run_each(
            self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
        ) -> list[Any]:
            if any(str(ending) in arguments for _, arguments in calls):
                await gateway.database.execute(
                    "INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts)"
                    " VALUES ($1, $2, 'pro', 'completed', 1, 1)",
                    ending,
                    tenant.id,
                )
                await release(pipelined(state), tenant.id, ending, 5)
            return await super().run_each(script, calls)

    redis = Ending(state, 2.0)
    async with postgres.pool(stage.postgres("laneway_gateway"), "test") as pool, Background() as background:
        admission = Admission(redis, Outstanding(OpenTasks(Database(pool, 5.0)), redis, background), 1)
        await admission.admit(Principal(tenant.id, "pro", 100, 100), Candidate(UUID(int=1), 1, False, "", "", b""))
    assert sorted(await state.zrange(outstanding_key(tenant.id, 5), 0, -1)) == sorted(
        str(task).encode() for task in tasks if task != ending
    )
