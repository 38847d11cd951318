"""What operators have paused, carried out by one worker: lanes are left alone, and what a kill names is stopped.

The rows in PostgreSQL decide. A bell on `control` says that they changed; without it the next look finds out. What
slips through meanwhile is parked when it asks to begin (`runtime.acquire`). A look waits for PostgreSQL and for nothing
else: a kill is carried out though the broker says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog

from agent_worker.obstacles import Obstacle, Pause
from common.contracts import Contract, PausesChanged, TaskSubmitted
from common.errors import BrokerUnavailable, StoreUnavailable

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 0.75


def paused_tiers(pauses: Collection[Pause], tiers: Collection[str]) -> frozenset[str]:
    """The tiers of which nothing is to be begun, whosever task it is."""
    if any(pause.scope == "everything" for pause in pauses):
        return frozenset(tiers)
    return frozenset(pause.name for pause in pauses if pause.scope == "tier") & frozenset(tiers)


def killer(pauses: Collection[Pause], task: TaskSubmitted) -> Obstacle | None:
    """What stops the task though it runs, if anything does."""
    kills = (pause.obstacle for pause in pauses if pause.kill and pause.holds(task))
    return next(kills, None)


class Source(Protocol):
    """Where the pauses are kept."""

    async def pauses(self) -> frozenset[Pause]:
        """Those of now. Raises `StoreUnavailable`."""


class Consumer(Protocol):
    """The guarantee's consumer of one lane."""

    @property
    def halted(self) -> bool:
        """Whether it is sent nothing."""

    async def halt(self) -> None:
        """Be sent nothing more. Raises `BrokerUnavailable`."""

    async def go_on(self) -> None:
        """Be sent messages again. Raises `BrokerUnavailable`."""


class Gate:
    """Brings one lane's consumer to what is wanted, however long the broker takes. `run` is its background task."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._halted = consumer.halted
        self._asked = asyncio.Event()

    def want(self, *, halted: bool) -> None:
        """Have the lane left alone, or served. Said at each look, so that what the broker did not do is tried again."""
        self._halted = halted
        self._asked.set()

    async def run(self) -> None:
        """Do what was wanted last, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._consumer.halted == self._halted:
                continue
            try:
                await (self._consumer.halt() if self._halted else self._consumer.go_on())
            except BrokerUnavailable as error:
                _log.warning("pauses.not_carried_out", error=str(error))


class PauseKeeper:
    """Keeps one worker to the pauses. `run` is its background task."""

    def __init__(
        self,
        source: Source,
        gates: Mapping[str, Gate],
        lend_nothing_to: Callable[[Collection[str]], None],
        park: Callable[[Callable[[TaskSubmitted], Obstacle | None]], None],
    ) -> None:
        """`gates` by tier; `park` is given the question what stops a running task."""
        self._source = source
        self._gates = gates
        self._lend_nothing_to = lend_nothing_to
        self._park = park
        self._pauses: frozenset[Pause] = frozenset()
        self._bell = asyncio.Event()

    def hear(self, contract: Contract) -> None:
        """A message on `control`."""
        if isinstance(contract, PausesChanged):
            self._bell.set()

    async def run(self) -> None:
        """Look at the pauses and carry them out, until cancelled."""
        while True:
            self._bell.clear()
            try:
                self._carry_out(await self._source.pauses())
            except StoreUnavailable as error:
                _log.warning("pauses.not_carried_out", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._bell.wait()

    def _carry_out(self, pauses: frozenset[Pause]) -> None:
        if pauses != self._pauses:
            _log.warning("pauses.changed", pauses=sorted(f"{p.scope} {p.name}".strip() for p in pauses))
            self._pauses = pauses
        # Each time, not only when it is new: a run may have begun in the moment before.
        self._park(lambda task: killer(pauses, task))
        paused = paused_tiers(pauses, self._gates)
        self._lend_nothing_to(paused)
        for tier, gate in self._gates.items():
            gate.want(halted=tier in paused)
