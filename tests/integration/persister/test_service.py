"""The whole process against a real broker and database: the record, and the dead letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import httpx2
import pytest

from common.contracts import Contract, TaskSubmitted
from common.messaging.connection import Broker
from common.messaging.consumer import consuming
from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import (
    AGENT_WORKER,
    DEAD_EVENTS_QUEUE,
    DEAD_TASKS_QUEUE,
    EVENTS,
    GATEWAY,
    PERSISTER,
    TASKS,
    lane,
)
from common.postgres import Pool
from common.settings import Health
from persister.bootstrap import persister
from persister.settings import PersisterSettings
from tests.integration.persister.story import Story
from tests.stage import Stage, eventually

PORT = 18_742


@asynccontextmanager
async def _service(stage: Stage, port: int = 0) -> AsyncIterator[None]:
    settings = PersisterSettings(
        rabbit=stage.rabbit(PERSISTER),
        postgres=stage.postgres("laneway_persister"),
        redis=stage.redis,
        health=Health(host="127.0.0.1", port=port),
    )
    async with persister(settings):
        yield


@pytest.fixture
async def gateway(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    async with publisher(stage.rabbit(GATEWAY), GATEWAY) as made:
        yield made


@pytest.fixture
async def worker(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    async with publisher(stage.rabbit(AGENT_WORKER), AGENT_WORKER) as made:
        yield made


async def _tell(worker: RabbitPublisher, contract: Contract) -> None:
    await worker.publish(EVENTS, contract.kind, contract, subject=uuid4(), stable_id=str(uuid4()))


async def _submit(gateway: RabbitPublisher, task: TaskSubmitted) -> None:
    await gateway.publish(TASKS, task.tier, task, subject=task.task_id, stable_id=str(task.task_id))


async def _reject(stage: Stage, task_id: UUID) -> None:
    """As a worker that finds the task's message poisonous; other tests' tasks it leaves where they are."""
    rejected = asyncio.Event()
    settling: set[asyncio.Task[None]] = set()

    async def settle(delivery: RabbitDelivery) -> None:
        mine = delivery.message.correlation_id == str(task_id)
        await delivery.settle(Disposition.DEAD if mine else Disposition.DONE)
        if mine:
            rejected.set()

    def receive(delivery: RabbitDelivery) -> None:
        settling.add(asyncio.create_task(settle(delivery)))

    async with Broker(stage.rabbit(AGENT_WORKER), "test") as broker:
        async with consuming(broker, lane("free"), prefetch=1, on_delivery=receive), asyncio.timeout(15):
            await rejected.wait()
        await asyncio.gather(*settling)


async def _row(owner: Pool, query: str, *arguments: object) -> asyncpg.Record:
    async def found() -> asyncpg.Record | None:
        return await owner.fetchrow(query, *arguments)

    row = await eventually(found)
    assert row is not None
    return row


async def test_a_task_is_recorded_from_its_submission_to_its_end(
    stage: Stage, gateway: RabbitPublisher, worker: RabbitPublisher, owner: Pool, story: Story
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_service(stage, PORT))
        await stack.enter_async_context(_service(stage))
        await _submit(gateway, story.submitted())
        await _tell(worker, story.progressed(story.event(1, "start")))
        await _tell(worker, story.finished())
        await _row(owner, "SELECT 1 FROM history.tasks WHERE task_id = $1 AND status = 'completed'", story.task_id)
        await _row(owner, "SELECT 1 FROM history.events WHERE task_id = $1 AND type = 'start'", story.task_id)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}") as client:
            ready = await client.get("/health/ready")
    assert ready.json() == {"status": "ok", "checks": {"rabbitmq": "ok", "postgresql": "ok", "redis": "ok"}}


async def test_a_task_that_died_in_its_lane_is_filed_and_ended(
    stage: Stage, gateway: RabbitPublisher, owner: Pool, story: Story
) -> None:
    await _submit(gateway, story.submitted())
    await _reject(stage, story.task_id)
    async with _service(stage):
        task = await _row(owner, "SELECT * FROM history.tasks WHERE task_id = $1 AND status = 'failed'", story.task_id)
        letter = await _row(owner, "SELECT * FROM history.dead_letters WHERE task_id = $1", story.task_id)
    assert task["error_type"] == "dead_lettered"
    assert task["finished_at"] is not None
    assert (letter["queue"], letter["exchange"], letter["routing_key"]) == ("tasks.free", "tasks", "free")
    assert (letter["reason"], letter["kind"]) == ("rejected", "task.submitted")
    assert TaskSubmitted.decode(letter["body"]) == story.submitted()
    assert letter["headers"]["cloudEvents_subject"] == str(story.task_id)
    assert letter["died_at"] is not None


async def test_a_task_whose_worker_has_just_died_is_ended_by_whichever_persister_is_there(
    stage: Stage, gateway: RabbitPublisher, owner: Pool, story: Story
) -> None:
    acquire = "SELECT * FROM runtime.acquire($1, $2, 'free', 'worker', interval '2 seconds')"
    await owner.execute(acquire, story.task_id, story.tenant_id)
    await _submit(gateway, story.submitted())
    await _reject(stage, story.task_id)
    async with _service(stage):
        await _row(owner, "SELECT * FROM history.dead_letters WHERE task_id = $1", story.task_id)
        await _drained(stage, DEAD_TASKS_QUEUE)
    async with _service(stage):
        await _row(owner, "SELECT * FROM history.tasks WHERE task_id = $1 AND status = 'failed'", story.task_id)


async def test_a_task_that_had_ended_keeps_its_end(
    stage: Stage, gateway: RabbitPublisher, worker: RabbitPublisher, owner: Pool, story: Story
) -> None:
    async with _service(stage):
        await _submit(gateway, story.submitted())
        await _tell(worker, story.finished())
        await _row(owner, "SELECT 1 FROM history.tasks WHERE task_id = $1 AND status = 'completed'", story.task_id)
        await _reject(stage, story.task_id)
        await _row(owner, "SELECT 1 FROM history.dead_letters WHERE task_id = $1", story.task_id)
    await _row(owner, "SELECT 1 FROM history.tasks WHERE task_id = $1 AND status = 'completed'", story.task_id)


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("run.finished", b"\xff\x00 no json", "run.finished: body"),
        ("run.finished", json.dumps({"task_id": "x"}).encode(), "run.finished: task_id"),
        ("nobody.knows", b"{}", "unknown kind of message: 'nobody.knows'"),
        (None, b"", "unknown kind of message: None"),
    ],
)
async def test_what_cannot_be_read_is_filed_with_the_reason(
    stage: Stage, owner: Pool, kind: str | None, body: bytes, reason: str
) -> None:
    name = str(uuid4())
    headers: dict[str, Any] = {"bytes": bytearray(b"\x00\xff"), "list": [1, {"deep": bytearray(b"x")}], "name": name}
    async with Broker(stage.rabbit(AGENT_WORKER), "test") as broker:
        channel = await broker.channel()
        exchange = await channel.get_exchange(EVENTS, ensure=False)
        for _ in range(2):
            message = aio_pika.Message(body, headers=headers, type=kind, message_id=name)
            await exchange.publish(message, "run.finished")
    async with _service(stage):
        letter = await _row(owner, "SELECT * FROM history.dead_letters WHERE headers->>'name' = $1", name)
        await _drained(stage, DEAD_EVENTS_QUEUE)
    assert letter["reason"].startswith(reason)
    assert letter["body"] == body
    assert letter["headers"]["list"] == [1, {"deep": "x"}]
    assert await owner.fetchval("SELECT count(*) FROM history.dead_letters WHERE headers->>'name' = $1", name) == 1


async def _drained(stage: Stage, queue: str) -> None:
    with stage.management() as client:

        async def empty() -> bool:
            answer = client.get(f"/api/queues/{stage.name}/{queue}").json()
            return bool(answer.get("messages") == 0)

        await eventually(empty, 30)
