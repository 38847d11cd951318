"""Batches: nothing is lost, what fails fails alone, and what is away is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import aio_pika
import pytest

from common.contracts import UsageRecorded
from common.errors import PoisonError, StoreUnavailable
from common.messaging.connection import Broker
from common.messaging.consumer import BatchConsumer, BatchPolicy
from common.messaging.publisher import RabbitPublisher
from common.messaging.settlement import Disposition
from common.messaging.topology import AGENT_WORKER, BILLING, BILLING_QUEUE, DEAD_EVENTS_QUEUE, EVENTS, PERSISTER
from tests.integration.common.queues import cut_connections, publish, purge, read, until, until_depth, usage
from tests.stage import Stage

Handler = Callable[[Sequence[UsageRecorded]], Awaitable[None]]


@pytest.fixture(autouse=True)
async def _empty(stage: Stage) -> None:
    await purge(stage, BILLING_QUEUE, DEAD_EVENTS_QUEUE)


@asynccontextmanager
async def _consuming(stage: Stage, handler: Handler, policy: BatchPolicy | None = None) -> AsyncIterator[None]:
    async with Broker(stage.rabbit(BILLING), "test") as broker:
        task = asyncio.create_task(BatchConsumer(BILLING_QUEUE, handler, decode=read, policy=policy).run(broker))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=15)
    assert task.cancelled()


async def test_many_messages_take_few_batches(stage: Stage, worker: RabbitPublisher) -> None:
    batches: list[list[int]] = []

    async def handle(records: Sequence[UsageRecorded]) -> None:
        batches.append([record.step for record in records])

    await publish(worker, [usage(number) for number in range(1000)])
    async with _consuming(stage, handle, BatchPolicy(size=200, linger=3.0)):
        await until(lambda: sum(map(len, batches)) == 1000)
        await until_depth(stage, BILLING_QUEUE, 0)
    assert sorted(step for batch in batches for step in batch) == list(range(1000))
    assert max(map(len, batches)) == 200
    assert len(batches) < 20


async def test_a_poisonous_message_is_found_and_dies_alone(stage: Stage, worker: RabbitPublisher) -> None:
    handled: list[int] = []

    async def handle(records: Sequence[UsageRecorded]) -> None:
        if any(record.step in (13, 77) for record in records):
            raise PoisonError("this can never succeed")
        handled.extend(record.step for record in records)

    await publish(worker, [usage(number) for number in range(100)])
    async with _consuming(stage, handle):
        await until(lambda: len(handled) >= 98)
        await until_depth(stage, DEAD_EVENTS_QUEUE, 2)
        await until_depth(stage, BILLING_QUEUE, 0)
    assert sorted(handled) == [number for number in range(100) if number not in (13, 77)]


async def test_an_error_that_is_not_explained_comes_again_later(stage: Stage, worker: RabbitPublisher) -> None:
    handled: list[int] = []
    failures = iter([RuntimeError("once"), RuntimeError("twice")])

    async def handle(records: Sequence[UsageRecorded]) -> None:
        if any(record.step == 5 for record in records) and (failure := next(failures, None)):
            raise failure
        handled.extend(record.step for record in records)

    await publish(worker, [usage(number) for number in range(10)])
    async with _consuming(stage, handle):
        await until(lambda: sorted(handled) == list(range(10)))
        await until_depth(stage, BILLING_QUEUE, 0)


async def test_what_died_is_never_lost_and_comes_again_later(stage: Stage, worker: RabbitPublisher) -> None:
    """The dead letters have no dead letters: even what looks hopeless is tried again, and not at full speed."""
    tried: list[float] = []
    loop = asyncio.get_running_loop()

    async def die(_: Sequence[UsageRecorded]) -> None:
        raise PoisonError("to the dead letters")

    async def handle(_: Sequence[UsageRecorded]) -> None:
        tried.append(loop.time())
        if len(tried) == 1:
            raise PoisonError("this can never succeed")
        if len(tried) == 2:
            raise RuntimeError("not explained")

    async with _consuming(stage, die):
        await publish(worker, [usage(1)])
        await until_depth(stage, DEAD_EVENTS_QUEUE, 1)
    async with Broker(stage.rabbit(PERSISTER), "test") as broker:
        consumer = BatchConsumer(DEAD_EVENTS_QUEUE, handle, decode=read, hopeless=Disposition.RETRY)
        task = asyncio.create_task(consumer.run(broker))
        await until(lambda: len(tried) == 3)
        await until_depth(stage, DEAD_EVENTS_QUEUE, 0)
        task.cancel()
        await asyncio.wait({task}, timeout=15)
    assert all(later - earlier > 0.5 for earlier, later in pairwise(tried))


async def test_a_batch_waits_for_what_is_unavailable(stage: Stage, worker: RabbitPublisher) -> None:
    seen: list[list[int]] = []

    async def handle(records: Sequence[UsageRecorded]) -> None:
        seen.append([record.step for record in records])
        if len(seen) < 3:
            raise StoreUnavailable("away")

    await publish(worker, [usage(number) for number in range(50)])
    async with _consuming(stage, handle, BatchPolicy(size=50, linger=2)):
        await until(lambda: len(seen) == 3)
        await until_depth(stage, BILLING_QUEUE, 0)
    assert seen[0] == seen[1] == seen[2]
    assert sorted(seen[0]) == list(range(50))


async def test_what_cannot_be_read_goes_to_the_dead_letters(stage: Stage, worker: RabbitPublisher) -> None:
    handled: list[int] = []

    async def handle(records: Sequence[UsageRecorded]) -> None:
        handled.extend(record.step for record in records)

    async with Broker(stage.rabbit(AGENT_WORKER), "raw") as broker:
        exchange = await (await broker.channel()).get_exchange(EVENTS, ensure=False)
        await exchange.publish(aio_pika.Message(b"\xff", type="usage.recorded"), "usage.recorded")
        await publish(worker, [usage(1)])
        await exchange.publish(aio_pika.Message(b"{}", type="nobody.knows"), "usage.recorded")
    async with _consuming(stage, handle):
        await until_depth(stage, DEAD_EVENTS_QUEUE, 2)
        await until(lambda: handled == [1])
        await until_depth(stage, BILLING_QUEUE, 0)


@pytest.mark.parametrize("cuts", [1, 3])
async def test_nothing_is_lost_when_the_connection_is_cut(stage: Stage, worker: RabbitPublisher, cuts: int) -> None:
    """Handled at least once, each of them, and acknowledged: what was buffered comes again on the new channel."""
    handled: list[int] = []
    going_on = asyncio.Event()
    first = asyncio.Event()

    async def handle(records: Sequence[UsageRecorded]) -> None:
        first.set()
        await going_on.wait()
        handled.extend(record.step for record in records)

    async def published(numbers: range) -> None:
        await publish(worker, [usage(number) for number in numbers])

    await published(range(500))
    async with _consuming(stage, handle, BatchPolicy(size=50)):
        async with asyncio.timeout(15):
            await first.wait()
        for _ in range(cuts):
            await cut_connections(stage, BILLING)
        going_on.set()
        await published(range(500, 600))
        await until(lambda: set(handled) == set(range(600)))
        await until_depth(stage, BILLING_QUEUE, 0)
