"""A task that has not begun by its deadline ends then, wherever it waits; one that has begun is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from common import admission, postgres, streams
from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from common.messaging.publisher import Publisher
from common.postgres import Pool
from persister import handlers
from tests.integration.agent_worker.world import Played, World
from tests.integration.parking.yard import ANSWER, parked_row, until_parked, waking
from tests.stage import pipelined


@pytest.fixture
async def pool(world: World) -> AsyncIterator[Pool]:
    """As the persister."""
    async with postgres.pool(world.stage.postgres("laneway_persister"), "test") as made:
        yield made


async def _record(world: World, pool: Pool, task: TaskSubmitted) -> None:
    """What admission and the persister keep of a submission."""
    member = {str(task.task_id): 9e15}
    await world.state.zadd(admission.outstanding_key(task.tenant_id, task.priority), member)
    await handlers.record([task], pool, 10, pipelined(world.state))


async def _ended(world: World, task: TaskSubmitted) -> dict[str, Any]:
    async def ended() -> Any:
        return await world.owner.fetchrow(
            "SELECT * FROM history.tasks WHERE task_id = $1 AND status <> 'queued'", task.task_id
        )

    await world.until(ended)
    return dict(await ended())


async def _assert_expired(world: World, task: TaskSubmitted) -> None:
    assert task.deadline_at is not None
    row = await _ended(world, task)
    assert (row["status"], row["error_type"], row["started_at"], row["attempts"]) == (
        "expired", "deadline_passed", None, 0,
    )  # fmt: skip
    assert timedelta(0) <= row["finished_at"] - task.deadline_at < timedelta(seconds=1.5)

    async def told() -> bool:
        place = admission.outstanding_key(task.tenant_id, task.priority)
        gone = await world.state.zscore(place, str(task.task_id)) is None
        return gone and (await world.stream(task))[-1].type == "done"

    await world.until(told)
    events = await world.owner.fetch("SELECT type FROM history.events WHERE task_id = $1 AND fence = 1", task.task_id)
    assert [event["type"] for event in events] == ["done"]


async def test_a_task_that_waits_in_its_lane_expires_on_time_and_is_not_run_later(
    world: World, resender: Publisher, pool: Pool
) -> None:
    task, provider = world.task(deadline_at=now() + timedelta(seconds=0.7)), Played(ANSWER)
    await world.submit(task)  # no worker takes it
    await _record(world, pool, task)
    async with waking(world, resender):
        await _assert_expired(world, task)
    await world.worker(provider)
    end = await world.heard.end(task.task_id)
    assert (end.status, provider.requests) == ("expired", [])


async def test_a_task_that_is_parked_expires_on_time(world: World, resender: Publisher, pool: Pool) -> None:
    tenant, provider = world.stage.new_tenant(), Played(ANSWER, hold=True)
    holder = world.task(tenant_id=tenant, concurrency_key="k")
    task = world.task(tenant_id=tenant, concurrency_key="k", deadline_at=now() + timedelta(seconds=6))
    await world.worker(provider)
    await world.submit(holder)
    await provider.called()
    await world.submit(task)
    await _record(world, pool, task)
    await until_parked(world, task, "concurrency_key")
    async with waking(world, resender):
        await _assert_expired(world, task)
        assert await parked_row(world, task) == {}
        assert [str(event.id) for event in await world.stream(task)] == ["0-1", "1-1"]
        provider.go.set()
        await world.heard.end(holder.task_id)
    assert len(provider.requests) == 1
    outcome = (await world.run_row(task))["outcome"]
    assert RunFinished.decode(outcome).error is not None


async def test_a_task_that_has_begun_has_kept_its_deadline(world: World, resender: Publisher, pool: Pool) -> None:
    # Long enough to begin in, on a slow machine too.
    provider, deadline = Played(ANSWER, hold=True), now() + timedelta(seconds=8)
    task, later = world.task(deadline_at=deadline), world.task(deadline_at=deadline + timedelta(milliseconds=1))
    await world.worker(provider, slots=1)
    await world.submit(task)
    await provider.called()
    for one in (task, later):
        await _record(world, pool, one)
    async with waking(world, resender):
        await _assert_expired(world, later)  # so the other was looked at, too
        provider.go.set()
        assert (await world.heard.end(task.task_id)).status == "completed"


async def test_a_stream_that_redis_lost_ends_in_the_record(world: World, resender: Publisher, pool: Pool) -> None:
    task = world.task(deadline_at=now() - timedelta(seconds=1))
    await handlers.record([task], pool, 10, pipelined(world.state))
    async with waking(world, resender):
        await _ended(world, task)
    await world.state.delete(streams.key(task.tenant_id, task.task_id))
    events = await world.owner.fetch("SELECT type, data FROM history.events WHERE task_id = $1", task.task_id)
    assert [(event["type"], event["data"]["status"]) for event in events] == [("done", "expired")]
