"""The four ends of a delivery, as the broker carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.errors import ConfigurationError
from common.messaging.connection import Broker
from common.messaging.consumer import consuming
from common.messaging.publisher import RabbitPublisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import AGENT_WORKER, BILLING, BILLING_QUEUE, DEAD_EVENTS_QUEUE, DEAD_TASKS_QUEUE
from tests.integration.common.queues import cut_connections, publish, purge, read, until_depth, usage
from tests.stage import Stage


@pytest.fixture
async def deliveries(stage: Stage, worker: RabbitPublisher) -> AsyncIterator[asyncio.Queue[RabbitDelivery]]:
    """Consuming a queue that held three records."""
    await purge(stage, BILLING_QUEUE, DEAD_EVENTS_QUEUE)
    for number in range(3):
        await publish(worker, [usage(number)])
    arrived: asyncio.Queue[RabbitDelivery] = asyncio.Queue()
    async with (
        Broker(stage.rabbit(BILLING), "test") as broker,
        consuming(broker, BILLING_QUEUE, prefetch=10, on_delivery=arrived.put_nowait),
    ):
        yield arrived
    await purge(stage, BILLING_QUEUE)


async def _next(deliveries: asyncio.Queue[RabbitDelivery]) -> RabbitDelivery:
    async with asyncio.timeout(15):
        return await deliveries.get()


async def test_done_is_gone(stage: Stage, deliveries: asyncio.Queue[RabbitDelivery]) -> None:
    for _ in range(3):
        assert await (await _next(deliveries)).settle(Disposition.DONE)
    await until_depth(stage, BILLING_QUEUE, 0)


async def test_done_with_all_before_covers_them(stage: Stage, deliveries: asyncio.Queue[RabbitDelivery]) -> None:
    last = [await _next(deliveries) for _ in range(3)][-1]
    assert await last.settle(Disposition.DONE, with_all_before=True)
    await until_depth(stage, BILLING_QUEUE, 0)


async def test_return_comes_again_at_once(deliveries: asyncio.Queue[RabbitDelivery]) -> None:
    first = await _next(deliveries)
    assert not first.redelivered
    number = read(first).step
    await first.settle(Disposition.RETURN)
    again = [await _next(deliveries) for _ in range(3)]
    assert {(delivery.redelivered, read(delivery).step) for delivery in again} >= {(True, number)}


async def test_retry_comes_again_later(deliveries: asyncio.Queue[RabbitDelivery]) -> None:
    first = await _next(deliveries)
    loop = asyncio.get_running_loop()
    await first.settle(Disposition.RETRY)
    since = loop.time()
    others = [await _next(deliveries) for _ in range(2)]
    assert not any(delivery.redelivered for delivery in others)
    assert (await _next(deliveries)).redelivered
    assert loop.time() - since > 0.5


async def test_dead_goes_to_the_dead_letters(stage: Stage, deliveries: asyncio.Queue[RabbitDelivery]) -> None:
    await (await _next(deliveries)).settle(Disposition.DEAD)
    await until_depth(stage, DEAD_EVENTS_QUEUE, 1)


async def test_a_delivery_whose_connection_went_is_lost(
    stage: Stage, deliveries: asyncio.Queue[RabbitDelivery]
) -> None:
    held = [await _next(deliveries) for _ in range(3)]
    await cut_connections(stage, BILLING)
    again = [await _next(deliveries) for _ in range(3)]
    assert all(delivery.lost for delivery in held)
    assert not await held[0].settle(Disposition.DONE)
    assert all(delivery.redelivered and not delivery.lost for delivery in again)


@pytest.mark.parametrize(
    ("service", "queue", "advice"),
    [(AGENT_WORKER, "tasks.nonesuch", "make topology"), (BILLING, DEAD_TASKS_QUEUE, "is it this service's own")],
)
async def test_a_queue_that_is_not_there_or_not_ours_says_what_to_do(
    stage: Stage, service: str, queue: str, advice: str
) -> None:
    async with Broker(stage.rabbit(service), "test") as broker:
        with pytest.raises(ConfigurationError, match=advice):
            async with consuming(broker, queue, prefetch=1, on_delivery=lambda _: None):
                pytest.fail("there is nothing to consume")
