"""Outstanding tasks after Redis was emptied: the cap and the levels hold, and they are counted once for all who ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from common import postgres
from common.admission import OUTSTANDING_SECONDS, level_of, outstanding_key, release, whole_key
from common.errors import StoreUnavailable
from common.pipelining import Argument, Pipelined, Script
from common.redis import Client
from gateway import outstanding
from gateway.admission import Admission, Candidate, Outcome
from gateway.background import Background
from gateway.database import Database
from gateway.outstanding import Outstanding
from gateway.outstanding_records import OpenTask, OpenTasks, Place
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


async def _many(gateway: Running, tenant: Tenant, count: int) -> None:
    """So many in the record, in tens that were submitted at the same moment."""
    await gateway.database.execute(
        "INSERT INTO history.tasks (task_id, tenant_id, tier, priority, submitted_at)"
        " SELECT gen_random_uuid(), $1, 'pro', n % 10, now() - n / 10 * interval '1 millisecond'"
        " FROM generate_series(1, $2) n",
        tenant.id,
        count,
    )


def _admission(records: OpenTasks, state: Client, background: Background) -> Admission:
    redis = pipelined(state)
    return Admission(redis, Outstanding(records, redis, background), 1)


async def _outcome(admission: Admission, tenant: Tenant, most: int) -> Outcome:
    candidate = Candidate(uuid4(), 5, False, "", "", b"")
    return (await admission.admit(Principal(tenant.id, "pro", 100_000, most), candidate)).outcome


async def test_a_tenant_with_very_many_is_counted_page_by_page_and_nobody_waits_for_all_of_it(
    gateway: Running, stage: Stage, state: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outstanding, "_PAGE", 487)  # no divisor: the last page is not a whole one
    monkeypatch.setattr(outstanding, "_PAGE_SECONDS", 30.0)
    monkeypatch.setattr(outstanding, "_WAIT_SECONDS", 0.5)
    tenant = await gateway.tenant()
    await _many(gateway, tenant, 30_000)
    go_on = asyncio.Event()
    pages: list[Place] = []

    class Long(OpenTasks):
        async def page(self, tenant_id: UUID, after: Place, size: int) -> tuple[list[OpenTask], Place | None]:
            if pages:
                await go_on.wait()
            pages.append(after)
            return await super().page(tenant_id, after, size)

    async with postgres.pool(stage.postgres("laneway_gateway"), "test") as pool, Background() as background:
        admission = _admission(Long(Database(pool, 30.0)), state, background)
        with capture_logs() as logs:
            # The second one has no patience left, and is admitted while the count stands still.
            assert [await _outcome(admission, tenant, 30_002) for _ in range(2)] == [Outcome.ADMITTED] * 2
            assert len(pages) == 1
            assert not await state.exists(whole_key(tenant.id))
            go_on.set()

            async def whole() -> bool:
                told = {entry["event"] for entry in logs}
                return "admission.recounted" in told and bool(await state.exists(whole_key(tenant.id)))

            await eventually(whole, 60)
        assert len(pages) == 30_000 // 487 + 1
        assert await _outstanding(state, tenant) == 30_002
        assert await _outcome(admission, tenant, 30_002) is Outcome.TOO_MANY
    assert [entry["tasks"] for entry in logs if entry["event"] == "admission.recounted"] == [30_000]


@pytest.mark.parametrize("how", ["failed", "lost"])
async def test_sets_are_not_called_whole_where_a_page_is_missing_and_the_count_is_made_again(
    gateway: Running, stage: Stage, state: Client, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(outstanding, "_PAGE", 10)
    monkeypatch.setattr(outstanding, "_WAIT_SECONDS", 30.0)
    tenant = await gateway.tenant()
    await _many(gateway, tenant, 35)
    pages: list[Place] = []

    class Interrupted(OpenTasks):
        async def page(self, tenant_id: UUID, after: Place, size: int) -> tuple[list[OpenTask], Place | None]:
            pages.append(after)
            if len(pages) == 3 and how == "failed":
                raise StoreUnavailable("in the middle")
            if len(pages) == 3:
                await forget(state, tenant)
            return await super().page(tenant_id, after, size)

    async with postgres.pool(stage.postgres("laneway_gateway"), "test") as pool, Background() as background:
        admission = _admission(Interrupted(Database(pool, 5.0)), state, background)
        assert await _outcome(admission, tenant, 36) is Outcome.ADMITTED, "by what Redis has"
        assert len(pages) == (3 if how == "failed" else 4)
        assert not await state.exists(whole_key(tenant.id))

        async def counted() -> bool:
            return await _outcome(admission, tenant, 36) is Outcome.TOO_MANY

        await eventually(counted, 30)
    assert await _outstanding(state, tenant) >= 36


async def test_a_tenant_that_cannot_be_counted_keeps_no_other_from_it(
    gateway: Running, stage: Stage, state: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outstanding, "_REST_SECONDS", 3600.0)
    monkeypatch.setattr(outstanding, "_WAIT_SECONDS", 30.0)
    monkeypatch.setattr(outstanding, "_PAGE_SECONDS", 30.0)
    failing, fine = await gateway.tenant(), await gateway.tenant()
    await _many(gateway, failing, 5)
    await _many(gateway, fine, 5)
    asked: list[UUID] = []

    class Broken(OpenTasks):
        async def page(self, tenant_id: UUID, after: Place, size: int) -> tuple[list[OpenTask], Place | None]:
            asked.append(tenant_id)
            if tenant_id == failing.id:
                raise StoreUnavailable("for this one")
            return await super().page(tenant_id, after, size)

    async with postgres.pool(stage.postgres("laneway_gateway"), "test") as pool, Background() as background:
        admission = _admission(Broken(Database(pool, 30.0)), state, background)
        assert await _outcome(admission, failing, 5) is Outcome.ADMITTED, "by what Redis has"
        assert await _outcome(admission, fine, 5) is Outcome.TOO_MANY
        assert await _outcome(admission, failing, 5) is Outcome.ADMITTED
    assert asked == [failing.id, fine.id], "nobody waits for the same failure again"
