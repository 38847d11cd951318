"""What a broker does with messages: the same tests on RabbitMQ and on the broker in memory, which must agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx2
import pytest
from pydantic import SecretStr

from common.contracts import CancelRequested, Contract, TaskSubmitted, UsageRecorded
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.contracts.usage import Usage
from common.errors import LaneFull, Unroutable
from common.messaging.apply import ManagedRabbit, apply
from common.messaging.connection import Broker
from common.messaging.consumer import consuming, hearing_control
from common.messaging.memory import MemoryBroker
from common.messaging.publisher import Publisher, publisher
from common.messaging.settlement import Delivery, Disposition
from common.messaging.topology import (
    BILLING_QUEUE,
    CONTROL,
    DEAD,
    DEAD_TASKS_QUEUE,
    EVENTS,
    PERSISTER_QUEUE,
    TASKS,
    Topology,
    lane,
    topology,
)
from common.settings import Rabbit
from tests.servers import Servers
from tests.stage import eventually

LIMIT = 2
LANE = lane("free")
PASSWORD = SecretStr("test")
Opener = Callable[..., AbstractAsyncContextManager[object]]


class Scene(Protocol):
    """What the tests ask of a broker."""

    publisher: Publisher
    consuming: Opener
    hearing_control: Opener


def quick(plan: Topology) -> Topology:
    """The plan, with retries that do not keep a test waiting, and a lane that is soon full."""
    changes = {"delivery-limit": LIMIT, "delayed-retry-min": 20, "delayed-retry-max": 40}
    small = {"pro": 3}

    def changed(definition: Any, **more: int) -> dict[str, Any]:
        return {**definition, **changes, **more}

    policies = []
    for policy in plan.policies:
        if policy.name != "lanes":
            policies.append(policy)
            continue
        rest = rf"^tasks\.(?!({'|'.join(small)})$)"
        policies.append(replace(policy, pattern=rest, definition=changed(policy.definition)))
        for tier, length in small.items():
            limited = changed(policy.definition, **{"max-length": length})
            policies.append(replace(policy, name=tier, pattern=rf"^tasks\.{tier}$", definition=limited))
    return replace(plan, policies=tuple(policies))


PLAN = quick(topology(("enterprise", "pro", "free")))


@pytest.fixture(scope="module")
def vhost(servers: Servers) -> Iterator[str]:
    name = f"suite-{uuid4().hex[:12]}"
    words = {f"password_{role}": PASSWORD for role in ("gateway", "agent_worker", "persister", "billing")}
    apply(
        ManagedRabbit(
            management_url=SecretStr(servers.rabbit_management_url), vhost=name, user_prefix=f"{name}-", **words
        ),
        PLAN,
    )
    # One who may do everything: which service may do what is tested elsewhere.
    address = urlsplit(servers.rabbit_url)
    with httpx2.Client(base_url=servers.rabbit_management_url, timeout=15) as client:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        client.put(f"/api/permissions/{name}/{address.username}", json=everything).raise_for_status()
        yield address._replace(path=f"/{name}").geturl()
        client.delete(f"/api/vhosts/{name}")
        for service in ("gateway", "agent-worker", "persister", "billing"):
            client.delete(f"/api/users/{name}-{service}")


class MemoryScene:
    def __init__(self) -> None:
        broker = MemoryBroker(PLAN)
        self.publisher: Publisher = broker
        self.consuming: Opener = broker.consuming
        self.hearing_control: Opener = broker.hearing_control


class RabbitScene:
    def __init__(self, made: Publisher, broker: Broker) -> None:
        self.publisher = made
        self.consuming: Opener = partial(consuming, broker)
        self.hearing_control: Opener = partial(hearing_control, broker)


@asynccontextmanager
async def rabbit(url: str) -> AsyncIterator[Scene]:
    settings = Rabbit(url=SecretStr(url), publish_timeout=10)
    async with publisher(settings, "gateway") as made, Broker(settings, "suite") as broker:
        yield RabbitScene(made, broker)


@pytest.fixture(params=["memory", "rabbitmq"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    kind: Literal["memory", "rabbitmq"] = request.param
    if kind == "memory":
        yield MemoryScene()
        return
    async with rabbit(request.getfixturevalue("vhost")) as made:
        for queue in (LANE, lane("pro"), lane("enterprise"), PERSISTER_QUEUE, BILLING_QUEUE, DEAD_TASKS_QUEUE):
            await _empty(made, queue)
        yield made


async def _empty(scene: Scene, queue: str) -> None:
    """Take all that a test before has left: until a message of our own comes out."""
    async with Taker(scene, queue, prefetch=1000) as taker:
        await asyncio.wait({asyncio.create_task(taker.changed.wait())}, timeout=0.05)
        while taker.held:
            await taker.settle(0, Disposition.DONE)


class Taker:
    """A consumer that holds what it gets until it is told to settle it."""

    def __init__(self, scene: Scene, queue: str, prefetch: int = 1) -> None:
        self._opened = scene.consuming(queue, prefetch=prefetch, on_delivery=self._take)
        self.held: list[Delivery] = []
        self.changed = asyncio.Event()

    def _take(self, delivery: Delivery) -> None:
        self.held.append(delivery)
        self.changed.set()

    async def __aenter__(self) -> Taker:
        await self._opened.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.__aexit__(*error)

    async def has(self, count: int) -> list[UUID]:
        """Wait for so many; their tasks."""

        async def enough() -> bool:
            return len(self.held) >= count

        await eventually(enough)
        return [delivery.decode().task_id for delivery in self.held]  # type: ignore[attr-defined]

    async def settle(self, index: int, disposition: Disposition) -> None:
        assert await self.held.pop(index).settle(disposition)

    async def drained(self, count: int) -> list[UUID]:
        """Take and acknowledge so many, one after another."""
        order: list[UUID] = []
        while len(order) < count:
            order += (await self.has(1))[:1]
            await self.settle(0, Disposition.DONE)
        return order


def task(tier: str = "free") -> TaskSubmitted:
    return TaskSubmitted(
        task_id=uuid4(),
        tenant_id=uuid4(),
        tier=tier,
        level=1,
        priority=5,
        agent="default",
        input=(InputMessage(role="user", content="x"),),
        request_hash="",
        submitted_at=now(),
    )


async def submit(scene: Scene, tier: str = "free", priority: int = 1) -> UUID:
    submitted = task(tier)
    await scene.publisher.publish(
        TASKS, tier, submitted, subject=submitted.task_id, stable_id=str(submitted.task_id), priority=priority
    )
    return submitted.task_id


async def test_a_task_goes_to_its_lane_and_to_the_record(scene: Scene) -> None:
    async with Taker(scene, LANE) as lane_, Taker(scene, PERSISTER_QUEUE) as record, Taker(scene, lane("pro")) as other:
        submitted = await submit(scene)
        assert await lane_.has(1) == [submitted]
        assert await record.has(1) == [submitted]
        assert other.held == []
        headers = lane_.held[0].headers
        assert (headers["cloudEvents_id"], headers["cloudEvents_type"]) == (str(submitted), "laneway.task.submitted.v1")
        assert not lane_.held[0].redelivered
        for taker in (lane_, record):
            await taker.settle(0, Disposition.DONE)


async def test_usage_goes_to_billing_alone(scene: Scene) -> None:
    record = UsageRecorded(
        attempt_id=uuid4(),
        task_id=uuid4(),
        tenant_id=uuid4(),
        agent="a",
        provider="p",
        model="m",
        step=1,
        call=1,
        fence=1,
        usage=Usage(),
        recorded_at=now(),
    )
    async with Taker(scene, BILLING_QUEUE) as billing, Taker(scene, PERSISTER_QUEUE) as persister:
        await scene.publisher.publish(EVENTS, record.kind, record, subject=record.task_id, stable_id="u")
        assert await billing.has(1) == [record.task_id]
        assert billing.held[0].decode() == record
        assert persister.held == []
        await billing.settle(0, Disposition.DONE)


@pytest.mark.parametrize(("exchange", "key"), [(EVENTS, "nothing.of.ours"), (DEAD, "x"), (CONTROL, "")])
async def test_what_no_queue_takes_raises(scene: Scene, exchange: str, key: str) -> None:
    message = task()
    with pytest.raises(Unroutable):
        await scene.publisher.publish(exchange, key, message, subject=message.task_id, stable_id="x")


async def test_control_reaches_everybody_who_listens(scene: Scene) -> None:
    heard: list[tuple[str, Contract]] = []
    bell = CancelRequested(task_id=uuid4(), tenant_id=uuid4())

    async def both() -> bool:
        return len(heard) == 2

    async with (
        scene.hearing_control("a", lambda contract: heard.append(("a", contract))),
        scene.hearing_control("b", lambda contract: heard.append(("b", contract))),
    ):
        await scene.publisher.publish(CONTROL, "", bell, subject=bell.task_id, stable_id="c")
        await eventually(both)
    assert sorted(heard, key=lambda pair: pair[0]) == [("a", bell), ("b", bell)]


async def test_a_higher_priority_goes_first_and_the_same_in_order_of_age(scene: Scene) -> None:
    low = [await submit(scene, priority=0) for _ in range(3)]
    middle = [await submit(scene, priority=12), await submit(scene, priority=12)]
    high = [await submit(scene, priority=31)]
    late = await submit(scene, priority=30)
    async with Taker(scene, LANE) as taker:
        assert await taker.drained(7) == [*high, late, *middle, *low]


async def test_no_more_is_given_than_the_prefetch(scene: Scene) -> None:
    for _ in range(5):
        await submit(scene)
    async with Taker(scene, LANE, prefetch=2) as taker:
        await taker.has(2)
        await taker.settle(0, Disposition.DONE)
        await taker.has(2)
        assert len(taker.held) == 2
        await taker.drained(4)


async def test_what_is_returned_goes_to_the_head_before_every_priority(scene: Scene) -> None:
    first, second = await submit(scene, priority=3), await submit(scene, priority=3)
    async with Taker(scene, LANE, prefetch=2) as taker:
        assert await taker.has(2) == [first, second]
        await submit(scene, priority=2)
        urgent = await submit(scene, priority=31)
        async with Taker(scene, LANE, prefetch=1) as other:
            assert await other.has(1) == [urgent]
            more = await submit(scene, priority=31)
            await taker.settle(0, Disposition.RETURN)
            assert await taker.has(2) == [second, first]
            assert taker.held[1].redelivered
            await other.settle(0, Disposition.DONE)
            assert await other.has(1) == [more]
            await other.drained(2)
        await taker.drained(2)


async def test_what_is_returned_is_not_counted(scene: Scene) -> None:
    submitted = await submit(scene)
    async with Taker(scene, LANE) as taker:
        for _ in range(LIMIT + 3):
            assert await taker.has(1) == [submitted]
            await taker.settle(0, Disposition.RETURN)
        assert await taker.drained(1) == [submitted]


async def test_what_fails_again_and_again_is_buried_after_the_limit(scene: Scene) -> None:
    submitted = await submit(scene)
    async with Taker(scene, LANE) as taker, Taker(scene, DEAD_TASKS_QUEUE) as dead:
        for attempt in range(LIMIT + 1):
            assert await taker.has(1) == [submitted]
            assert taker.held[0].redelivered is (attempt > 0)
            assert dead.held == []
            await taker.settle(0, Disposition.RETRY)
        assert await dead.has(1) == [submitted]
        assert taker.held == []
        await dead.settle(0, Disposition.DONE)


async def test_what_can_never_succeed_is_buried_at_once(scene: Scene) -> None:
    submitted = await submit(scene)
    async with Taker(scene, LANE) as taker, Taker(scene, DEAD_TASKS_QUEUE) as dead:
        await taker.has(1)
        await taker.settle(0, Disposition.DEAD)
        assert await dead.has(1) == [submitted]
        await dead.settle(0, Disposition.DONE)


async def test_a_full_lane_refuses(scene: Scene) -> None:
    async def refused() -> bool:
        try:
            await submit(scene, "pro")
        except LaneFull:
            return True
        return False

    # RabbitMQ may take one or two more than the limit.
    for _ in range(3):
        assert not await refused()
    await eventually(refused)
    async with Taker(scene, lane("pro"), prefetch=10) as taker:
        await taker.drained(3)
        await eventually(partial(_accepted, scene))


async def _accepted(scene: Scene) -> bool:
    try:
        await submit(scene, "pro")
    except LaneFull:
        return False
    return True


async def test_what_a_consumer_holds_stays_held_when_it_closes(scene: Scene) -> None:
    submitted = await submit(scene)
    async with Taker(scene, LANE) as taker:
        await taker.has(1)
    async with Taker(scene, LANE) as other:
        assert other.held == []
        await taker.settle(0, Disposition.RETURN)
        assert await other.has(1) == [submitted]
        await other.settle(0, Disposition.DONE)
