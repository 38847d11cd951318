"""A publish is confirmed, or an error that says which kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from pydantic import SecretStr

from common.contracts import CancelRequested
from common.errors import BrokerUnavailable, LaneFull, PoisonError, Unroutable
from common.messaging.connection import Broker
from common.messaging.consumer import hearing_control
from common.messaging.publisher import LARGEST_BYTES, RabbitPublisher, publisher
from common.messaging.topology import AGENT_WORKER, BILLING_QUEUE, CONTROL, EVENTS, GATEWAY, PERSISTER_QUEUE
from common.settings import Rabbit
from tests.integration.common.queues import cut_connections, publish, purge, until_depth, usage
from tests.stage import Stage, eventually


async def test_what_is_confirmed_is_in_the_queue(stage: Stage, worker: RabbitPublisher) -> None:
    await purge(stage, BILLING_QUEUE)
    await publish(worker, [usage() for _ in range(300)])
    await until_depth(stage, BILLING_QUEUE, 300)
    await purge(stage, BILLING_QUEUE)


async def test_what_no_queue_takes_is_an_error(worker: RabbitPublisher) -> None:
    record = usage()
    with pytest.raises(Unroutable, match="make topology"):
        await worker.publish(EVENTS, "nobody.listens", record, subject=record.task_id, stable_id="x")


@contextmanager
def _full(stage: Stage, queue: str) -> Iterator[None]:
    """A policy under which the queue takes one message at most."""
    path = f"/api/policies/{stage.name}/full"
    policy = {
        "pattern": f"^{queue}$",
        "apply-to": "quorum_queues",
        "priority": 9,
        "definition": {"max-length": 1, "overflow": "reject-publish"},
    }
    with stage.management() as client:
        assert client.put(path, json=policy).is_success
        try:
            yield
        finally:
            assert client.delete(path).is_success


async def test_a_full_queue_refuses(stage: Stage, worker: RabbitPublisher) -> None:
    await purge(stage, BILLING_QUEUE)

    async def refused() -> bool:
        try:
            await publish(worker, [usage()])
        except LaneFull:
            return True
        return False

    with _full(stage, BILLING_QUEUE):
        await eventually(refused)
    await purge(stage, BILLING_QUEUE)


async def test_it_recovers_when_its_connection_is_cut(stage: Stage, worker: RabbitPublisher) -> None:
    await purge(stage, BILLING_QUEUE)
    await publish(worker, [usage()])
    await cut_connections(stage, AGENT_WORKER)
    record = usage()

    async def published() -> bool:
        try:
            await publish(worker, [record])
        except BrokerUnavailable:
            return False
        return True

    await eventually(published)
    assert worker.ready
    await purge(stage, BILLING_QUEUE, PERSISTER_QUEUE)


async def test_a_broker_that_is_not_there_is_unavailable() -> None:
    nowhere = Rabbit(url=SecretStr("amqp://user:word@127.0.0.1:1/none"))
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        async with publisher(nowhere, GATEWAY):
            pytest.fail("there is no broker")


async def test_what_may_not_be_written_is_refused(stage: Stage) -> None:
    async with publisher(stage.rabbit(GATEWAY), GATEWAY) as gateway:
        with pytest.raises(BrokerUnavailable):
            await publish(gateway, [usage()])


async def test_every_process_hears_control(stage: Stage) -> None:
    heard: list[tuple[str, object]] = []
    bell = CancelRequested(task_id=uuid4(), tenant_id=uuid4())
    async with (
        Broker(stage.rabbit(AGENT_WORKER), "one") as one,
        Broker(stage.rabbit(AGENT_WORKER), "two") as two,
        hearing_control(one, "w-1", lambda contract: heard.append(("w-1", contract))),
        hearing_control(two, "w-2", lambda contract: heard.append(("w-2", contract))),
        publisher(stage.rabbit(GATEWAY), GATEWAY) as gateway,
    ):
        await gateway.publish(CONTROL, "", bell, subject=bell.task_id, stable_id="bell")

        async def both() -> bool:
            return len(heard) == 2

        await eventually(both)
    assert sorted(heard, key=lambda pair: pair[0]) == [("w-1", bell), ("w-2", bell)]


async def test_what_is_too_large_harms_nobody_else_on_the_channel(stage: Stage, worker: RabbitPublisher) -> None:
    await purge(stage, BILLING_QUEUE)
    huge = usage().model_copy(update={"metadata": {"a": "x" * LARGEST_BYTES}})
    with pytest.raises(PoisonError, match="the broker takes"):
        await publish(worker, [huge])
    await publish(worker, [usage()])
    await until_depth(stage, BILLING_QUEUE, 1)
    await purge(stage, BILLING_QUEUE)
