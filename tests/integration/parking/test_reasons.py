"""Each reason to wait: the slot is free at once, nothing is lost, and the run goes on when it may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from common.contracts.base import now
from common.lifecycle import stop
from common.messaging.publisher import Publisher
from tests.integration.agent_worker.world import Played, World
from tests.integration.parking.yard import ANSWER, cap, parked_row, told, until_parked, waking


async def test_a_task_starts_when_its_time_has_come_and_not_before(world: World, resender: Publisher) -> None:
    start = now() + timedelta(seconds=3)
    provider, task = Played(ANSWER), world.task(not_before=start)
    worker = await world.worker(provider)
    await world.submit(task)
    row = await until_parked(world, task, "not_before")
    await worker.idle()
    run = await world.run_row(task)
    assert (run["status"], run["fence"], run["attempts"], run["started_at"]) == ("parked", 0, 0, None)
    assert row["wake_at"] == start
    async with waking(world, resender):
        end = await world.heard.end(task.task_id)
    assert (end.status, end.fence, end.attempts) == ("completed", 1, 1)
    assert end.started_at is not None
    assert timedelta(0) < end.started_at - start < timedelta(seconds=30)
    assert await parked_row(world, task) == {}


async def test_the_stream_says_that_it_waits_and_then_goes_on(world: World, resender: Publisher) -> None:
    task = world.task(not_before=now() + timedelta(seconds=3))
    await world.worker(Played(ANSWER))
    await world.submit(task)
    async with waking(world, resender):
        await world.heard.end(task.task_id)

    async def all_there() -> bool:
        return told(await world.stream(task))[-1:] == [("1-4", "done")]

    await world.until(all_there)
    events = await world.stream(task)
    assert told(events) == [
        ("0-1", "not_before"),
        ("1-1", "start"),
        ("1-2", "token"),
        ("1-3", "usage"),
        ("1-4", "done"),
    ]
    assert events[0].data["status"] == "parked"
    (first,) = world.heard.progress(task.task_id)
    assert first.events == (events[0],)


async def test_no_more_of_a_tenants_tasks_run_than_its_plan_allows(world: World, resender: Publisher) -> None:
    provider = Played(ANSWER, hold=True)
    first = world.task()
    await cap(world, first.tenant_id, 2)
    tasks = [first, *(world.task(tenant_id=first.tenant_id) for _ in range(5))]
    worker = await world.worker(provider, slots=6)
    for task in tasks:
        await world.submit(task)

    async def four_parked() -> bool:
        query = "SELECT count(*) FROM runtime.parked WHERE tenant_id = $1 AND reason = 'running_cap'"
        return bool(await world.owner.fetchval(query, first.tenant_id) == 4)

    await world.until(four_parked)
    await provider.called(2)

    async def two_held() -> bool:
        return worker.supervisor.held == 2

    await world.until(two_held)  # the others take up no slot
    other = world.task()
    await world.submit(other)
    await provider.called(3)  # nor do they stand in another tenant's way
    seen: list[int] = []
    watching = asyncio.create_task(_watch_running(world, first.tenant_id, seen))
    async with waking(world, resender):
        provider.go.set()
        for task in tasks:
            assert (await world.heard.end(task.task_id)).status == "completed"
    await stop(watching)
    assert max(seen) == 2
    assert len(provider.requests) == 7


async def _watch_running(world: World, tenant_id: UUID, seen: list[int]) -> None:
    query = "SELECT count(*) FROM runtime.runs WHERE tenant_id = $1 AND status = 'running'"
    while True:
        seen.append(await world.owner.fetchval(query, tenant_id))


async def _no_cap(world: World, tenant_id: UUID) -> None:
    await cap(world, tenant_id, None)


async def _cap_of_its_own(world: World, tenant_id: UUID) -> None:
    await world.owner.execute("UPDATE identity.tenants SET max_running = 2 WHERE tenant_id = $1", tenant_id)


@pytest.mark.parametrize("raise_it", [_no_cap, _cap_of_its_own])
async def test_a_cap_that_is_raised_counts_at_once(
    world: World, resender: Publisher, raise_it: Callable[[World, UUID], Awaitable[None]]
) -> None:
    provider, first = Played(ANSWER, hold=True), world.task()
    await cap(world, first.tenant_id, 1)
    second = world.task(tenant_id=first.tenant_id)
    await world.worker(provider)
    await world.submit(first)
    await provider.called()
    await world.submit(second)
    await until_parked(world, second, "running_cap")
    async with waking(world, resender):
        await raise_it(world, first.tenant_id)
        await provider.called(2)
        provider.go.set()
        await world.heard.end(second.task_id)


async def test_of_one_key_so_many_run_at_a_time_in_their_order(world: World, resender: Publisher) -> None:
    provider, tenant = Played(ANSWER, hold=True), world.stage.new_tenant()
    start = now()
    tasks = [
        world.task(f"{n}", tenant_id=tenant, concurrency_key="k", submitted_at=start + timedelta(milliseconds=n))
        for n in range(4)
    ]
    urgent = world.task("urgent", tenant_id=tenant, concurrency_key="k", priority=9)
    worker = await world.worker(provider, slots=8)
    await world.submit(tasks[0])
    await provider.called()
    for task in (*reversed(tasks[1:]), urgent):
        await world.submit(task)
        await until_parked(world, task, "concurrency_key")
    free = world.task("another key", tenant_id=tenant, concurrency_key="l")
    await world.submit(free)
    await provider.called(2)
    assert worker.supervisor.held == 2
    async with waking(world, resender):
        provider.go.set()
        ends = [await world.heard.end(task.task_id) for task in (tasks[0], urgent, *tasks[1:])]
    for earlier, later in pairwise(ends):
        assert later.started_at is not None
        assert earlier.finished_at <= later.started_at


async def test_several_of_a_key_where_the_task_says_so(world: World, resender: Publisher) -> None:
    provider, tenant = Played(ANSWER, hold=True), world.stage.new_tenant()
    tasks = [world.task(tenant_id=tenant, concurrency_key="k", concurrency_limit=3) for _ in range(5)]
    await world.worker(provider, slots=8)
    for task in tasks:
        await world.submit(task)
    await provider.called(3)

    async def two_parked() -> bool:
        return bool(await world.owner.fetchval("SELECT count(*) FROM runtime.parked WHERE tenant_id = $1", tenant) == 2)

    await world.until(two_parked)
    assert len(provider.requests) == 3
    async with waking(world, resender):
        provider.go.set()
        for task in tasks:
            await world.heard.end(task.task_id)


async def test_a_run_passes_every_reason_in_turn(world: World, resender: Publisher) -> None:
    """Not yet due, then its key is taken, then the cap is reached: one stream tells all of it."""
    provider, tenant = Played(ANSWER, hold=True), world.stage.new_tenant()
    holder = world.task(tenant_id=tenant, concurrency_key="k")
    task = world.task(tenant_id=tenant, concurrency_key="k", not_before=now() + timedelta(seconds=3))
    await world.worker(provider)
    await world.submit(holder)
    await provider.called()
    await world.submit(task)
    await until_parked(world, task, "not_before")
    async with waking(world, resender):
        await until_parked(world, task, "concurrency_key")
        await cap(world, tenant, 1)
        other = world.task(tenant_id=tenant)
        await world.submit(other)
        await until_parked(world, other, "running_cap")
        provider.go.set()
        ends = [await world.heard.end(one.task_id) for one in (holder, other, task)]
    assert {end.status for end in ends} == {"completed"}

    async def all_there() -> bool:
        return bool((await world.stream(task))[-1:]) and (await world.stream(task))[-1].type == "done"

    await world.until(all_there)
    said = [event for event in await world.stream(task) if event.fence == 0]
    assert [event.data["reason"] for event in said][:2] == ["not_before", "concurrency_key"]
    assert [event.seq for event in said] == list(range(1, len(said) + 1))


async def test_a_plain_task_asks_once_and_leaves_nothing_behind(world: World) -> None:
    task = world.task()
    worker = await world.worker(Played(ANSWER))
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert worker.acquisitions == [task.task_id]
    assert (end.fence, end.attempts) == (1, 1)
    assert await world.owner.fetchval("SELECT count(*) FROM runtime.parked") == 0


async def test_another_tenants_key_of_the_same_name_is_another(world: World) -> None:
    provider = Played(ANSWER, hold=True)
    tasks = [world.task(concurrency_key="same", task_id=uuid4()) for _ in range(2)]
    await world.worker(provider)
    for task in tasks:
        await world.submit(task)
    await provider.called(2)
    provider.go.set()
    for task in tasks:
        await world.heard.end(task.task_id)
