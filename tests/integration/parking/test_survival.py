"""Parked runs survive what comes twice, what is lost, and who dies; and they end when they are to end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agent_worker.obstacles import Obstacle
from agent_worker.providers.base import TextDelta, ToolCall
from agent_worker.repository import SavedStep
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.events import StreamEvent
from common.errors import BrokerUnavailable
from common.messaging.publisher import Publisher, RabbitPublisher
from tests.integration.agent_worker.world import Played, World
from tests.integration.parking.yard import ANSWER, parked_row, told, until_parked, waking

COMPUTE = (TextDelta("Let me see. "), ToolCall("c1", "calculator", {"expression": "2 * 21"}))


def _later(seconds: float = 3600.0) -> Any:
    return now() + timedelta(seconds=seconds)


async def test_a_message_that_comes_again_while_its_run_is_parked_changes_nothing(world: World) -> None:
    provider, task = Played(ANSWER), world.task(not_before=_later())
    worker = await world.worker(provider)
    await world.submit(task)
    before = await until_parked(world, task, "not_before")
    for _ in range(3):
        await world.submit(task)

    async def all_taken() -> bool:
        return len(worker.acquisitions) == 4 and len(world.heard.progress(task.task_id)) == 4

    await world.until(all_taken)
    await worker.idle()
    assert await parked_row(world, task) == before
    assert (await world.run_row(task))["fence"] == 0
    assert provider.requests == []
    assert told(await world.stream(task)) == [("0-1", "not_before")]
    first, *again = world.heard.progress(task.task_id)
    assert all(progress.events == first.events for progress in again)


class Forgetful(RabbitPublisher):
    """Publishes, and does not hear of the confirm the first time."""

    forgotten = 0

    async def publish(self, exchange: str, routing_key: str, contract: Any, **rest: Any) -> None:
        await super().publish(exchange, routing_key, contract, **rest)
        if not self.forgotten:
            self.forgotten += 1
            raise BrokerUnavailable("the confirm was lost")


async def test_what_may_have_been_published_is_published_again_and_run_once(
    world: World, resender: RabbitPublisher
) -> None:
    provider, task = Played(ANSWER), world.task(not_before=_later(0.5))
    worker = await world.worker(provider)
    await world.submit(task)
    await until_parked(world, task, "not_before")
    forgetful = Forgetful(resender._broker, resender._channel, resender._sender, 5.0)
    async with waking(world, forgetful):
        await world.heard.end(task.task_id)
        await worker.idle()
    assert forgetful.forgotten == 1
    assert len(provider.requests) == 1
    assert {body for _, body in world.heard.ends(task.task_id)} == {world.heard.ends(task.task_id)[0][1]}


async def test_a_waker_that_follows_another_publishes_what_that_one_left_ready(
    world: World, resender: Publisher
) -> None:
    provider, task = Played(ANSWER), world.task(not_before=_later())
    await world.worker(provider)
    await world.submit(task)
    await until_parked(world, task, "not_before")
    await world.owner.execute("UPDATE runtime.parked SET ready_at = clock_timestamp() WHERE task_id = $1", task.task_id)
    await world.owner.execute("UPDATE runtime.parked SET message = $2 WHERE task_id = $1", task.task_id, _due(task))
    async with waking(world, resender):
        await world.heard.end(task.task_id)
    assert len(provider.requests) == 1


def _due(task: TaskSubmitted) -> bytes:
    return task.model_copy(update={"not_before": None}).encode()


async def test_a_run_of_which_redis_has_forgotten_everything_goes_on(world: World, resender: Publisher) -> None:
    task = world.task(not_before=_later(1))
    await world.worker(Played(ANSWER))
    await world.submit(task)
    await until_parked(world, task, "not_before")

    async def shown() -> list[StreamEvent]:
        return await world.stream(task)

    await world.until(shown)
    for key in [key async for key in world.state.scan_iter(match=f"{{{task.tenant_id}}}:*", count=1000)]:
        await world.state.delete(key)
    async with waking(world, resender):
        assert (await world.heard.end(task.task_id)).status == "completed"
    assert [event.id.fence for progress in world.heard.progress(task.task_id) for event in progress.events] == [0]


async def test_a_parked_task_that_is_cancelled_is_never_run(world: World, resender: Publisher) -> None:
    provider, task = Played(ANSWER), world.task(not_before=_later())
    worker = await world.worker(provider)
    await world.submit(task)
    await until_parked(world, task, "not_before")
    assert await world.cancel(task, bell=False) == "cancelled"
    async with waking(world, resender):
        end = await world.heard.end(task.task_id)
        await worker.idle()
    assert (end.status, end.fence, [str(event.id) for event in end.events]) == ("cancelled", 1, ["1-1"])
    assert provider.requests == []
    assert await parked_row(world, task) == {}


async def _park_in_mid_run(world: World, task: TaskSubmitted, *, obstacle: Obstacle) -> None:
    """A worker does the first step, and parks the run as a later reason would."""
    provider = Played(COMPUTE, ANSWER)
    worker = await world.worker(provider, lease=60)
    repository = worker.repository
    found = await repository.acquire(task, "w")
    state = {
        "turns": [
            {"role": "assistant", "content": [{"type": "text", "text": "Let me see. "}, _CALL]},
            {"role": "tool", "content": [_RESULT]},
        ],
        "usage": {"input_tokens": 5, "output_tokens": 5},
    }
    event = StreamEvent(fence=1, seq=4, type="status", at=now(), data={"status": "parked", "reason": obstacle.reason})
    saved = SavedStep(1, 1, 3, state)
    for _ in range(2):  # said twice, as where the first answer was lost
        assert await repository.park(task, found.fence, obstacle, event, saved)
    assert not await repository.park(task, found.fence + 1, obstacle, event, saved)


_CALL = {"type": "tool_call", "id": "c1", "name": "calculator", "arguments": {"expression": "2 * 21"}}
_RESULT = {"type": "tool_result", "id": "c1", "name": "calculator", "content": "42", "is_error": False}


async def test_a_run_that_parks_in_the_middle_goes_on_from_its_checkpoint(world: World, resender: Publisher) -> None:
    task = world.task()
    await _park_in_mid_run(world, task, obstacle=Obstacle("approval", "call-1"))
    run = await world.run_row(task)
    assert (run["status"], run["fence"], run["attempts"], run["lease_until"]) == ("parked", 1, 0, None)
    assert await world.steps(task) == [1]
    provider = Played(COMPUTE, ANSWER)
    await world.worker(provider)
    await world.submit(task)  # a message that comes again does not wake it
    async with waking(world, resender):

        async def told_again() -> bool:
            return bool(world.heard.progress(task.task_id))

        await world.until(told_again)
        assert provider.requests == []
        unpark = "SELECT runtime.unpark($1, 'approval', $2)"
        assert await world.owner.fetchval(unpark, task.tenant_id, "another call") == 0
        assert await world.owner.fetchval(unpark, task.tenant_id, "call-1") == 1
        end = await world.heard.end(task.task_id)
    assert (end.status, end.output, end.fence, end.attempts, end.steps) == ("completed", "It is 42.", 2, 1, 2)
    assert [message.role for message in end.messages] == ["assistant", "tool", "assistant"]
    reset = end.events[0]
    assert (reset.type, reset.data["after"]) == ("reset", "1-3")


async def test_time_that_a_run_was_parked_is_no_part_of_its_own(world: World, resender: Publisher) -> None:
    task = world.task(agent="hurried")  # has 0.3 s
    await _park_in_mid_run(world, task, obstacle=Obstacle("approval", "call-1"))
    await world.owner.execute(
        "UPDATE runtime.runs SET started_at = started_at - interval '1 hour' WHERE task_id = $1", task.task_id
    )
    await world.owner.execute(
        "UPDATE runtime.parked SET parked_at = parked_at - interval '1 hour' WHERE task_id = $1", task.task_id
    )
    await world.worker(Played(COMPUTE, ANSWER))
    async with waking(world, resender):
        await world.owner.execute("SELECT runtime.unpark($1, 'approval', 'call-1')", task.tenant_id)
        assert (await world.heard.end(task.task_id)).status == "completed"


async def test_a_run_that_is_cancelled_while_it_is_parked_ends_with_all_that_it_did(
    world: World, resender: Publisher
) -> None:
    task, provider = world.task(), Played(COMPUTE, ANSWER)
    await _park_in_mid_run(world, task, obstacle=Obstacle("approval", "call-1", _later()))
    assert await world.cancel(task, bell=False) == "cancelling"
    await world.worker(provider)
    async with waking(world, resender):
        end = await world.heard.end(task.task_id)
    assert (end.status, end.steps, end.usage.output_tokens) == ("cancelled", 1, 5)
    assert [event.type for event in end.events] == ["reset", "done"]
    assert provider.requests == []
    assert await parked_row(world, task) == {}


async def test_the_key_of_a_worker_that_died_is_free_when_its_lease_has_run_out(
    world: World, resender: Publisher
) -> None:
    """And its run, which comes again while another has the key, parks after what stands, and goes on behind it."""
    dying, provider = Played(ANSWER, hold=True), Played(ANSWER, hold=True)
    tenant = world.stage.new_tenant()
    first = world.task(tenant_id=tenant, concurrency_key="k")
    second = world.task(tenant_id=tenant, concurrency_key="k")
    victim = await world.worker(dying, slots=1)
    await world.submit(first)
    await dying.called()
    await world.worker(provider)
    await world.submit(second)
    await until_parked(world, second, "concurrency_key")
    async with waking(world, resender):
        victim.leases.cancel()
        await provider.called()
        assert (await world.run_row(second))["status"] == "running"
        await world.submit(first)  # as the broker does
        await until_parked(world, first, "concurrency_key")
        run = await world.run_row(first)
        assert (run["fence"], run["attempts"]) == (2, 1)
        provider.go.set()
        await world.heard.end(second.task_id)
        end = await world.heard.end(first.task_id)
    assert (end.status, end.fence, end.attempts) == ("completed", 3, 2)
    fences = [(str(e.id), e.type) for e in await world.stream(first) if e.seq == 1 or e.fence == 2]
    assert fences == [("1-1", "start"), ("2-1", "reset"), ("2-2", "status"), ("3-1", "reset")]
    dying.go.set()


async def test_many_tasks_of_one_time_are_woken_by_and_by(world: World) -> None:
    """Woken work goes before all that is new in its lane: one tenant cannot fill that with a thousand starts."""
    tenant, start = world.stage.new_tenant(), _later(-1)
    many = [world.task(tenant_id=tenant, not_before=start) for _ in range(12)]
    await world.owner.executemany(
        "INSERT INTO runtime.parked (task_id, tenant_id, tier, reason, wake_at, priority, submitted_at, message, told)"
        " VALUES ($1, $2, 'free', 'not_before', $3, 5, $4, $5, '[]')",
        [(task.task_id, tenant, start, task.submitted_at, task.encode()) for task in many],
    )
    assert [await world.owner.fetchval("SELECT runtime.wake(5)") for _ in range(2)] == [5, 0]
    taken = await world.owner.fetch("SELECT task_id FROM runtime.parked WHERE ready_at IS NOT NULL LIMIT 3")
    await world.owner.execute("DELETE FROM runtime.parked WHERE task_id = ANY ($1)", [row["task_id"] for row in taken])
    assert await world.owner.fetchval("SELECT runtime.wake(5)") == 3


@pytest.mark.parametrize("reason", ["paused", "not_before"])
async def test_a_look_reads_as_much_as_it_wakes_however_much_is_due(world: World, reason: str) -> None:
    """Else a pause that held enough of one tenant would, once lifted, keep the waker from all others for good."""
    many, crowd, other = 20_000, world.stage.new_tenant(), world.stage.new_tenant()
    waits = ("agent:default", None) if reason == "paused" else ("", _later(-1))
    insert = """
        INSERT INTO runtime.parked
          (task_id, tenant_id, tier, reason, key, wake_at, priority, submitted_at, message, told)
        SELECT gen_random_uuid(), $1, 'free', $2, $3, $4, 5, now(), '', '[]' FROM generate_series(1, $5)"""
    async with world.owner.acquire() as connection:
        for tenant, count in ((crowd, many), (other, 3)):
            await connection.execute(insert, tenant, reason, *waits, count)
        await connection.execute("ANALYZE runtime.parked")
        read = """
            SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = 'runtime.parked'::regclass"""
        for woken in (13, 0):  # the second look finds the crowd's window full
            async with connection.transaction():
                before = await connection.fetchval(read)
                assert await connection.fetchval("SELECT runtime.wake(10)") == woken
                assert await connection.fetchval(read) - before < many / 20
        await connection.execute("DELETE FROM runtime.parked WHERE tenant_id = ANY ($1)", [crowd, other])
