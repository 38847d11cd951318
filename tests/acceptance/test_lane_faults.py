"""Tasks that are capped, parked and being cancelled, all at once, when a worker, the waker and Redis go at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import httpx2
import pytest
import redis.asyncio

from common.admission import PRIORITIES, outstanding_key
from tests.acceptance.books import books_agree
from tests.acceptance.operating import pause, resume
from tests.acceptance.reading import Reading, follow
from tests.acceptance.runs import RUNNING_OF_TENANT, RUNNING_WITH_KEY, all_ended, watching
from tests.acceptance.stack import Stack
from tests.acceptance.tasks import cancel_many, ended, settled, submit, submit_many, usage_rows
from tests.acceptance.tenants import new_tenant
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]
CAP = 4
KEY = "one-at-a-time"
WITHOUT_END = "[[sim tokens=1000 tps=5]]"
LONG = "[[sim tokens=60 tps=12]]"
SHORT = "[[sim tokens=2]]"
DOOMED = {"metadata": {"order": "4711"}}


@dataclass
class Crowd:
    """The tasks of one tenant, by what is to become of them."""

    doomed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Every one."""
        return [*self.doomed, *self.others]


async def _begun(stack: Stack, client: httpx2.AsyncClient, text: str, **fields: Any) -> str:
    task = str((await submit(client, text, **fields))["id"])
    await eventually(lambda: stack.all_started([task]), 30)
    return task


async def _line_up(stack: Stack, client: httpx2.AsyncClient) -> Crowd:
    """As many as may run, and behind them those that wait for a key, for room and for a time."""
    crowd = Crowd()
    crowd.doomed.append(await _begun(stack, client, f"Cancelled by itself {WITHOUT_END}"))
    crowd.doomed.append(await _begun(stack, client, f"Cancelled with others {WITHOUT_END}", **DOOMED))
    crowd.others.append(await _begun(stack, client, f"Has room {LONG}"))
    crowd.others.append(await _begun(stack, client, f"Has the key {LONG}", concurrency_key=KEY))
    # However long the rest takes: nothing of what runs comes to its end meanwhile.
    os.kill(stack.pid("simulator"), signal.SIGSTOP)
    start = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
    for text, wanted in (
        ("Wants to begin later", {"not_before": start}),
        ("Wants the key", {"concurrency_key": KEY}),
        ("Wants room", {}),
    ):
        crowd.others += await submit_many(client, [f"{text} {n} {SHORT}" for n in range(3)], **wanted)
        crowd.doomed += await submit_many(client, [f"{text}, in vain {n}" for n in range(2)], **wanted, **DOOMED)
    return crowd


async def _recorded(stack: Stack, tasks: Sequence[str]) -> bool:
    rows = await stack.rows("SELECT FROM history.tasks WHERE task_id = ANY ($1)", [UUID(task) for task in tasks])
    return len(rows) == len(tasks)


async def _reasons(stack: Stack, tenants: Sequence[UUID]) -> Counter[str]:
    rows = await stack.rows("SELECT reason FROM runtime.parked WHERE tenant_id = ANY ($1)", tenants)
    return Counter(row["reason"] for row in rows)


async def _outstanding(stack: Stack, tenant: UUID) -> int:
    async with redis.asyncio.from_url(stack.stage.servers.redis_state_url) as state:
        return sum([await state.zcard(outstanding_key(tenant, priority)) for priority in PRIORITIES])


@asynccontextmanager
async def _reading(client: httpx2.AsyncClient, tasks: Sequence[str]) -> AsyncIterator[dict[str, Reading]]:
    """Each stream, from its beginning; the context ends when all of them have."""
    readings = {task: Reading() for task in tasks}
    async with asyncio.TaskGroup() as group:
        for task, reading in readings.items():
            group.create_task(follow(client, task, reading, 150))
        yield readings


async def _break(stack: Stack, victim: str) -> None:
    """At once: a worker, the persister that wakes, and all that Redis knows. The provider speaks on."""
    stack.kill(victim)
    stack.kill("persister")
    async with redis.asyncio.from_url(stack.stage.servers.redis_state_url) as state:
        await state.flushall()
    os.kill(stack.pid("simulator"), signal.SIGCONT)


async def test_what_is_capped_parked_and_cancelling_outlives_the_worker_the_waker_and_redis(
    fragile_stack: Stack,
) -> None:
    stack = fragile_stack
    tenant = await new_tenant(stack, "crowded", "pro", max_running=CAP, max_outstanding=40)
    halted = await new_tenant(stack, "halted", "pro")
    await pause(stack, "tenant", str(halted))
    async with (
        stack.client("crowded") as client,
        stack.client("halted") as other,
        watching(stack, RUNNING_OF_TENANT, tenant) as at_once,
        watching(stack, RUNNING_WITH_KEY, tenant, KEY) as with_key,
    ):
        crowd = await _line_up(stack, client)
        stopped = await submit_many(other, [f"Stopped {n} {SHORT}" for n in range(3)])
        waiting = {"concurrency_key": 5, "running_cap": 5, "not_before": 5, "paused": 3}

        async def all_wait() -> bool:
            parked = await _reasons(stack, [tenant, halted]) == waiting
            return parked and await _recorded(stack, [*crowd.all, *stopped])

        await eventually(all_wait, 30)
        async with _reading(client, crowd.all) as readings, _reading(other, stopped) as stopped_readings:
            victim = await stack.worker_of(crowd.doomed[0])
            # So that it can obey no cancel any more: what it runs is asked to end, and has not ended.
            os.kill(stack.pid(victim), signal.SIGSTOP)
            single = await client.post(f"/v1/tasks/{crowd.doomed[0]}/cancel")
            assert single.json()["status"] == "cancelling"
            many = await cancel_many(client, **DOOMED)
            assert (many["cancelled"], many["cancelling"]) == (6, 1)
            await _break(stack, victim)
            # Redis has forgotten how many are outstanding: this one is counted beside those that are.
            late = str((await submit(client, f"Late {SHORT}"))["id"])
            assert await _outstanding(stack, tenant) > CAP
            stack.start(victim)
            stack.start("persister")
            stack.until_ready()
            await resume(stack, "tenant", str(halted))
        ran = await all_ended(stack, [*crowd.all, *stopped, late], 120)
        ends = {run["id"]: run["status"] for run in ran}
        assert {ends.pop(task) for task in crowd.doomed} == {"cancelled"}
        assert set(ends.values()) == {"completed"}
        for reader, told in ((client, readings), (other, stopped_readings)):
            for task, reading in told.items():
                finished = await ended(reader, task)
                assert reading.events[-1].data["status"] == finished["status"]
                assert finished["status"] == "cancelled" or reading.text == finished["output"]
        assert (max(at_once), max(with_key)) == (CAP, 1)
        assert await _reasons(stack, [tenant, halted]) == {}
        for place in (tenant, halted):
            await eventually(partial(_nothing_outstanding, stack, place), 30)
        again = await submit_many(client, [f"Again {n} {SHORT}" for n in range(40)])
        assert {run["status"] for run in await all_ended(stack, again)} == {"completed"}
        for task in ends:
            reader = other if task in stopped else client
            await settled(reader, task)
            rows = await usage_rows(stack, task)
            assert sum(not row["estimated"] for row in rows) == 1, "run to its end once"


async def _nothing_outstanding(stack: Stack, tenant: UUID) -> bool:
    return await _outstanding(stack, tenant) == 0


async def test_the_books_agree_when_all_is_over(fragile_stack: Stack) -> None:
    """Runs last in this file."""
    await books_agree(fragile_stack)
