from __future__ import annotations

import asyncio

from common.errors import BrokerUnavailable
from common.messaging.connection import Broker
from common.messaging.consumer import consuming
from common.messaging.publisher import Publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import BILLING, BILLING_QUEUE
from tests.integration.common.queues import cut_connections, publish, purge, until_depth, usage
from tests.stage import Stage, eventually


async def test_it_can_be_halted_for_a_while_and_is_not_brought_back_meanwhile(stage: Stage, worker: Publisher) -> None:
    await purge(stage, BILLING_QUEUE)
    held: list[RabbitDelivery] = []

    async def come(count: int) -> None:
        async def enough() -> bool:
            return len(held) >= count

        await eventually(enough, 30)

    async with (
        Broker(stage.rabbit(BILLING), "billing/halted") as broker,
        consuming(broker, BILLING_QUEUE, prefetch=1, on_delivery=held.append) as consumption,
    ):
        await publish(worker, [usage(1), usage(2), usage(3)])
        await come(1)
        await consumption.halt()
        assert await held[0].settle(Disposition.DONE)  # what it holds can be settled
        await until_depth(stage, BILLING_QUEUE, 2)

        async def cut() -> bool:
            """The broker knows of a connection some seconds after it was opened."""
            await cut_connections(stage, BILLING)
            return held[0].lost

        async def going_on() -> bool:
            try:
                await consumption.go_on()
            except BrokerUnavailable:
                return False
            return True

        async def back() -> bool:
            return broker.ready

        await eventually(cut, 30)
        await eventually(back, 30)
        assert len(held) == 1
        await eventually(going_on, 30)
        await come(2)
        assert await held[1].settle(Disposition.DONE)
        await come(3)
        assert await held[2].settle(Disposition.DONE)
        await consumption.close()
        await publish(worker, [usage(4)])
        await until_depth(stage, BILLING_QUEUE, 1)
    assert len(held) == 3


async def test_one_that_is_closed_while_it_is_opened_is_sent_nothing_more(stage: Stage, worker: Publisher) -> None:
    await purge(stage, BILLING_QUEUE)
    held: list[RabbitDelivery] = []
    async with (
        Broker(stage.rabbit(BILLING), "billing/closed") as broker,
        consuming(broker, BILLING_QUEUE, prefetch=10, on_delivery=held.append) as consumption,
    ):
        await consumption.halt()
        await asyncio.gather(consumption.go_on(), consumption.close())  # closed before the broker has answered
        await consumption.go_on()
        await publish(worker, [usage(1)])
        await until_depth(stage, BILLING_QUEUE, 1)
        assert (consumption.halted, held) == (True, [])
