"""One task for each tick, however many persisters there are and whenever one of them dies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

from common.contracts.identifiers import scheduled_task_id
from tests.integration.gateway.conftest import Running, Tap
from tests.integration.schedules.clockwork import due, due_now, leader, make, persisters, read, ticked
from tests.stage import Stage, eventually


async def _blocked(gateway: Running) -> bool:
    """Whether somebody waits to write down a tick."""
    waiting = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                   AND query LIKE '%INSERT INTO runtime.ticks%')
    """
    return bool(await gateway.database.fetchval(waiting))


async def test_who_dies_between_publishing_and_going_on_leaves_the_tick_for_the_next(
    gateway: Running, tap: Tap, stage: Stage
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant)
    holder = await asyncpg.connect(stage.admin_dsn)
    try:
        async with persisters(stage, 1) as (first,):
            await leader(gateway)
            held = holder.transaction()
            await held.start()
            await holder.execute("LOCK TABLE runtime.ticks IN EXCLUSIVE MODE")
            tick = await due_now(gateway, schedule)
            subject = str(scheduled_task_id(schedule, tick))
            await tap.messages(subject)  # confirmed, as what comes after it is begun
            await eventually(lambda: _blocked(gateway))
            await first.kill()
            await held.rollback()
    finally:
        await holder.close()
    before = len(await tap.messages(subject))
    document = await read(gateway, tenant, schedule)
    assert (document["ticks"], datetime.fromisoformat(document["next_at"])) == ([], tick)
    async with persisters(stage, 1):
        (settled,) = await ticked(gateway, tenant, schedule, deadline=40)
        await tap.messages(subject, before + 1)
    assert (settled["outcome"], settled["task_id"]) == ("fired", subject)
    listed = (await gateway.client.get("/v1/tasks", headers=tenant.headers)).json()["items"]
    assert [task["id"] for task in listed] == [subject]


async def test_many_persisters_fire_one_task_for_each_tick_though_the_leader_is_killed(
    gateway: Running, tap: Tap, stage: Stage
) -> None:
    tenant, rounds = await gateway.tenant(), 4
    schedules = [await make(gateway, tenant) for _ in range(10)]
    ticks: list[datetime] = []
    async with persisters(stage, 1) as (first,):
        await leader(gateway)
        async with persisters(stage, 2):
            for number in range(rounds):
                tick = datetime.now(UTC) + timedelta(milliseconds=200)
                ticks.append(tick)
                for schedule in schedules:
                    await due(gateway, schedule, tick)
                if number == 1:
                    await tap.messages(str(scheduled_task_id(schedules[0], tick)))
                    await first.kill()
                for schedule in schedules:
                    await ticked(gateway, tenant, schedule, number + 1, deadline=40)
    expected = {str(scheduled_task_id(schedule, tick)) for schedule in schedules for tick in ticks}
    published = [message for message in tap.seen if str(tenant.id).encode() in message.body]
    assert {message.correlation_id for message in published} == expected
    outcomes = await gateway.database.fetch("SELECT outcome FROM runtime.ticks WHERE tenant_id = $1", tenant.id)
    assert [row["outcome"] for row in outcomes] == ["fired"] * (rounds * len(schedules))
    tasks = await gateway.database.fetchval("SELECT count(*) FROM history.tasks WHERE tenant_id = $1", tenant.id)
    assert tasks == rounds * len(schedules)
