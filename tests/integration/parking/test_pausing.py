"""What operators stop: nothing of it begins, what a kill names is cut, and all of it goes on when it is resumed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent_worker.bootstrap import serve
from common.contracts import PausesChanged
from common.errors import Unroutable
from common.messaging.publisher import Publisher
from common.messaging.topology import CONTROL
from tests.integration.agent_worker.test_worker_process import settings_of
from tests.integration.agent_worker.world import Played, World, world_of
from tests.integration.parking.yard import ANSWER, parked_row, told, until_parked, waking
from tests.stage import Stage

BY = ("ada", "a test")


@pytest.fixture
async def world(stage: Stage, simulator: str) -> AsyncIterator[World]:
    async with world_of(stage, simulator) as made:
        await made.owner.execute("DELETE FROM runtime.parked; DELETE FROM runtime.pauses")
        yield made


async def pause(world: World, scope: str, name: str = "", *, kill: bool = False, bell: bool = True) -> None:
    """As the gateway does."""
    await world.owner.execute("SELECT runtime.pause($1, $2, $3, $4, $5)", scope, name, kill, *BY)
    if bell:
        await ring(world)


async def resume(world: World, scope: str, name: str = "") -> None:
    """As the gateway does."""
    await world.owner.execute("SELECT runtime.resume($1, $2, $3, $4)", scope, name, *BY)
    await ring(world)


async def ring(world: World) -> None:
    task = world.task()
    with contextlib.suppress(Unroutable):  # nobody listens
        await world.gateway.publish(CONTROL, "", PausesChanged(), subject=task.task_id, stable_id="pauses")


@asynccontextmanager
async def whole_worker(world: World) -> AsyncIterator[None]:
    """A worker as its process runs it."""
    stopping = asyncio.Event()
    process = asyncio.create_task(serve(settings_of(world), stopping))
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait({process}, timeout=20)
        process.result()


async def test_a_paused_tenants_tasks_wait_and_others_do_not(world: World, resender: Publisher) -> None:
    task, other = world.task(), world.task()
    await pause(world, "tenant", str(task.tenant_id))
    worker = await world.worker(Played(ANSWER))
    async with waking(world, resender):
        await world.submit(task)
        await world.submit(other)
        row = await until_parked(world, task, "paused")
        assert row["key"] == f"tenant:{task.tenant_id}"
        assert (await world.heard.end(other.task_id)).status == "completed"
        await worker.idle()  # it takes up no slot
        assert await parked_row(world, task)
        await resume(world, "tenant", str(task.tenant_id))
        end = await world.heard.end(task.task_id)
    assert (end.status, end.fence, end.attempts) == ("completed", 1, 1)


async def test_a_paused_agents_tasks_wait_and_those_of_others_do_not(world: World, resender: Publisher) -> None:
    task = world.task()
    other = world.task(agent="live", tenant_id=task.tenant_id)
    await pause(world, "agent", "default")
    await world.worker(live={"messages": Played(ANSWER)}, provider=Played(ANSWER))
    async with waking(world, resender):
        await world.submit(task)
        await world.submit(other)
        assert (await until_parked(world, task, "paused"))["key"] == "agent:default"
        assert (await world.heard.end(other.task_id)).status == "completed"
        await resume(world, "agent", "default")
        assert (await world.heard.end(task.task_id)).status == "completed"


async def test_one_of_two_pauses_is_not_enough_to_go_on(world: World, resender: Publisher) -> None:
    task = world.task()
    tenant = str(task.tenant_id)
    await pause(world, "tenant", tenant)
    await pause(world, "tier", "free")
    await world.worker(Played(ANSWER))
    await world.submit(task)
    await until_parked(world, task, "paused")
    first, second = (("tenant", tenant), ("tier", "free"))
    if (await parked_row(world, task))["key"] == "tier:free":
        first, second = second, first
    async with waking(world, resender):
        await resume(world, *first)

        async def moved_on() -> bool:
            return (await parked_row(world, task)).get("key") == ":".join(second)

        await world.until(moved_on)
        assert world.heard.ends(task.task_id) == []
        await resume(world, *second)
        assert (await world.heard.end(task.task_id)).status == "completed"


async def test_a_paused_tiers_tasks_stay_in_their_lane_and_what_runs_goes_on(world: World, resender: Publisher) -> None:
    running = world.task("[[sim tokens=20 tps=10]] hi")
    waiting = world.task("[[sim text=done]] hi")
    other = world.task("[[sim text=done]] hi", tier="enterprise")
    async with whole_worker(world), waking(world, resender):
        await world.submit(running)

        async def said_something() -> bool:
            return any(event.type == "token" for event in await world.stream(running))

        await world.until(said_something)
        await pause(world, "tier", "free", bell=False)  # it finds out by itself

        async def left_alone() -> bool:
            return await world.consumers("free") == 0

        await world.until(left_alone, 30)
        await world.submit(waiting)
        await world.submit(other)
        assert (await world.heard.end(other.task_id)).status == "completed"
        assert (await world.heard.end(running.task_id)).status == "completed"
        assert await world.run_row(waiting) == {}  # not even parked
        await resume(world, "tier", "free")
        assert (await world.heard.end(waiting.task_id)).status == "completed"


async def test_a_kill_cuts_what_runs_accounts_for_it_and_keeps_its_steps(world: World, resender: Publisher) -> None:
    text = '[[sim tool=calculator:{"expression":"2 * 21"} tokens=40 tps=10]] hi'
    task = world.task(text)
    async with whole_worker(world), waking(world, resender):
        await world.submit(task)

        async def in_its_second_step() -> bool:
            events = await world.stream(task)
            ended = [n for n, event in enumerate(events) if event.type == "tool_end"]
            return bool(ended) and any(event.type == "token" for event in events[ended[0] :])

        await world.until(in_its_second_step)
        await pause(world, "everything", kill=True)
        await until_parked(world, task, "paused")
        before = len(world.heard.usage(task.task_id))
        assert before == 2  # the call that was cut, too
        assert await world.steps(task) == [1]
        run = await world.run_row(task)
        assert (run["status"], run["worker"], run["lease_until"]) == ("parked", None, None)
        await resume(world, "everything")
        end = await world.heard.end(task.task_id, 30)
    assert (end.status, end.fence, end.attempts, end.steps) == ("completed", 2, 1, 2)
    assert [(m.role) for m in end.messages][:2] == ["assistant", "tool"]  # the first step was not made again
    events = await world.stream(task)
    parked = next(n for n, event in enumerate(events) if event.data.get("status") == "parked")
    assert events[parked + 1].type == "reset"
    assert sum(event.type == "tool_start" for event in events) == 1
    assert [event for event in told(events) if event[1] == "done"]


async def test_a_kill_reaches_a_worker_that_drains(world: World) -> None:
    task, stopping = world.task("[[sim ttft=60]] hi"), asyncio.Event()
    settings = settings_of(world).model_copy(update={"grace_seconds": 60.0})
    process = asyncio.create_task(serve(settings, stopping))
    await world.submit(task)

    async def begun() -> bool:
        return bool(await world.stream(task))

    await world.until(begun)
    stopping.set()
    await pause(world, "tenant", str(task.tenant_id), kill=True, bell=False)
    await until_parked(world, task, "paused")
    await asyncio.wait({process}, timeout=20)  # nothing is left to be waited for
    process.result()


async def test_what_ends_while_it_is_about_to_be_parked_stays_ended(world: World) -> None:
    task = world.task()
    await pause(world, "tenant", str(task.tenant_id), bell=False)
    acquire = "SELECT decision, status FROM runtime.acquire($1, $2, 'free', 'w', interval '4 s', NULL, $3)"
    async with world.owner.acquire() as ending, world.owner.acquire() as acquiring:
        transaction = ending.transaction()
        await transaction.start()
        expire = "SELECT runtime.expire($1, $2, 'free', 'the end', now())"
        assert await ending.fetchval(expire, task.task_id, task.tenant_id)
        asked = asyncio.create_task(acquiring.fetchrow(acquire, task.task_id, task.tenant_id, task.encode()))

        async def waits() -> bool:
            return bool(await world.owner.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

        await world.until(waits)
        await transaction.commit()
        found = await asked
    assert found is not None
    assert tuple(found) == ("finished", "expired")
    assert await parked_row(world, task) == {}


async def test_a_run_that_a_kill_parked_can_be_cancelled(world: World, resender: Publisher) -> None:
    task = world.task("[[sim ttft=60]] hi")
    async with whole_worker(world), waking(world, resender):
        await world.submit(task)

        async def begun() -> bool:
            return bool(await world.stream(task))

        await world.until(begun)
        await pause(world, "agent", "default", kill=True)
        await until_parked(world, task, "paused")
        assert await world.cancel(task) == "cancelling"
        assert (await world.heard.end(task.task_id)).status == "cancelled"
        await resume(world, "agent", "default")
