"""What is broken in mid-run, and what must hold all the same."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest
import redis.asyncio

from tests.acceptance.books import books_agree
from tests.acceptance.reading import Reading, follow
from tests.acceptance.stack import TIERS, Stack
from tests.acceptance.tasks import ended, ledger_sum, settled, submit, usage_rows
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]


async def _reads_tokens(reading: Reading, count: int) -> None:
    async def enough() -> bool:
        return sum(event.type == "token" for event in reading.events) >= count

    await eventually(enough, 30)


async def test_a_killed_workers_run_is_finished_by_another_within_ten_seconds(fragile_stack: Stack) -> None:
    stack = fragile_stack
    script = '[[sim tool=calculator:{"expression":"6*7"} tokens=30 tps=15]]'
    async with stack.client() as client:
        task = await submit(client, f"Work {script}")
        reading = Reading()
        following = asyncio.create_task(follow(client, task["id"], reading))
        await _reads_tokens(reading, 3)
        victim = await stack.worker_of(task["id"])
        killed = time.monotonic()
        stack.kill(victim)
        await following
        took = time.monotonic() - killed
        finished = await settled(client, task["id"])
        stack.start(victim)
        stack.until_ready()

    assert finished["status"] == "completed"
    assert finished["attempts"] == 2
    assert reading.text == finished["output"]
    resets = [event for event in reading.events if event.type == "reset"]
    assert [event.data["reason"] for event in resets] == ["taken over"]
    assert resets[0].data["after"], "the first step was finished, and stands"
    assert took < 10, f"the run was finished {took:.1f} s after its worker was killed"
    # The first step's call is not made again, and what the killed worker bought nobody pays twice.
    rows = await usage_rows(stack, task["id"])
    assert [row["step"] for row in rows] == [1, 2]
    assert await ledger_sum(stack, task["id"], "") == 0


async def test_a_stream_is_complete_though_redis_forgets_everything(fragile_stack: Stack) -> None:
    stack = fragile_stack
    async with stack.client("pro") as client:
        task = await submit(client, "Tell [[sim tokens=60 tps=20]]")
        reading = Reading()
        following = asyncio.create_task(follow(client, task["id"], reading))
        for count in (5, 25):
            await _reads_tokens(reading, count)
            async with redis.asyncio.from_url(stack.stage.servers.redis_state_url) as state:
                await state.flushall()
        await following
        finished = await settled(client, task["id"])
        from_the_start = await follow(client, task["id"], Reading())
    assert finished["status"] == "completed"
    assert reading.text == from_the_start.text == finished["output"]
    assert [event.id for event in reading.events] == [event.id for event in from_the_start.events]


async def test_a_stream_is_kept_for_as_long_as_the_task_is(fragile_stack: Stack) -> None:
    stack = fragile_stack
    async with stack.client("pro") as client:
        task = await submit(client, 'Tell [[sim tool=calculator:{"expression":"1+1"} tokens=30]]')
        live = await follow(client, task["id"], Reading())
        await settled(client, task["id"])
        async with redis.asyncio.from_url(stack.stage.servers.redis_state_url) as state:
            await state.flushall()
        later = await follow(client, task["id"], Reading())
        half = Reading(events=list(live.events[: len(live.events) // 2]))
        await follow(client, task["id"], half)
    assert [(e.id, e.type, e.data) for e in later.events] == [(e.id, e.type, e.data) for e in live.events]
    assert [e.id for e in half.events] == [e.id for e in live.events]


async def test_the_broker_restarts_under_load_and_every_accepted_task_ends(fragile_stack: Stack) -> None:
    stack = fragile_stack
    accepted: dict[str, list[str]] = {tier: [] for tier in TIERS}
    restarted = asyncio.Event()

    async def load(tier: str) -> None:
        async with stack.client(tier) as client:
            after_restart = 0
            while after_restart < 5:
                response = await client.post("/v1/tasks", json={"input": "Load [[sim tokens=10 tps=50]]"})
                if response.status_code == 202:
                    accepted[tier].append(response.json()["id"])
                    after_restart += restarted.is_set()
                else:
                    assert response.status_code == 503, response.text
                    assert int(response.headers["Retry-After"]) > 0
                    await asyncio.sleep(0.05)

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for tier in TIERS:
            group.create_task(load(tier))
        await eventually(lambda: _some(accepted, 10))
        await asyncio.to_thread(stack.restart_broker)
        restarted.set()

    for tier, tasks in accepted.items():
        async with stack.client(tier) as client:
            for task_id in tasks:
                assert (await ended(client, task_id, 90))["status"] == "completed"
                await settled(client, task_id, 60)
    identifiers = [UUID(task) for tasks in accepted.values() for task in tasks]
    twice = await stack.rows(
        "SELECT task_id, step FROM billing.usage WHERE task_id = ANY($1) AND NOT estimated GROUP BY 1, 2"
        " HAVING count(*) FILTER (WHERE output_tokens = 10) > 1",
        identifiers,
    )
    assert not twice, "a step was run to its end twice"


async def _some(accepted: dict[str, list[str]], count: int) -> bool:
    return all(len(tasks) >= count for tasks in accepted.values())


async def test_a_worker_that_is_asked_to_stop_finishes_or_hands_over(fragile_stack: Stack) -> None:
    stack = fragile_stack
    async with stack.client() as client:
        tasks = [await submit(client, "Short [[sim tokens=20 tps=20]]") for _ in range(6)]
        await eventually(lambda: stack.all_started([task["id"] for task in tasks]))
        await asyncio.to_thread(stack.terminate, "agent-worker-1")
        for task in tasks:
            finished = await settled(client, task["id"])
            assert (finished["status"], finished["attempts"]) == ("completed", 1)
        stack.start("agent-worker-1")
        stack.until_ready()


async def test_the_books_agree_when_all_is_over(fragile_stack: Stack) -> None:
    """Runs last in this file."""
    await books_agree(fragile_stack)
