"""The whole process against a real broker and database: records in, postings out, through repetition and faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

import aio_pika
import httpx2
import orjson
import pytest

from billing.bootstrap import billing
from billing.settings import BillingSettings
from common.contracts import Contract
from common.messaging.connection import Broker
from common.messaging.consumer import consuming
from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import AGENT_WORKER, BILLING, DEAD_EVENTS_QUEUE, EVENTS
from common.postgres import Pool
from common.settings import Health
from tests.integration.billing.calls import Call
from tests.stage import Stage, eventually

COST = Decimal("0.0015")
PORT = 18_741


@asynccontextmanager
async def _service(stage: Stage, port: int = 0) -> AsyncIterator[None]:
    settings = BillingSettings(
        rabbit=stage.rabbit(BILLING),
        postgres=stage.postgres("laneway_billing"),
        health=Health(host="127.0.0.1", port=port),
    )
    async with billing(settings):
        yield


@pytest.fixture
async def worker(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    async with publisher(stage.rabbit(AGENT_WORKER), AGENT_WORKER) as made:
        yield made


async def _publish(worker: RabbitPublisher, contract: Contract) -> None:
    await worker.publish(EVENTS, contract.kind, contract, subject=uuid4(), stable_id=str(uuid4()))


async def _posted(owner: Pool, call: Call) -> Decimal:
    posted = await owner.fetchval(
        """SELECT coalesce(sum(l.amount), 0) FROM billing.ledger l JOIN billing.usage u USING (attempt_id)
        WHERE u.task_id = $1 AND l.account = 'receivable'""",
        call.task_id,
    )
    assert isinstance(posted, Decimal)
    return posted


async def test_many_records_each_sent_twice_are_posted_once(
    stage: Stage, worker: RabbitPublisher, owner: Pool, call: Call
) -> None:
    calls = [Call(call.tenant_id, call.task_id, number=number) for number in range(1, 101)]
    for one in calls:
        assert await one.reserve(owner) == "held"
    poison = call.record(step=2**40)

    async def all_posted() -> bool:
        return await _posted(owner, call) == 100 * COST

    async with _service(stage, PORT):
        await asyncio.gather(*(_publish(worker, one.record()) for one in calls * 2), _publish(worker, poison))
        await eventually(all_posted)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}") as client:
            ready = await client.get("/health/ready")
            metrics = await client.get("/metrics")
    assert ready.json() == {"status": "ok", "checks": {"rabbitmq": "ok", "postgresql": "ok"}}
    assert "laneway_billing_settled_total" in metrics.text
    assert await _posted(owner, call) == 100 * COST


async def _raw(stage: Stage, usage: dict[str, Any], call: Call) -> str:
    """A record as a worker that has gone wrong might publish it; its message id."""
    record = call.record()
    body = orjson.dumps(record.model_dump(mode="json") | {"usage": usage})
    connection = await aio_pika.connect(stage.rabbit(AGENT_WORKER).url.get_secret_value())
    message_id = str(uuid4())
    async with connection:
        exchange = await (await connection.channel()).get_exchange(EVENTS, ensure=False)
        message = aio_pika.Message(body, type=record.kind, message_id=message_id, delivery_mode=2)
        await exchange.publish(message, record.kind)
    return message_id


async def test_negative_and_absurd_usage_is_dead_lettered_and_the_rest_is_posted(
    stage: Stage, worker: RabbitPublisher, owner: Pool, call: Call
) -> None:
    bad = [{"input_tokens": -1}, {"output_tokens": 10**12}, {"output_tokens": 1, "reasoning_tokens": 2}]
    others = [Call(call.tenant_id, call.task_id, number=number + 2) for number in range(len(bad))]
    for one in (call, *others):
        assert await one.reserve(owner) == "held"
    dead: dict[str | None, str] = {}

    async def bury(delivery: RabbitDelivery) -> None:
        dead[delivery.message.message_id] = str(delivery.message.headers)
        await delivery.settle(Disposition.DONE)

    def on_delivery(delivery: RabbitDelivery) -> None:
        burials.append(asyncio.ensure_future(bury(delivery)))

    burials: list[asyncio.Future[None]] = []
    async with (
        Broker(stage.rabbit("persister"), "test/dead") as broker,
        _service(stage),
        consuming(broker, DEAD_EVENTS_QUEUE, prefetch=10, on_delivery=on_delivery),
    ):
        sent = [await _raw(stage, usage, one) for usage, one in zip(bad, others, strict=True)]
        await _publish(worker, call.record())

        async def all_there() -> bool:
            return set(sent) <= set(dead) and await _posted(owner, call) == COST

        await eventually(all_there, 60)
        await asyncio.gather(*burials)
    assert all("rejected" in dead[message_id] for message_id in sent)
    states = await owner.fetch("SELECT state FROM billing.holds WHERE task_id = $1 AND call > 1", call.task_id)
    assert {row["state"] for row in states} == {"open"}  # the sweeper has them next: nothing is lost


async def test_several_processes_share_the_work(stage: Stage, worker: RabbitPublisher, owner: Pool, call: Call) -> None:
    calls = [Call(call.tenant_id, call.task_id, number=number) for number in range(1, 51)]
    for one in calls:
        await one.reserve(owner)

    async def all_posted() -> bool:
        return await _posted(owner, call) == 50 * COST

    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(_service(stage))
        await asyncio.gather(*(_publish(worker, one.record()) for one in calls * 3))
        await eventually(all_posted)
