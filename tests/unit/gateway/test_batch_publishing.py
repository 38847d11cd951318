"""A batch's publishes: what nobody confirms is made again, and what is told of each task is what is known."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest

from common.contracts.base import Contract
from common.errors import BrokerUnavailable, LaneFull
from gateway.batch_publishing import ENDS, REASONS, BatchPublisher, Fate, Sending
from gateway.batch_tickets import batch_ticket
from gateway.schemas import TaskRequest
from gateway.tracing import Tracing


class _Broker:
    """Fails as often as it is told to for each task, in the way that it is told to."""

    def __init__(self, failures: dict[int, list[Exception]] | None = None, *, ready: bool = True) -> None:
        self.ready = ready
        self.published: list[tuple[int, str]] = []
        self._failures = failures or {}

    async def publish(
        self, exchange: str, routing_key: str, contract: Contract, *, subject: UUID, stable_id: str, priority: int = 0
    ) -> None:
        """See `Publisher.publish`."""
        place = contract.batch.index  # type: ignore[attr-defined]
        self.published.append((place, stable_id))
        await asyncio.sleep(0)  # a round trip: others are sent meanwhile
        if self._failures.get(place):
            raise self._failures[place].pop(0)


async def _fates(broker: _Broker, size: int) -> list[Fate]:
    ticket = batch_ticket(uuid4(), [(TaskRequest(input="x"), "pro")] * size, None)
    sending = Sending(ticket, (30,) * size, {})
    await BatchPublisher(broker, Tracing(enabled=False)).publish(sending)
    return [sending.fates[place] for place in range(size)]


@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_an_unconfirmed_publish_is_made_again_as_the_same_message(failures: int) -> None:
    broker = _Broker({1: [BrokerUnavailable("no confirm")] * failures})
    assert await _fates(broker, 3) == [Fate.ACCEPTED] * 3
    assert Counter(place for place, _ in broker.published) == {0: 1, 1: 1 + failures, 2: 1}
    assert len({stable_id for place, stable_id in broker.published if place == 1}) == 1


async def test_a_task_that_nobody_confirms_three_times_is_unknown_and_nothing_more_is_sent() -> None:
    broker = _Broker({place: [BrokerUnavailable("no confirm")] * 3 for place in range(64)})
    fates = await _fates(broker, 100)
    assert fates == [Fate.UNKNOWN] * 64 + [Fate.UNSENT] * 36
    assert len(broker.published) == 64 * 3


async def test_a_broker_that_is_away_is_not_waited_for() -> None:
    broker = _Broker({0: [BrokerUnavailable("gone")]}, ready=False)
    assert await _fates(broker, 1) == [Fate.UNKNOWN]
    assert len(broker.published) == 1


async def test_a_full_lane_is_sent_nothing_more() -> None:
    broker = _Broker({place: [LaneFull("full")] for place in range(64)})
    assert await _fates(broker, 100) == [Fate.REFUSED] * 100
    assert len(broker.published) == 64


async def test_a_task_that_was_sent_before_its_lane_was_full_is_unknown() -> None:
    broker = _Broker({place: [BrokerUnavailable("no confirm"), LaneFull("full")] for place in range(64)})
    fates = await _fates(broker, 100)
    assert fates == [Fate.UNKNOWN] * 64 + [Fate.REFUSED] * 36, "the lane may have taken the first messages"
    assert len(broker.published) == 64 * 2


def test_each_fate_has_its_own_reason_and_end() -> None:
    assert set(REASONS) == set(Fate) - {Fate.ACCEPTED}
    assert {fate: error.type for fate, error in ENDS.items()} == {Fate.REFUSED: "lane_full", Fate.UNSENT: "not_sent"}
