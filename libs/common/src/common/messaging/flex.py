"""Consumers that come and go as load moves, of which many share a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import cast

import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue, AbstractRobustChannel, AbstractRobustQueue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelInvalidStateError
from aiormq import Channel

from common.errors import BrokerUnavailable
from common.messaging.connection import Broker
from common.messaging.settlement import RabbitDelivery

_log = structlog.get_logger(__name__)
_CHANGE_SECONDS = 5.0


class FlexConsumer:
    """One consumer of a lane, opened for a while. It ends with its connection, whatever it holds then comes again."""

    def __init__(self, queue: AbstractQueue, channel: Channel, tag: str) -> None:
        self._queue = queue
        self._channel = channel
        self._tag = tag

    @property
    def lost(self) -> bool:
        """Whether the broker, or the connection, has ended it."""
        return self._channel.is_closed or self._tag not in self._channel.consumers

    async def close(self) -> None:
        """Be sent nothing more; what it holds stays to be settled."""
        if self.lost:
            return
        try:
            async with asyncio.timeout(_CHANGE_SECONDS):
                await self._queue.cancel(self._tag)
        except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, TimeoutError) as error:
            _log.info("consumer.cancel_failed", queue=self._queue.name, error=repr(error))


class FlexLane:
    """Opens consumers of one queue as they are needed, all on one channel. One change at a time."""

    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker = broker
        self._name = queue
        self._queue: AbstractRobustQueue | None = None
        self._channel: AbstractRobustChannel | None = None
        self._opened = count(1)

    async def open(self, prefetch: int, on_delivery: Callable[[RabbitDelivery], object]) -> FlexConsumer:
        """A consumer that is sent so many messages at a time. Raises `BrokerUnavailable`."""

        async def receive(message: AbstractIncomingMessage) -> None:
            on_delivery(RabbitDelivery(message))

        try:
            async with asyncio.timeout(_CHANGE_SECONDS):
                if self._channel is None or self._queue is None:
                    self._channel = await self._broker.channel()
                    self._queue = await self._channel.declare_queue(self._name, passive=True)
                await self._channel.set_qos(prefetch)
                tag = f"{self._broker.name}/{self._name}/flex-{next(self._opened)}"
                # Not brought back after a reconnect: all would come with the prefetch of the last.
                await self._queue.consume(receive, consumer_tag=tag, robust=False)
                channel = cast(Channel, await self._channel.get_underlay_channel())
        except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, TimeoutError) as error:
            await self.close()  # a consumer that is opened late would be nobody's
            raise BrokerUnavailable(f"RabbitMQ opened no consumer of {self._name}: {error!r}") from error
        return FlexConsumer(self._queue, channel, tag)

    async def close(self) -> None:
        """Close the channel and every consumer on it. What they hold goes back to the queue."""
        channel, self._channel, self._queue = self._channel, None, None
        if channel is not None:
            await self._broker.close_channel(channel)
