"""A batch on its way to the lanes: many publishes at a time, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from common.contracts.runs import RunError
from common.errors import BrokerUnavailable, LaneFull
from common.messaging.publisher import Publisher
from common.messaging.topology import TASKS
from gateway.batch_tickets import BatchTicket
from gateway.tickets import LANE_FULL
from gateway.tracing import Tracing

_log = structlog.get_logger(__name__)
# For all publishes, however slow the broker is. One that does not answer is noticed once these attempts are used up.
_PUBLISH_SECONDS = 20.0
_ATTEMPTS = 3
_IN_FLIGHT = 64


class Fate(StrEnum):
    """What became of one task of a batch."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Its lane is full."""
    UNSENT = "unsent"
    """The broker was gone before it was its turn."""
    UNKNOWN = "unknown"
    """It was sent, and nobody said what became of it, though its lane may be full by now."""


REASONS = {
    Fate.REFUSED: "its lane takes no more tasks now",
    Fate.UNSENT: "the broker did not answer for a task before it: this one was not sent",
    Fate.UNKNOWN: "the broker did not answer: the task may have been accepted",
}

ENDS = {
    Fate.REFUSED: LANE_FULL,
    Fate.UNSENT: RunError(type="not_sent", message="the broker went away before this task was sent to its lane"),
}
"""How a task ends that was not taken, where nobody can ask for it again."""


@dataclass
class Sending:
    """A batch that is being published."""

    ticket: BatchTicket
    levels: Sequence[int]
    fates: dict[int, Fate]
    full: set[str] = field(default_factory=set)
    """Tiers whose lanes have refused a task: no other one is sent to them."""
    broken: bool = False


class BatchPublisher:
    """Publishes batches."""

    def __init__(self, publisher: Publisher, tracing: Tracing) -> None:
        self._publisher = publisher
        self._tracing = tracing

    @property
    def ready(self) -> bool:
        """Whether a publish has a chance now."""
        return self._publisher.ready

    async def publish(self, sending: Sending) -> None:
        """Publish what was not accepted before, many at a time, until all of it is confirmed or the broker is gone."""
        places = [place for place in range(len(sending.ticket.tasks)) if place not in sending.fates]
        sending.fates.update(dict.fromkeys(places, Fate.UNSENT))
        turns = iter(places)
        workers = [
            asyncio.create_task(self._each(sending, turns), name="batch.publish")
            for _ in range(min(_IN_FLIGHT, len(places)))
        ]
        if not workers:
            return
        try:
            _, late = await asyncio.wait(workers, timeout=_PUBLISH_SECONDS)
        finally:
            for worker in workers:
                worker.cancel()
        if late:
            await asyncio.wait(late)
        for worker in workers:
            if not worker.cancelled():
                worker.result()

    async def _each(self, sending: Sending, turns: Iterator[int]) -> None:
        for place in turns:
            task = sending.ticket.tasks[place]
            if sending.broken:
                return
            if task.tier in sending.full:
                sending.fates[place] = Fate.REFUSED
                continue
            sending.fates[place] = Fate.UNKNOWN
            try:
                sending.fates[place] = await self._until_known(sending, place)
            except BrokerUnavailable as error:
                if not sending.broken:
                    _log.warning("batch.broken", batch_id=str(sending.ticket.id), error=repr(error))
                sending.broken = True

    async def _until_known(self, sending: Sending, place: int) -> Fate:
        """Publish one task, again where nobody said what became of it: of two messages only one is ever run."""
        task, level = sending.ticket.tasks[place], sending.levels[place]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._tracing.publishing(task.task_id, task.tier):
                    await self._publisher.publish(
                        TASKS,
                        task.tier,
                        task.message(level),
                        subject=task.task_id,
                        stable_id=str(task.task_id),
                        priority=level,
                    )
            except LaneFull:
                sending.full.add(task.tier)
                # Of an earlier message that nobody confirmed, the lane may have taken that one.
                return Fate.REFUSED if attempt == 1 else Fate.UNKNOWN
            except BrokerUnavailable:
                # A broker that is slow with many confirms is asked again; one that is away is not waited for.
                if attempt == _ATTEMPTS or not self._publisher.ready:
                    raise
            else:
                break
        return Fate.ACCEPTED
