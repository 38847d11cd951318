"""A hold is given up only where its record can be nowhere: not in the queue, and in no other process's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from uuid import uuid4

import pytest

from billing import handlers
from billing.drain import Drain
from common.messaging.connection import Broker
from common.messaging.consumer import BatchConsumer, consuming, depth
from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import AGENT_WORKER, BILLING, BILLING_QUEUE, EVENTS
from common.postgres import Pool
from tests.integration.billing.calls import Call
from tests.stage import Stage, eventually

INTERVAL = 0.3
"""Three of it must be enough for two looks on a busy machine."""
LONGEST_RETRY = 2.0
"""The broker delays what was once held by a process that died by 1 second."""


@pytest.fixture
async def broker(stage: Stage) -> AsyncIterator[Broker]:
    async with Broker(stage.rabbit(BILLING), "test") as made:
        yield made


@pytest.fixture
async def worker(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    async with publisher(stage.rabbit(AGENT_WORKER), AGENT_WORKER) as made:
        yield made


def _drain(broker: Broker, pool: Pool, lag: Callable[[], float]) -> Drain:
    asked = partial(depth, broker, BILLING_QUEUE)
    return Drain(pool, 10, interval=INTERVAL, longest_retry=LONGEST_RETRY, depth=asked, lag=lag)


@asynccontextmanager
async def _process(broker: Broker, pool: Pool) -> AsyncIterator[Drain]:
    """As much of the service as settles records and watches the queue."""
    settle = partial(handlers.settle_usage, pool=pool, timeout=10)
    consumer = BatchConsumer(BILLING_QUEUE, settle, decode=handlers.read)
    task = asyncio.create_task(consumer.run(broker))
    yield _drain(broker, pool, lambda: consumer.lag)
    task.cancel()
    await asyncio.wait({task}, timeout=15)


async def _publish(worker: RabbitPublisher, call: Call) -> None:
    record = call.record()
    await worker.publish(EVENTS, record.kind, record, subject=uuid4(), stable_id=str(uuid4()))


async def _becomes_empty(*drains: Drain) -> None:
    async def all_know() -> bool:
        return all([await drain.known() for drain in drains])

    await eventually(all_know, 60)


async def _stays_unknown(drain: Drain) -> None:
    until = asyncio.get_running_loop().time() + LONGEST_RETRY + 10 * INTERVAL  # longer than it takes to be known
    while asyncio.get_running_loop().time() < until:
        assert not await drain.known()


async def test_an_empty_queue_is_known_to_be_so_after_some_looks(broker: Broker, pool: Pool) -> None:
    async with _process(broker, pool) as drain:
        await _becomes_empty(drain)


async def test_what_is_in_the_queue_is_seen(broker: Broker, pool: Pool, worker: RabbitPublisher, call: Call) -> None:
    async with _process(broker, pool) as drain:
        await _becomes_empty(drain)
        ready = _drain(broker, pool, lambda: 0)
    await _publish(worker, call)
    await _stays_unknown(ready)
    async with _process(broker, pool) as drain:
        await _becomes_empty(drain)


async def test_what_another_process_holds_is_seen_until_it_has_settled_it(
    stage: Stage, broker: Broker, pool: Pool, worker: RabbitPublisher, call: Call
) -> None:
    held: asyncio.Queue[RabbitDelivery] = asyncio.Queue()
    async with (
        Broker(stage.rabbit(BILLING), "stuck") as other,
        consuming(other, BILLING_QUEUE, prefetch=10, on_delivery=held.put_nowait),
    ):
        await _publish(worker, call)
        async with asyncio.timeout(15):
            delivery = await held.get()
        async with _process(broker, pool) as drain:
            await _stays_unknown(drain)
            await delivery.settle(Disposition.DONE)
            # It says nothing of itself: for all that is known it may hold another.
            await _stays_unknown(drain)


async def test_several_processes_that_hold_nothing_know_it_together(stage: Stage, broker: Broker, pool: Pool) -> None:
    async with (
        Broker(stage.rabbit(BILLING), "other") as other,
        _process(broker, pool) as one,
        _process(other, pool) as two,
    ):
        await _becomes_empty(one, two)


async def test_what_a_process_that_died_held_is_settled_before_the_queue_is_known_to_be_empty(
    stage: Stage, broker: Broker, pool: Pool, owner: Pool, worker: RabbitPublisher, call: Call
) -> None:
    held: asyncio.Queue[RabbitDelivery] = asyncio.Queue()
    async with AsyncExitStack() as process:
        other = await process.enter_async_context(Broker(stage.rabbit(BILLING), "stuck"))
        consumer = consuming(other, BILLING_QUEUE, prefetch=10, on_delivery=held.put_nowait)
        await process.enter_async_context(consumer)
        await _publish(worker, call)
        async with asyncio.timeout(15):
            await held.get()
        async with _process(broker, pool) as drain:
            await _stays_unknown(drain)
            await process.aclose()
            await _becomes_empty(drain)
    assert await owner.fetchval("SELECT count(*) FROM billing.usage WHERE attempt_id = $1", call.attempt_id) == 1


async def test_a_broker_that_is_away_leaves_it_unknown(stage: Stage, pool: Pool) -> None:
    async with Broker(stage.rabbit(BILLING), "gone") as gone:
        pass
    await _stays_unknown(_drain(gone, pool, lambda: 0))
