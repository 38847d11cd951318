from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent_worker.dispatcher import Dispatcher
from agent_worker.lanes import Slots
from common.catalogue import Tier
from common.errors import BrokerUnavailable
from common.lifecycle import stop
from common.messaging.settlement import Delivery
from tests.stage import eventually

TIERS = [Tier(name="enterprise", weight=6), Tier(name="pro", weight=3), Tier(name="free", weight=1)]


class Lane:
    """Holds so many messages; counts how often it was asked."""

    def __init__(self) -> None:
        self.waiting = 0
        self.fetches = 0
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def fetch(self) -> Delivery | None:
        self.fetches += 1
        await self.answers.wait()
        if self.away:
            raise BrokerUnavailable("away")
        if not self.waiting:
            return None
        self.waiting -= 1
        return object()  # type: ignore[return-value]


class Worker:
    """A dispatcher on lanes, and runs that end when they are told to."""

    def __init__(self, total: int) -> None:
        self.slots = Slots(total, TIERS)
        self.lanes = {tier.name: Lane() for tier in TIERS}
        self.ends: list[asyncio.Event] = []
        self.dispatcher = Dispatcher(self.slots, self.lanes, self._start)

    def _start(self, _: Delivery) -> asyncio.Task[Any]:
        self.ends.append(asyncio.Event())
        return asyncio.create_task(self.ends[-1].wait())

    def push(self, tier: str, count: int) -> None:
        """What the lane's own consumer is sent, as far as its guarantee goes; the rest waits in the lane."""
        pushed = min(count, self.slots.guaranteed[tier])
        for _ in range(pushed):
            self.dispatcher.take(tier, object())  # type: ignore[arg-type]
        self.lanes[tier].waiting += count - pushed

    async def holds(self, **held: int) -> None:
        wanted = {tier.name: held.get(tier.name, 0) for tier in TIERS}

        async def as_wanted() -> bool:
            return self.slots.held == wanted

        await eventually(as_wanted)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker(20)
    running = asyncio.create_task(made.dispatcher.run())
    yield made
    await stop(running)


async def test_free_slots_are_lent_to_whoever_has_work(worker: Worker) -> None:
    worker.push("free", 50)
    await worker.holds(free=20)
    assert worker.lanes["free"].waiting == 30


async def test_a_guarantee_is_not_waited_for(worker: Worker) -> None:
    worker.push("free", 50)
    await worker.holds(free=20)
    worker.push("enterprise", 50)
    await worker.holds(enterprise=6, free=20)
    for end in worker.ends[:10]:
        end.set()
    await worker.holds(enterprise=10, free=10)


async def test_an_empty_lane_is_asked_again_only_after_a_while_and_an_idle_worker_asks_nobody(worker: Worker) -> None:
    worker.push("pro", 3)
    await worker.holds(pro=3)

    async def asked_twice() -> bool:
        return worker.lanes["pro"].fetches >= 2

    await eventually(asked_twice)
    assert worker.lanes["pro"].fetches < 50
    assert worker.lanes["enterprise"].fetches == worker.lanes["free"].fetches == 0
    worker.lanes["pro"].waiting = 1
    await worker.holds(pro=4)


async def test_a_broker_that_is_away_is_tried_again(worker: Worker) -> None:
    worker.lanes["free"].away = True
    worker.push("free", 5)

    async def tried() -> bool:
        return worker.lanes["free"].fetches > 0

    await eventually(tried)
    worker.lanes["free"].away = False
    await worker.holds(free=5)


async def test_what_is_being_fetched_when_it_stops_is_run_all_the_same() -> None:
    worker = Worker(20)
    lane = worker.lanes["free"]
    lane.answers.clear()
    worker.push("free", 2)
    running = asyncio.create_task(worker.dispatcher.run())

    async def fetching() -> bool:
        return lane.fetches == 1

    await eventually(fetching)
    running.cancel()
    await asyncio.wait({running}, timeout=0.05)
    lane.answers.set()
    await asyncio.wait({running}, timeout=15)
    assert running.cancelled()
    assert (worker.slots.held["free"], lane.waiting) == (2, 0)
