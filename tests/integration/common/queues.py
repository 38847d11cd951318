"""What the tests put into queues, and what they find there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.usage import Usage
from common.errors import DecodeError
from common.messaging.publisher import Publisher
from common.messaging.settlement import RabbitDelivery
from common.messaging.topology import EVENTS
from tests.stage import Stage, eventually


def usage(number: int = 0) -> UsageRecorded:
    """A record with a number, in its `step`, by which a test knows it again."""
    return UsageRecorded(
        attempt_id=uuid4(),
        task_id=uuid4(),
        tenant_id=uuid4(),
        agent="default",
        provider="openai",
        model="m",
        step=number,
        call=1,
        fence=1,
        usage=Usage(),
        recorded_at=now(),
    )


def read(delivery: RabbitDelivery) -> UsageRecorded:
    """As billing does."""
    contract = delivery.decode()
    if not isinstance(contract, UsageRecorded):
        raise DecodeError(contract.kind)
    return contract


async def publish(publisher: Publisher, records: Sequence[UsageRecorded]) -> None:
    """All at once."""
    await asyncio.gather(
        *(publisher.publish(EVENTS, r.kind, r, subject=r.task_id, stable_id=str(r.attempt_id)) for r in records)
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what this process itself comes to know."""

    async def met() -> bool:
        return condition()

    await eventually(met, 60)


async def depth(stage: Stage, queue: str) -> int:
    """How many messages the queue has, ready or held, as the management API knows: some seconds late."""
    with stage.management() as client:
        answer = await asyncio.to_thread(client.get, f"/api/queues/{stage.name}/{queue}")
    return int(answer.json().get("messages", 0))


async def until_depth(stage: Stage, queue: str, count: int) -> None:
    """Wait for it."""

    async def reached() -> bool:
        return await depth(stage, queue) == count

    await eventually(reached, 30)


async def purge(stage: Stage, *queues: str) -> None:
    """Empty them, at the start of a test."""
    with stage.management() as client:
        for queue in queues:
            answer = await asyncio.to_thread(client.delete, f"/api/queues/{stage.name}/{queue}/contents")
            assert answer.is_success


async def cut_connections(stage: Stage, service: str) -> None:
    """Have the broker close every connection that a service's user has now, and wait until it has: not the next one."""
    path = f"/api/connections/username/{stage.name}-{service}"
    with stage.management() as client:

        async def names() -> set[str]:
            return {connection["name"] for connection in (await asyncio.to_thread(client.get, path)).json()}

        victims = await eventually(names, 30)
        answer = await asyncio.to_thread(client.delete, path)
        assert answer.is_success, answer.text

        async def gone() -> bool:
            return not victims & await names()

        await eventually(gone, 30)
