"""Brings work to the slots: guaranteed ones are filled by their lane's consumer, the others are lent.

A loan is a consumer too, that may hold as many messages as it has slots. So nothing is ever held that does not run, a
slot that stays with its tier costs nothing, and one that is wanted elsewhere is given up when its run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

import structlog

from agent_worker.cutting import undisturbed
from agent_worker.lanes import Lend, Loan, Slots, TakeBack
from agent_worker.metrics import RUNS_HELD, SLOTS_LENT
from common.errors import BrokerUnavailable
from common.messaging.settlement import Delivery

_log = structlog.get_logger(__name__)


class Consumer(Protocol):
    """What a loan is filled by."""

    @property
    def lost(self) -> bool:
        """Whether it ended by itself."""

    async def close(self) -> None:
        """Be sent nothing more."""


class Lane(Protocol):
    """Where consumers are opened."""

    async def open(self, prefetch: int, on_delivery: Callable[[Delivery], object]) -> Consumer:
        """A consumer that is sent so many messages at a time. Raises `BrokerUnavailable`."""


class Dispatcher:
    """Counts the runs in the slots, and lends the free ones. `run` is its background task."""

    def __init__(self, slots: Slots, lanes: Mapping[str, Lane], start: Callable[[Delivery], asyncio.Task[Any]]) -> None:
        """`lanes` by tier; `start` begins the run of a delivery."""
        self._slots = slots
        self._lanes = lanes
        self._start = start
        self._consumers: dict[Loan, Consumer] = {}
        self._changed = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    def take(self, tier: str, delivery: Delivery, *, loan: Loan | None = None) -> None:
        """Run a delivery of this tier's lane, in a slot of its guarantee or of a loan."""
        self._slots.begin(tier, loan, self._clock())
        self._note(tier)
        self._start(delivery).add_done_callback(lambda _: self._end(tier, loan))

    def _end(self, tier: str, loan: Loan | None) -> None:
        self._slots.end(tier, loan, self._clock())
        self._note(tier)

    def _note(self, tier: str) -> None:
        RUNS_HELD.labels(tier=tier).set(self._slots.held[tier])
        self._changed.set()

    def pause(self, tiers: Collection[str]) -> None:
        """Lend to these tiers no more, and to all others again. What runs goes on."""
        self._slots.paused = frozenset(tiers)
        self._changed.set()

    async def run(self) -> None:
        """Lend slots and take them back until cancelled."""
        while True:
            self._changed.clear()
            self._forget_lost()
            decision = self._slots.decide(self._clock())
            if decision is None:
                await self._wait()
            else:
                # A consumer whose opening was begun must be known, or it would take work until the connection ends.
                await undisturbed(self._carry_out(decision))

    async def close(self) -> None:
        """Take back all that is lent. Runs go on, and nothing more is begun in a lent slot."""
        await asyncio.gather(*(self._take_back(loan) for loan in self._slots.loans))

    async def _carry_out(self, decision: Lend | TakeBack) -> None:
        if isinstance(decision, Lend):
            await self._lend(decision)
            return
        if decision.found_empty:
            self._slots.found_empty(decision.loan.tier, self._clock())
        await self._take_back(decision.loan)

    async def _lend(self, lend: Lend) -> None:
        tier, loan = lend.tier, self._slots.lend(lend, self._clock())
        try:
            self._consumers[loan] = await self._lanes[tier].open(lend.size, partial(self.take, tier, loan=loan))
        except BrokerUnavailable as error:
            _log.info("lane.not_lent", tier=tier, error=str(error))
            self._slots.take_back(loan)
            self._slots.found_away(tier, self._clock())
        self._note_loans(tier)

    async def _take_back(self, loan: Loan) -> None:
        self._slots.take_back(loan)
        self._note_loans(loan.tier)
        consumer = self._consumers.pop(loan, None)
        if consumer is not None:
            await consumer.close()

    def _forget_lost(self) -> None:
        """What a lost connection ended is taken back: its runs go on, in slots that nobody fills."""
        for loan in [loan for loan, consumer in self._consumers.items() if consumer.lost]:
            del self._consumers[loan]
            self._slots.take_back(loan)
            self._note_loans(loan.tier)

    def _note_loans(self, tier: str) -> None:
        SLOTS_LENT.labels(tier=tier).set(self._slots.lent[tier])

    async def _wait(self) -> None:
        """Until a run begins or ends, or time alone may have changed something."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._slots.next_look(self._clock())):
                await self._changed.wait()
