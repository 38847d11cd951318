from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
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


class Opened:
    """A consumer of a lane, which is sent what waits there as far as its prefetch goes."""

    def __init__(self, lane: Lane, prefetch: int, on_delivery: Callable[[Delivery], object]) -> None:
        self.lane = lane
        self.room = prefetch
        self.on_delivery = on_delivery
        self.lost = False

    async def close(self) -> None:
        self.lost = True
        self.lane.opened.remove(self)


class Lane:
    """Holds so many messages; knows its consumers."""

    def __init__(self) -> None:
        self.waiting = 0
        self.opened: list[Opened] = []
        self.asked = 0
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def open(self, prefetch: int, on_delivery: Callable[[Delivery], object]) -> Opened:
        self.asked += 1
        await self.answers.wait()
        if self.away:
            raise BrokerUnavailable("away")
        self.opened.append(Opened(self, prefetch, on_delivery))
        self.deliver()
        return self.opened[-1]

    def deliver(self) -> None:
        for consumer in self.opened:
            while self.waiting and consumer.room and not consumer.lost:
                self.waiting -= 1
                consumer.room -= 1
                consumer.on_delivery(object())  # type: ignore[arg-type]


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


async def test_a_guarantee_is_not_waited_for_and_what_was_lent_is_taken_back(worker: Worker) -> None:
    worker.push("free", 20)
    await worker.holds(free=20)
    worker.push("enterprise", 50)
    await worker.holds(enterprise=7, free=20)
    for end in worker.ends[1:20]:  # all that were lent
        end.set()
    await worker.holds(enterprise=19, free=1)
    assert worker.slots.lent == {"enterprise": 13, "pro": 0, "free": 0}
    assert len(worker.lanes["free"].opened) <= 1, "which takes no slot: it is on credit"


async def test_a_lane_that_has_nothing_more_keeps_one_consumer_and_is_not_asked_again(worker: Worker) -> None:
    worker.push("pro", 3)
    lane = worker.lanes["pro"]

    async def lent() -> bool:
        return bool(lane.opened)

    await eventually(lent)
    assert lane.asked == 1
    assert worker.lanes["enterprise"].asked == worker.lanes["free"].asked == 0
    lane.waiting = 1
    lane.deliver()
    await worker.holds(pro=4)


async def test_a_broker_that_is_away_is_tried_again(worker: Worker) -> None:
    worker.lanes["free"].away = True
    worker.push("free", 5)

    async def tried() -> bool:
        return worker.lanes["free"].asked > 0

    await eventually(tried)
    worker.lanes["free"].away = False
    await worker.holds(free=5)


async def test_a_lane_that_cannot_be_consumed_keeps_no_other_from_its_credit(worker: Worker) -> None:
    worker.push("free", 20)
    await worker.holds(free=20)
    worker.lanes["enterprise"].away = True
    worker.push("enterprise", 50)
    worker.push("pro", 50)
    await worker.holds(enterprise=6, pro=4, free=20)
    assert worker.lanes["enterprise"].asked < 10, "and is not asked without a pause"


async def test_a_consumer_that_was_lost_is_opened_anew(worker: Worker) -> None:
    worker.push("free", 20)
    await worker.holds(free=20)
    lane = worker.lanes["free"]
    for consumer in lane.opened:
        consumer.lost = True
    lane.opened.clear()
    lane.waiting = 100
    for end in worker.ends[1:]:  # the guaranteed one still runs, so its tier may have more
        end.set()

    async def begun_anew() -> bool:
        return len(worker.ends) == 39

    await eventually(begun_anew)
    await worker.holds(free=20)
    assert lane.waiting == 81


async def test_what_is_lent_is_taken_back_when_it_stops_also_what_was_being_opened() -> None:
    worker = Worker(20)
    lane = worker.lanes["free"]
    lane.answers.clear()
    worker.push("free", 2)
    running = asyncio.create_task(worker.dispatcher.run())

    async def opening() -> bool:
        return lane.asked == 1

    await eventually(opening)
    running.cancel()
    await asyncio.wait({running}, timeout=0.05)
    lane.answers.set()
    await asyncio.wait({running}, timeout=15)
    assert running.cancelled()
    assert (worker.slots.held["free"], lane.waiting) == (2, 0)
    await worker.dispatcher.close()
    assert not lane.opened
    assert not worker.slots.loans
