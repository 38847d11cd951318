"""Following a batch: one stream that tells of each of its tasks when it begins and how it ends, each once.

An event's id says what its client has been told: two bits for each task and one for the end of the batch. So a client
is told what is true and it has not heard yet, by whichever gateway, from PostgreSQL alone, and no order of events needs
to be agreed on or kept. Redis is only the bell: those who do not hear it look now and then.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from common.batches import channel
from common.errors import StoreUnavailable
from gateway.batch_records import Batch, Batches, Moved
from gateway.batch_views import all_counts, result_line
from gateway.hub import Hub, Subscription
from gateway.metrics import Metrics
from gateway.sse import PING, PREAMBLE

_log = structlog.get_logger(__name__)
_READERS = 4
_RESULTS_AT_A_TIME = 50
_LONGEST_ID = 400


@dataclass(frozen=True)
class BatchPace:
    """How long a reader waits for what, in seconds."""

    subscribe: float = 1.0
    quiet: float = 15.0
    look: float = 3.0
    """Between looks at the record while nothing is heard."""
    deaf: float = 1.0
    """The same while Redis is away."""
    gather: float = 0.1
    """Between looks at the record while much is heard."""


class Told:
    """What a client has been told: of each task that it began, that it ended; and that the batch did."""

    def __init__(self, size: int, bits: int = 0) -> None:
        self._size = size
        self._bits = bits

    @classmethod
    def parse(cls, text: str, size: int) -> Told:
        """From the id of an event. Raises `ValueError` where it is none of a batch of that size."""
        if len(text) > _LONGEST_ID:
            raise ValueError("is not the id of an event of this batch")
        try:
            bits = int.from_bytes(
                base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), "little"
            )
        except (binascii.Error, ValueError) as error:
            raise ValueError("is not the id of an event of this batch") from error
        if bits >> (2 * size + 1):
            raise ValueError("is not the id of an event of this batch")
        return cls(size, bits)

    def __str__(self) -> str:
        raw = self._bits.to_bytes((self._bits.bit_length() + 7) // 8, "little")
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def begun(self, place: int) -> bool:
        """Whether it was told that the task began."""
        return bool(self._bits >> (2 * place) & 1)

    def ended(self, place: int) -> bool:
        """Whether it was told how the task ended."""
        return bool(self._bits >> (2 * place + 1) & 1)

    @property
    def over(self) -> bool:
        """Whether it was told that the batch is over."""
        return bool(self._bits >> (2 * self._size) & 1)

    @property
    def open(self) -> list[int]:
        """The tasks whose end was not told."""
        return [place for place in range(self._size) if not self.ended(place)]

    def note(self, place: int, *, ended: bool) -> None:
        """It is told now that the task began, or ended."""
        self._bits |= 1 << (2 * place + ended)

    def note_over(self) -> None:
        """It is told now that the batch is over."""
        self._bits |= 1 << (2 * self._size)


class BatchStreams:
    """Opens readers."""

    def __init__(self, hub: Hub, batches: Batches, metrics: Metrics, pace: BatchPace | None = None) -> None:
        self._hub = hub
        self._batches = batches
        self._metrics = metrics
        self._pace = pace or BatchPace()
        # As for single streams: many readers wait here, where no time-out of a single call runs.
        self._gate = asyncio.Semaphore(_READERS)

    async def frames(self, batch: Batch, told: Told) -> AsyncGenerator[bytes]:
        """The frames of a batch's stream after what was told, to its end."""
        self._metrics.streams.inc()
        try:
            yield PREAMBLE
            async with aclosing(self._read(batch, told)) as frames:
                async for frame in frames:
                    self._metrics.events.inc(frame is not PING)
                    yield frame
        finally:
            self._metrics.streams.dec()

    async def _read(self, batch: Batch, told: Told) -> AsyncGenerator[bytes]:
        clock = asyncio.get_running_loop().time
        spoke, first = clock(), True
        with self._hub.subscribed(channel(batch.tenant_id, batch.id)) as subscription:
            await self._until_heard(subscription)
            while not (self._hub.closing or told.over):
                said = False
                async with aclosing(self._news(batch, told, first=first)) as news:
                    async for frame in news:
                        said, first = True, False
                        yield frame
                if said:
                    spoke = clock()
                elif clock() - spoke >= self._pace.quiet - self._pace.look:  # the next look may be too late
                    spoke = clock()
                    yield PING
                if not told.over:
                    await self._wait(subscription)

    async def _news(self, batch: Batch, told: Told, *, first: bool) -> AsyncGenerator[bytes]:
        """What is true by now and was not told, then how far the batch is; nothing where the record cannot be read."""
        try:
            async with self._gate:
                moved = await self._batches.moved(batch, told.open)
        except StoreUnavailable as error:
            _log.debug("batch.unread", batch_id=str(batch.id), error=repr(error))
            return
        begun = [one for one in moved if one.started_at is not None and not told.begun(one.place)]
        ended = [one.place for one in moved if one.ended]
        for one in sorted(begun, key=_when_begun):
            told.note(one.place, ended=False)
            yield _frame("status", _begun(batch, one), told)
        for start in range(0, len(ended), _RESULTS_AT_A_TIME):
            for frame in await self._results(batch, told, ended[start : start + _RESULTS_AT_A_TIME]):
                yield frame
        if begun or ended or first:
            yield _frame("progress", _progress(batch, told))
        if not told.open:
            counts = await self._counts(batch)
            if counts is not None:
                told.note_over()
                yield _frame("done", {"size": batch.size, "counts": counts}, told)

    async def _results(self, batch: Batch, told: Told, places: Sequence[int]) -> list[bytes]:
        try:
            async with self._gate:
                rows = await self._batches.views(batch, places)
        except StoreUnavailable as error:
            _log.debug("batch.unread", batch_id=str(batch.id), error=repr(error))
            return []  # they are open still, and told with the next look
        frames = []
        for place in places:
            told.note(place, ended=True)
            line = result_line(batch, place, rows[place])
            frames.append(_frame("result", {"index": place, "task_id": line.pop("id"), **line}, told))
        return frames

    async def _counts(self, batch: Batch) -> dict[str, int] | None:
        try:
            return all_counts(await self._batches.counts(batch))
        except StoreUnavailable:
            return None

    async def _until_heard(self, subscription: Subscription) -> None:
        deadline = asyncio.get_running_loop().time() + self._pace.subscribe
        while not subscription.heard and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await subscription.wait(left)

    async def _wait(self, subscription: Subscription) -> None:
        """For the bell, or as long as nobody may rely on it; then for company, as a busy batch rings often."""
        if await subscription.wait(self._pace.look if subscription.heard else self._pace.deaf):
            await asyncio.sleep(self._pace.gather)


def _when_begun(one: Moved) -> tuple[datetime, int]:
    return one.started_at or datetime.max.replace(tzinfo=UTC), one.place


def _begun(batch: Batch, one: Moved) -> dict[str, Any]:
    return {"index": one.place, "task_id": batch.task_ids[one.place], "status": "running", "started_at": one.started_at}


def _progress(batch: Batch, told: Told) -> dict[str, Any]:
    ended = batch.size - len(told.open)
    return {"ended": ended, "total": batch.size, "fraction": round(ended / batch.size, 4)}


def _frame(kind: str, data: dict[str, Any], told: Told | None = None) -> bytes:
    """Without an id where it is no place to resume from: the client's last one stands."""
    document = orjson.dumps({"type": kind, **data}, default=str)
    named = b"" if told is None else b"id: %b\n" % str(told).encode()
    return b"%bevent: %b\ndata: %b\n\n" % (named, kind.encode(), document)
