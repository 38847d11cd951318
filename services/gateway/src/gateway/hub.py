"""One connection to Redis that hears every run this process streams, however many clients read them.

The readers' queues are bounded: who falls behind loses the queue, not events, and reads the log instead. The same goes
for a connection that is lost: every reader is told to read the log once the next one hears its channel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from pydantic import ValidationError
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from common.contracts.events import StreamEvent
from common.redis import Client
from common.streams import decode_announced
from gateway.metrics import Metrics

_log = structlog.get_logger(__name__)
_QUEUE = 500
_SILENCE_SECONDS = 5.0
_BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_LISTEN = "laneway:gateway:listening"


class Subscription:
    """What one reader hears of one run."""

    def __init__(self) -> None:
        self._queue: deque[StreamEvent] = deque()
        self._wake = asyncio.Event()
        self.heard = False
        """Whether the channel is heard at this moment."""
        self.reread = False
        """Whether announcements may have been missed."""

    def push(self, events: list[StreamEvent]) -> None:
        """Called by the hub. Over the bound the queue is dropped, for the log to be read."""
        if len(self._queue) + len(events) > _QUEUE:
            self._queue.clear()
            self.reread = True
        else:
            self._queue.extend(events)
        self._wake.set()

    def set_heard(self, heard: bool) -> None:
        """Called by the hub: what was said before this is in the log, or nowhere."""
        self.heard = heard
        self.reread = self.reread or heard
        self._wake.set()

    def wake(self) -> None:
        """Let the reader look around."""
        self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Whether something happened within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        happened = self._wake.is_set()
        self._wake.clear()
        return happened

    def drain(self) -> list[StreamEvent]:
        """The events that arrived, in order of arrival."""
        events = list(self._queue)
        self._queue.clear()
        return events


class Hub:
    """Hears channels on behalf of readers. `run` is its one background task."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._readers: dict[str, set[Subscription]] = {}
        self._subscribed: set[str] = set()
        self._changed = asyncio.Event()
        self._well = False
        self.closing = False

    @contextmanager
    def subscribed(self, channel: str) -> Iterator[Subscription]:
        """Hear a channel while the context lasts."""
        subscription = Subscription()
        readers = self._readers.setdefault(channel, set())
        readers.add(subscription)
        if channel in self._subscribed:
            subscription.set_heard(True)
        self._changed.set()
        try:
            yield subscription
        finally:
            readers.discard(subscription)
            if not readers:
                self._readers.pop(channel, None)
                self._changed.set()

    def close(self) -> None:
        """End every stream: clients come back elsewhere, with the last id they saw."""
        self.closing = True
        for subscription in self._all():
            subscription.wake()

    async def run(self) -> None:
        """Keep one connection hearing what is asked for, until cancelled."""
        failures = 0
        while True:
            try:
                await self._connection()
            except* (RedisError, OSError, TimeoutError) as group:
                _log.warning("hub.lost", error=repr(group.exceptions[0]))
            finally:
                failures = 0 if self._well else failures + 1
                self._deafened()
            await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])

    async def _connection(self) -> None:
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(_LISTEN)
            self._metrics.reconnects.inc()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_subscribed(pubsub), name="hub.subscribe")
                group.create_task(self._hear(pubsub), name="hub.hear")

    async def _hear(self, pubsub: PubSub) -> None:
        while True:
            # Pings are answered well within this time: a longer silence is a dead connection.
            async with asyncio.timeout(3 * _SILENCE_SECONDS):
                message = await pubsub.get_message(timeout=None)
            self._well = True
            if message is not None:
                self._dispatch(message)

    async def _keep_subscribed(self, pubsub: PubSub) -> None:
        """The one writer on the connection: subscribes, unsubscribes, and pings when there is nothing to do."""
        asked: set[str] = set()
        self._changed.set()
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                await pubsub.ping()
                continue
            self._changed.clear()
            wanted = set(self._readers)
            if new := wanted - asked:
                await pubsub.subscribe(*new)
            if old := asked - wanted:
                self._subscribed -= old
                await pubsub.unsubscribe(*old)
            asked = wanted

    def _dispatch(self, message: dict[str, object]) -> None:
        channel = message["channel"]
        if not isinstance(channel, bytes):
            return
        name = channel.decode()
        readers = self._readers.get(name, ())
        if message["type"] == "subscribe" and readers:
            self._subscribed.add(name)
            for subscription in readers:
                subscription.set_heard(True)
        elif message["type"] == "message" and readers and isinstance(message["data"], bytes):
            events = _decoded(name, message["data"])
            for subscription in readers:
                subscription.push(events)

    def _deafened(self) -> None:
        self._well = False
        self._subscribed.clear()
        for subscription in self._all():
            subscription.set_heard(False)

    def _all(self) -> Iterator[Subscription]:
        for readers in list(self._readers.values()):
            yield from list(readers)


def _decoded(channel: str, data: bytes) -> list[StreamEvent]:
    try:
        return decode_announced(data)
    except (ValueError, ValidationError) as error:
        _log.warning("hub.undecodable", channel=channel, error=repr(error))
        return []
