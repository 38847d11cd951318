"""Following a run: what was, from the log or the record; what is, from the hub; each event once and in order.

A reader asks in this order: the announcements it hears, the log in Redis, the record in PostgreSQL. What the record has
not got yet arrives there at the run's next step boundary, so a reader that misses something waits a while before it
tells its client of a gap.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog

from common import streams as log
from common.contracts import RunFinished
from common.contracts.events import BEGINNING, EventId, StreamEvent
from common.contracts.runs import cancelled_before_it_began
from common.errors import CacheUnavailable, StoreUnavailable
from common.redis import Client
from gateway.hub import Hub, Subscription
from gateway.metrics import Metrics
from gateway.sequence import Gap, Sequence
from gateway.sse import PING, PREAMBLE, frame, frame_gap
from gateway.tasks import State, Tasks

_log = structlog.get_logger(__name__)
_CHUNK = 500
# A sign of life may come by so much before its time, so that many streams' do not come together.
_EARLY = 0.8
_LOG_READERS = 3
_RECORD_READERS = 4
_BACKOFF_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)


@dataclass(frozen=True)
class Pace:
    """How long a reader waits for what, in seconds."""

    subscribe: float = 1.0
    quiet: float = 15.0
    """Between signs of life, at most."""
    deaf: float = 3.0
    """Between looks at the record while Redis is away."""
    patience: float = 10.0
    """For what is missing, until it is called a gap."""


class Streams:
    """Opens readers."""

    def __init__(self, redis: Client, hub: Hub, tasks: Tasks, metrics: Metrics, pace: Pace | None = None) -> None:
        self._redis = redis
        self._hub = hub
        self._tasks = tasks
        self._metrics = metrics
        self._pace = pace or Pace()
        # Many readers begin at once: they wait here for their turn, where no time-out of a single call runs.
        self._log_gate = asyncio.Semaphore(_LOG_READERS)
        self._record_gate = asyncio.Semaphore(_RECORD_READERS)

    async def frames(
        self,
        tenant_id: UUID,
        task_id: UUID,
        after: EventId = BEGINNING,
        known: State | None = None,
        *,
        fresh: bool = False,
    ) -> AsyncGenerator[bytes]:
        """The frames of a run's stream after an event, to its end.

        `known` is what the record says at the moment; a task that is `fresh` was submitted by this very request.
        """
        reader = _Reader(self, tenant_id, task_id, after, known)
        reader.look = not fresh
        self._metrics.streams.inc()
        try:
            yield PREAMBLE
            async with aclosing(reader.read()) as items:
                async for item in items:
                    yield self._framed(item)
        finally:
            self._metrics.streams.dec()

    def _framed(self, item: StreamEvent | Gap | None) -> bytes:
        if item is None:
            return PING
        if isinstance(item, Gap):
            self._metrics.gaps.inc()
            return frame_gap(item)
        self._metrics.events.inc()
        return frame(item)


class _Reader:
    def __init__(self, parts: Streams, tenant_id: UUID, task_id: UUID, after: EventId, known: State | None) -> None:
        self._redis, self._hub, self._tasks = parts._redis, parts._hub, parts._tasks
        self._pace = parts._pace
        self._log_gate, self._record_gate = parts._log_gate, parts._record_gate
        self._tenant_id = tenant_id
        self._task_id = task_id
        self._sequence = Sequence(after)
        self._over = known is not None and known.ended
        self.look = True
        """Whether to ask the record where the log has nothing."""
        self._final = known.status if known is not None else "completed"
        self._more = True
        self._tries = 0
        self._missing_since = 0.0
        self._asked = False
        self._clock = asyncio.get_running_loop().time
        self._spoke = self._clock()

    async def read(self) -> AsyncGenerator[StreamEvent | Gap | None]:
        """Events in order; None where a sign of life is due."""
        with self._hub.subscribed(log.key(self._tenant_id, self._task_id)) as subscription:
            await self._until_heard(subscription)
            while not self._hub.closing:
                for event in self._sequence.take():
                    self._tries = 0
                    self._spoke = self._clock()
                    yield event
                    if event.type == "done":
                        return
                if (instead := self._give_up()) is not None:
                    yield instead
                    if isinstance(instead, StreamEvent):
                        return
                await self._progress(subscription)
                if self._clock() - self._spoke >= self._pace.quiet * _EARLY:
                    self._spoke = self._clock()
                    yield None

    async def _progress(self, subscription: Subscription) -> None:
        """Read on, or look for what is missing, or wait for news."""
        if self._more and not self._sequence.missing:
            await self._read_on()
        elif self._sequence.missing or self._over:
            await self._search(subscription)
        elif not await subscription.wait(self._quiet(subscription)):
            await self._read_log()
            await self._read_record()
        self._absorb(subscription)

    async def _read_on(self) -> None:
        """The next part of the log; where it has none, what the record has, once."""
        self._more = await self._read_log()
        if self.look and not (self._more or self._sequence.missing):
            self.look = False
            await self._read_record()

    async def _until_heard(self, subscription: Subscription) -> None:
        try:
            async with asyncio.timeout(self._pace.subscribe):
                while not subscription.heard:
                    await subscription.wait(self._pace.subscribe)
        except TimeoutError:
            _log.info("stream.unheard", task_id=str(self._task_id))
        subscription.reread = False  # the log is read now in any case

    def _absorb(self, subscription: Subscription) -> None:
        if subscription.reread:
            # Something was missed, and the log may be gone with it.
            self._more = self.look = True
            subscription.reread = False
        self._sequence.add(subscription.drain())

    def _quiet(self, subscription: Subscription) -> float:
        seconds = self._pace.quiet if subscription.heard else self._pace.deaf
        due = max(0.0, self._spoke + self._pace.quiet - self._clock())
        return min(due, seconds * random.uniform(_EARLY, 1.0))  # noqa: S311 - spreads the load, keeps no secret

    async def _search(self, subscription: Subscription) -> None:
        """Look for what is missing everywhere, ever less often."""
        if self._tries == 0:
            self._missing_since = self._clock()
        await asyncio.sleep(_BACKOFF_SECONDS[min(self._tries, len(_BACKOFF_SECONDS) - 1)])
        self._absorb(subscription)
        await self._read_log()
        if self._tries or self._over:
            await self._read_record()
        self._tries += 1

    def _give_up(self) -> StreamEvent | Gap | None:
        """A gap, or an end of our own making, once the record was asked and had nothing for long enough."""
        waited = self._clock() - self._missing_since
        if not self._tries or waited < self._pace.patience or not self._asked:
            return None
        self._tries = 0
        if (gap := self._sequence.skip()) is not None:
            return gap
        _log.error("stream.no_end", task_id=str(self._task_id), after=str(self._sequence.last))
        last = self._sequence.last
        return StreamEvent(
            fence=last.fence, seq=last.seq + 1, type="done", at=datetime.now(UTC), data={"status": self._final}
        )

    async def _read_log(self) -> bool:
        """Whether there is more of it."""
        key = log.key(self._tenant_id, self._task_id)
        try:
            async with self._log_gate:
                events = await log.read(self._redis, key, self._sequence.last, _CHUNK)
        except CacheUnavailable as error:
            _log.debug("stream.log_unread", error=repr(error))
            return False
        self._sequence.add(events)
        return len(events) == _CHUNK

    async def _read_record(self) -> None:
        """What PostgreSQL has: the events of finished steps, and the run's end."""
        self._asked = False
        try:
            async with self._record_gate:
                state = await self._tasks.state(self._tenant_id, self._task_id)
                rows = await self._tasks.events(self._tenant_id, self._task_id, self._sequence.last, _CHUNK, state)
        except StoreUnavailable as error:
            _log.debug("stream.record_unread", error=repr(error))
            return
        self._asked = True
        self._sequence.add(StreamEvent.model_construct(**dict(row)) for row in rows)
        if state is not None and state.ended:
            self._over, self._final = True, state.status
            self._sequence.add(_last_events(self._tenant_id, self._task_id, state))


def _last_events(tenant_id: UUID, task_id: UUID, state: State) -> tuple[StreamEvent, ...]:
    """The end of a run as the run itself keeps it, which is before anybody has recorded it."""
    if state.outcome is not None:
        return RunFinished.decode(state.outcome).events
    if state.run_status == "cancelled":
        at = state.finished_at or datetime.now(UTC)
        return cancelled_before_it_began(task_id, tenant_id, state.tier, state.fence, at).events
    return ()
