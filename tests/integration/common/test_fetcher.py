from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.errors import BrokerUnavailable
from common.messaging.connection import Broker
from common.messaging.consumer import Fetcher
from common.messaging.publisher import Publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import BILLING, BILLING_QUEUE
from tests.integration.common.queues import cut_connections, publish, purge, read, until_depth, usage
from tests.stage import Stage, eventually


@pytest.fixture
async def broker(stage: Stage) -> AsyncIterator[Broker]:
    await purge(stage, BILLING_QUEUE)
    async with Broker(stage.rabbit(BILLING), "billing/fetch") as made:
        yield made


async def fetched(fetcher: Fetcher) -> RabbitDelivery:
    async def look() -> RabbitDelivery | None:
        try:
            return await fetcher.fetch()
        except BrokerUnavailable:
            return None

    return await eventually(look) or pytest.fail("nothing came")


async def test_it_fetches_one_message_at_a_time_and_none_where_there_is_none(
    stage: Stage, broker: Broker, worker: Publisher
) -> None:
    fetcher = Fetcher(broker, BILLING_QUEUE)
    assert await fetcher.fetch() is None
    await publish(worker, [usage(1), usage(2)])
    first = await fetched(fetcher)
    assert await first.settle(Disposition.RETURN)
    again = await fetched(fetcher)
    assert (read(again), again.redelivered) == (read(first), True)
    assert await again.settle(Disposition.DONE)
    assert await (await fetched(fetcher)).settle(Disposition.DONE)
    assert await fetcher.fetch() is None
    await until_depth(stage, BILLING_QUEUE, 0)


async def test_it_goes_on_after_the_connection_was_lost(stage: Stage, broker: Broker, worker: Publisher) -> None:
    fetcher = Fetcher(broker, BILLING_QUEUE)
    await publish(worker, [usage(1)])
    held = await fetched(fetcher)

    async def cut() -> bool:
        """The broker knows of a connection some seconds after it was opened."""
        await cut_connections(stage, BILLING)
        return held.lost

    await eventually(cut, 30)
    assert not await held.settle(Disposition.DONE)
    again = await fetched(fetcher)
    assert read(again) == read(held)
    assert await again.settle(Disposition.DONE)


async def test_what_it_fetched_goes_back_when_it_is_closed(broker: Broker, worker: Publisher) -> None:
    fetcher, other = Fetcher(broker, BILLING_QUEUE), Fetcher(broker, BILLING_QUEUE)
    await publish(worker, [usage(1)])
    held = await fetched(fetcher)
    await fetcher.close()
    again = await fetched(other)
    assert read(again) == read(held)
    assert await again.settle(Disposition.DONE)


async def test_a_queue_that_is_not_there_says_so(broker: Broker) -> None:
    with pytest.raises(BrokerUnavailable, match="no-such-queue"):
        await asyncio.wait_for(Fetcher(broker, "no-such-queue").fetch(), 15)
