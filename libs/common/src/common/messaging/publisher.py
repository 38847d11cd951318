"""Publishing: confirmed or an error, within one deadline, with a bound on what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, cast
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractRobustChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelInvalidStateError, DeliveryError, PublishError
from aiormq import Channel
from pamqp.commands import Basic

from common.contracts import Contract
from common.errors import BrokerUnavailable, LaneFull, PoisonError, Unroutable
from common.messaging.connection import Broker
from common.messaging.envelope import Sender, seal
from common.settings import Rabbit

_IN_FLIGHT = 1024
# The confirm is what counts. Waiting until the socket has taken each message too, as the library's exchange does, costs
# a system call for each and lets one publish begin at a time: only large ones wait, so that the buffer stays small.
_WAITED_FOR_BYTES = 16 * 1024
LARGEST_BYTES = 1024 * 1024
"""The broker's `max_message_size`. It answers a larger body by closing the channel, for everybody who uses it."""


class Publisher(Protocol):
    """What a service needs to publish; `messaging.memory` has one without a broker."""

    @property
    def ready(self) -> bool:
        """Whether a publish has a chance now."""

    async def publish(
        self, exchange: str, routing_key: str, contract: Contract, *, subject: UUID, stable_id: str, priority: int = 0
    ) -> None:
        """Publish and await the confirm.

        Raises `LaneFull` (refused), `Unroutable` (no queue bound) or `BrokerUnavailable` (outcome unknown: publish
        again with the same `stable_id`); `PoisonError` where the message is too large ever to be taken.
        """


class RabbitPublisher:
    """Publishes over one channel, many at a time: pipelining is the throughput."""

    def __init__(self, broker: Broker, channel: AbstractRobustChannel, sender: Sender, timeout: float) -> None:
        self._broker = broker
        self._channel = channel
        self._sender = sender
        self._timeout = timeout
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)

    @property
    def ready(self) -> bool:
        """Whether a publish has a chance now."""
        return self._broker.ready and not self._broker.blocked

    async def publish(
        self, exchange: str, routing_key: str, contract: Contract, *, subject: UUID, stable_id: str, priority: int = 0
    ) -> None:
        """See `Publisher.publish`."""
        message = seal(contract, subject=subject, stable_id=stable_id, priority=priority, sender=self._sender)
        if len(message.body) > LARGEST_BYTES:
            raise PoisonError(f"{contract.kind} has {len(message.body)} bytes: the broker takes {LARGEST_BYTES}")
        try:
            # One deadline around all of it: the library's own does not cover waiting for the connection.
            async with asyncio.timeout(self._timeout), self._in_flight:
                channel = cast(Channel, await self._channel.get_underlay_channel())
                confirm = await channel.basic_publish(
                    message.body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=message.properties,
                    mandatory=True,
                    wait=len(message.body) > _WAITED_FOR_BYTES,
                )
        except PublishError as error:
            raise Unroutable(f"no queue takes {exchange}/{routing_key}: run `make topology`") from error
        except DeliveryError as error:
            raise LaneFull(f"{exchange}/{routing_key} is full") from error
        except TimeoutError as error:
            raise BrokerUnavailable(f"RabbitMQ did not confirm within {self._timeout} s") from error
        except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError) as error:
            raise BrokerUnavailable(f"RabbitMQ is not reachable: {error!r}") from error
        if not isinstance(confirm, Basic.Ack):
            raise Unroutable(f"{exchange}/{routing_key} was answered with {type(confirm).__name__}, not a confirm")


@asynccontextmanager
async def publisher(rabbit: Rabbit, service: str) -> AsyncIterator[RabbitPublisher]:
    """A publisher with a connection of its own. Raises `BrokerUnavailable` where none can be opened."""
    user = aio_pika.connection.make_url(rabbit.url.get_secret_value()).user or service
    async with Broker(rabbit, f"{service}/publish") as broker:
        channel = await broker.channel()
        yield RabbitPublisher(broker, channel, Sender(service, user), rabbit.publish_timeout)
