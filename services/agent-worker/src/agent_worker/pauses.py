"""What operators have paused, carried out by one worker: lanes are left alone, and what a kill names is stopped.

The rows in PostgreSQL decide. A bell on `control` says that they changed; without it a look each second finds out. What
slips through meanwhile is parked when it asks to begin (`runtime.acquire`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog

from agent_worker.repository import Obstacle, Pause
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


class PauseKeeper:
    """Keeps one worker to the pauses. `run` is its background task."""

    def __init__(
        self,
        source: Source,
        consumers: Mapping[str, Consumer],
        lend_nothing_to: Callable[[Collection[str]], None],
        park: Callable[[Callable[[TaskSubmitted], Obstacle | None]], None],
    ) -> None:
        """`consumers` by tier; `park` is given the question what stops a running task."""
        self._source = source
        self._consumers = consumers
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
                await self._carry_out(await self._source.pauses())
            except StoreUnavailable as error:
                _log.warning("pauses.not_carried_out", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._bell.wait()

    async def _carry_out(self, pauses: frozenset[Pause]) -> None:
        if pauses != self._pauses:
            _log.warning("pauses.changed", pauses=sorted(f"{p.scope} {p.name}".strip() for p in pauses))
            self._pauses = pauses
        paused = paused_tiers(pauses, self._consumers)
        self._lend_nothing_to(paused)
        # Each time, not only when it is new: a run may have begun in the moment before.
        self._park(lambda task: killer(pauses, task))
        await asyncio.gather(*(_set(consumer, halted=tier in paused) for tier, consumer in self._consumers.items()))


async def _set(consumer: Consumer, *, halted: bool) -> None:
    """One that does not answer is tried again with the next look, and keeps no other from it."""
    if consumer.halted == halted:
        return
    try:
        await (consumer.halt() if halted else consumer.go_on())
    except BrokerUnavailable as error:
        _log.warning("pauses.not_carried_out", error=str(error))
