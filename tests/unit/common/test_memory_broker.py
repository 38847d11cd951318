"""What only the broker in memory has to prove; what it shares with RabbitMQ is in the behavioural suite."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import CancelRequested
from common.messaging.memory import MemoryBroker, MemoryDelivery, _matches
from common.messaging.publisher import Publisher
from common.messaging.settlement import Delivery, Disposition
from common.messaging.topology import TASKS, lane, topology


@pytest.mark.parametrize(
    ("pattern", "key", "takes"),
    [
        ("free", "free", True),
        ("free", "freer", False),
        ("free", "free.x", False),
        ("#", "", True),
        ("#", "a", True),
        ("#", "a.b.c", True),
        ("usage.#", "usage", True),
        ("usage.#", "usage.recorded", True),
        ("usage.#", "usages.recorded", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*.c", "a.b.c", True),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("a.#.c", "a.b", False),
        ("a+b", "aab", False),
    ],
)
def test_topic_patterns(pattern: str, key: str, takes: bool) -> None:
    assert _matches(pattern, key) is takes


@given(st.lists(st.integers(0, 31), max_size=40))
async def test_strict_priorities_and_age_within_them(priorities: list[int]) -> None:
    broker: MemoryBroker = MemoryBroker(topology(("free",)))
    sent = [(priority, CancelRequested(task_id=uuid4(), tenant_id=uuid4())) for priority in priorities]
    publisher: Publisher = broker
    for priority, message in sent:
        await publisher.publish(TASKS, "free", message, subject=uuid4(), stable_id="", priority=priority)
    held: list[MemoryDelivery] = []
    async with broker.consuming(lane("free"), prefetch=1000, on_delivery=held.append):
        pass
    for _ in range(2):
        await _turn()
    order = [delivery.decode() for delivery in held]
    assert order == [message for _, message in sorted(sent, key=lambda pair: -pair[0])]


async def _turn() -> None:
    """Let the event loop hand out what is due."""
    await asyncio.sleep(0)


async def test_a_delivery_is_settled_once() -> None:
    broker = MemoryBroker(topology(("free",)))
    message = CancelRequested(task_id=uuid4(), tenant_id=uuid4())
    await broker.publish(TASKS, "free", message, subject=message.task_id, stable_id="")
    held: list[Delivery] = []
    async with broker.consuming(lane("free"), prefetch=1, on_delivery=held.append):
        await _turn()
        assert await held[0].settle(Disposition.DONE)
        assert not await held[0].settle(Disposition.RETURN)
        await _turn()
        assert len(held) == 1
