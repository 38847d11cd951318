"""Brings work to the slots: guaranteed ones are filled by their lane's consumer, free ones are lent.

A slot is lent by fetching one message for it, so nothing is ever held that does not run, and nothing need be given back
when another tier wants its share. That a lane is empty is learned from the fetch itself: no other count of a quorum
queue is as fresh.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

from agent_worker.cutting import undisturbed
from agent_worker.lanes import Slots
from agent_worker.metrics import RUNS_HELD
from common.errors import BrokerUnavailable
from common.messaging.settlement import Delivery

_log = structlog.get_logger(__name__)
# How long a lane that was found empty is left alone. New work of a tier with guaranteed slots left does not wait for
# it, and other work may find a worker whose guarantee is not used up.
_EMPTY_SECONDS = 0.05
_AWAY_SECONDS = 0.5


class Lane(Protocol):
    """Where single messages are fetched."""

    async def fetch(self) -> Delivery | None:
        """The next message; None where there is none. Raises `BrokerUnavailable`."""


class Dispatcher:
    """Counts the runs in the slots, and fills the free ones. `run` is its background task."""

    def __init__(self, slots: Slots, lanes: Mapping[str, Lane], start: Callable[[Delivery], asyncio.Task[Any]]) -> None:
        """`lanes` by tier; `start` begins the run of a delivery."""
        self._slots = slots
        self._lanes = lanes
        self._start = start
        self._empty_until = dict.fromkeys(lanes, 0.0)
        self._changed = asyncio.Event()

    def take(self, tier: str, delivery: Delivery) -> None:
        """Run a delivery of this tier's lane, in a slot of its own."""
        self._count(tier, 1)
        self._start(delivery).add_done_callback(lambda _: self._count(tier, -1))

    def _count(self, tier: str, change: int) -> None:
        self._slots.held[tier] += change
        RUNS_HELD.labels(tier=tier).set(self._slots.held[tier])
        self._changed.set()

    async def run(self) -> None:
        """Lend free slots until cancelled."""
        while True:
            tier = self._slots.borrower(self._hungry())
            if tier is None:
                await self._wait()
                continue
            # A fetch that was begun is finished: its message would be held by nobody until the connection ends.
            await undisturbed(self._fetch(tier))

    async def _fetch(self, tier: str) -> None:
        try:
            delivery = await self._lanes[tier].fetch()
        except BrokerUnavailable as error:
            _log.info("lane.not_fetched", tier=tier, error=str(error))
            self._leave_alone(tier, _AWAY_SECONDS)
            return
        if delivery is None:
            self._leave_alone(tier, _EMPTY_SECONDS)
        else:
            self.take(tier, delivery)

    def _hungry(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [tier for tier, until in self._empty_until.items() if until <= now]

    def _leave_alone(self, tier: str, seconds: float) -> None:
        self._empty_until[tier] = asyncio.get_running_loop().time() + seconds

    async def _wait(self) -> None:
        """Until a run begins or ends, or a lane that could borrow may have work again."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._next_look()):
                await self._changed.wait()

    def _next_look(self) -> float | None:
        if self._slots.taken >= self._slots.total:
            return None
        return min((until for tier, until in self._empty_until.items() if self._slots.is_full(tier)), default=None)
