from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.errors import BrokerUnavailable
from common.messaging.connection import Broker
from common.messaging.flex import FlexConsumer, FlexLane
from common.messaging.publisher import Publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import BILLING, BILLING_QUEUE
from tests.integration.common.queues import cut_connections, publish, purge, read, until, until_depth, usage
from tests.stage import Stage, eventually


@pytest.fixture
async def broker(stage: Stage) -> AsyncIterator[Broker]:
    await purge(stage, BILLING_QUEUE)
    async with Broker(stage.rabbit(BILLING), "billing/flex") as made:
        yield made


async def come(held: list[RabbitDelivery], count: int) -> None:
    async def enough() -> bool:
        return len(held) >= count

    await eventually(enough)


async def test_each_consumer_holds_as_much_as_it_was_opened_for(
    stage: Stage, broker: Broker, worker: Publisher
) -> None:
    lane = FlexLane(broker, BILLING_QUEUE)
    three: list[RabbitDelivery] = []
    one: list[RabbitDelivery] = []
    await lane.open(3, three.append)
    await lane.open(1, one.append)
    await publish(worker, [usage(number) for number in range(10)])
    await come(three, 3)
    await come(one, 1)
    assert await one[0].settle(Disposition.DONE)
    await come(one, 2)
    await until_depth(stage, BILLING_QUEUE, 9)
    assert (len(three), len(one)) == (3, 2)


async def test_a_closed_one_is_sent_nothing_more_and_what_it_holds_can_be_settled(
    stage: Stage, broker: Broker, worker: Publisher
) -> None:
    lane = FlexLane(broker, BILLING_QUEUE)
    held: list[RabbitDelivery] = []
    consumer = await lane.open(1, held.append)
    await publish(worker, [usage(1), usage(2)])
    await come(held, 1)
    await consumer.close()
    assert consumer.lost
    assert await held[0].settle(Disposition.DONE)
    await until_depth(stage, BILLING_QUEUE, 1)
    assert len(held) == 1
    await consumer.close()  # changes nothing


async def test_one_whose_connection_was_lost_says_so_and_another_goes_on(
    stage: Stage, broker: Broker, worker: Publisher
) -> None:
    lane = FlexLane(broker, BILLING_QUEUE)
    held: list[RabbitDelivery] = []
    again: list[RabbitDelivery] = []
    first = await lane.open(1, held.append)
    await publish(worker, [usage(1)])
    await come(held, 1)

    await cut_connections(stage, BILLING)
    await until(lambda: first.lost)
    assert not await held[0].settle(Disposition.DONE)

    async def opened() -> FlexConsumer | None:
        try:
            return await lane.open(1, again.append)
        except BrokerUnavailable:
            return None

    await eventually(opened, 30)
    await come(again, 1)
    assert (read(again[0]), len(held)) == (read(held[0]), 1)
    assert await again[0].settle(Disposition.DONE)


async def test_what_is_held_goes_back_when_the_lane_is_closed(broker: Broker, worker: Publisher) -> None:
    lane, other = FlexLane(broker, BILLING_QUEUE), FlexLane(broker, BILLING_QUEUE)
    held: list[RabbitDelivery] = []
    again: list[RabbitDelivery] = []
    await lane.open(1, held.append)
    await publish(worker, [usage(1)])
    await come(held, 1)
    await lane.close()
    await other.open(1, again.append)
    await come(again, 1)
    assert read(again[0]) == read(held[0])
    assert await again[0].settle(Disposition.DONE)


async def test_a_queue_that_is_not_there_says_so(broker: Broker) -> None:
    lane = FlexLane(broker, "no-such-queue")
    with pytest.raises(BrokerUnavailable, match="no-such-queue"):
        await asyncio.wait_for(lane.open(1, print), 15)
