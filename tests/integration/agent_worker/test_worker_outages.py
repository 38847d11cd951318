"""Servers that are away for a while: a run holds what it has, goes on or publishes later, and is not run again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from agent_worker.providers.base import TextDelta, ToolCall
from agent_worker.stopping import StopReason
from common.contracts.base import now
from tests.integration.agent_worker.proxy import Proxy, proxied
from tests.integration.agent_worker.world import Played, World
from tests.stage import Stage

COMPUTE = (TextDelta("Let me see. "), ToolCall("c1", "calculator", {"expression": "2 * 21"}))
ANSWER = (TextDelta("It is "), TextDelta("42."))


@pytest.fixture
async def database(stage: Stage) -> AsyncIterator[Proxy]:
    address = urlsplit(stage.servers.postgres_dsn)
    async with proxied(address.hostname or "", address.port or 5432) as proxy:
        yield proxy


@pytest.fixture
async def broker(stage: Stage) -> AsyncIterator[Proxy]:
    address = urlsplit(stage.servers.rabbit_url)
    async with proxied(address.hostname or "", address.port or 5672) as proxy:
        yield proxy


async def test_postgresql_away_in_the_middle_of_a_run(world: World, database: Proxy) -> None:
    provider, task = Played(COMPUTE, ANSWER, hold=True), world.task()
    worker = await world.worker(provider, postgres_port=database.port)
    await world.submit(task)
    await provider.called()
    database.cut_for(2.5)
    provider.go.set()
    end = await world.heard.end(task.task_id)
    await worker.idle()
    assert (end.status, end.fence, end.attempts, len(provider.requests)) == ("completed", 1, 1, 2)
    assert {record.attempt_id for record in world.heard.usage(task.task_id)} == await world.holds(task)


async def test_postgresql_away_when_a_run_ends(world: World, database: Proxy) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    worker = await world.worker(provider, postgres_port=database.port)
    await world.submit(task)
    await provider.called()
    database.cut()
    provider.go.set()

    async def recorded() -> bool:
        return bool(world.heard.usage(task.task_id))

    await world.until(recorded)
    assert world.heard.ends(task.task_id) == []
    database.restore()
    end = await world.heard.end(task.task_id)
    await worker.idle()
    assert (end.status, end.fence, len(provider.requests)) == ("completed", 1, 1)


async def test_rabbitmq_away_when_a_run_ends(world: World, broker: Proxy) -> None:
    provider, task = Played(COMPUTE, ANSWER, hold=True), world.task()
    worker = await world.worker(provider, rabbit_port=broker.port)
    await world.submit(task)
    await provider.called()
    broker.cut_for(3)
    provider.go.set()
    end = await world.heard.end(task.task_id, deadline=30)
    # The broker has taken the delivery back and gives it again: it finds the end decided.
    await worker.idle()
    assert (end.status, end.fence, end.attempts, len(provider.requests)) == ("completed", 1, 1, 2)
    assert len({body for _, body in world.heard.ends(task.task_id)}) == 1
    assert {record.attempt_id for record in world.heard.usage(task.task_id)} == await world.holds(task)


async def test_a_cancel_while_the_broker_is_away_loses_no_usage(world: World, broker: Proxy) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    worker = await world.worker(provider, rabbit_port=broker.port)
    await world.submit(task)
    await provider.called()
    broker.cut_for(1.5)
    (run,) = worker.supervisor._runs.values()
    run.stop(StopReason.CANCELLED)
    end = await world.heard.end(task.task_id, deadline=30)
    assert end.status == "cancelled"
    (record,) = world.heard.usage(task.task_id)
    assert record.estimated
    await worker.idle()


async def test_draining_with_everything_away_does_not_hang(world: World, database: Proxy, broker: Proxy) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    worker = await world.worker(provider, postgres_port=database.port, rabbit_port=broker.port)
    await world.submit(task)
    await provider.called()
    database.cut()
    broker.cut()
    started = now()
    await worker.supervisor.drain(0.1)
    assert (now() - started).total_seconds() < 12
    assert worker.supervisor.held == 0
    database.restore()
    broker.restore()


async def test_redis_that_loses_everything_is_written_anew(world: World) -> None:
    provider, task = Played(COMPUTE, ANSWER, hold=True), world.task()
    worker = await world.worker(provider)
    await world.submit(task)

    async def begun() -> bool:
        return bool(await world.stream(task))

    await world.until(begun)
    (run,) = worker.supervisor._runs.values()
    await world.state.delete(run.log.key)
    provider.go.set()
    end = await world.heard.end(task.task_id)

    async def whole() -> bool:
        durable = [event for part in world.heard.progress(task.task_id) for event in part.events]
        return await world.stream(task) == durable + list(end.events)

    await world.until(whole)
