from __future__ import annotations

import asyncio

from common.errors import BrokerUnavailable
from common.messaging.connection import Broker
from common.messaging.consumer import consuming
from common.messaging.publisher import Publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import BILLING, BILLING_QUEUE
from tests.integration.common.queues import cut_connections, depth, publish, purge, read, until, until_depth, usage
from tests.stage import Stage, eventually


async def test_it_can_be_halted_for_a_while_and_is_not_brought_back_meanwhile(stage: Stage, worker: Publisher) -> None:
    await purge(stage, BILLING_QUEUE)
    held: list[RabbitDelivery] = []
    async with (
        Broker(stage.rabbit(BILLING), "billing/halted") as broker,
        consuming(broker, BILLING_QUEUE, prefetch=1, on_delivery=held.append) as consumption,
    ):
        await publish(worker, [usage(1), usage(2), usage(3)])
        await until(lambda: len(held) == 1)
        await consumption.halt()
        assert await held[0].settle(Disposition.DONE)  # what it holds can be settled
        await until_depth(stage, BILLING_QUEUE, 2)
        await cut_connections(stage, BILLING)
        await until(lambda: held[0].lost)
        await until(lambda: broker.ready)
        assert len(held) == 1

        async def going_on() -> bool:
            try:
                await consumption.go_on()
            except BrokerUnavailable:
                return False
            return True

        settled = [True]

        async def all_settled() -> bool:
            """One may come twice: the connection can be lost once more while the library brings it back."""
            while to_settle := held[len(settled) :]:
                settled.append(await to_settle[0].settle(Disposition.DONE))
            return await depth(stage, BILLING_QUEUE) == 0

        await eventually(going_on, 60)
        await eventually(all_settled, 60)
        assert {read(delivery).step for delivery in held} == {1, 2, 3}
        await consumption.close()
        await publish(worker, [usage(4)])
        await until_depth(stage, BILLING_QUEUE, 1)
        assert 4 not in {read(delivery).step for delivery in held}


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
