"""What becomes of a delivery, decided by the caller and carried out here and nowhere else."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Protocol

import structlog
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelInvalidStateError

from common.contracts import Contract
from common.messaging.envelope import unseal

_log = structlog.get_logger(__name__)
_SETTLE_SECONDS = 5.0


class Disposition(Enum):
    """The four ways a delivery ends."""

    DONE = "ack"
    """Its effect is durable."""
    RETURN = "nack, requeue"
    """Given back untouched, e.g. at shutdown: to the head of its queue, not counted as a failure."""
    RETRY = "reject, requeue"
    """Failed: comes again later, counted towards the delivery limit."""
    DEAD = "reject"
    """Will never succeed: to the dead letters."""


class Delivery(Protocol):
    """One delivered message, to be settled exactly once."""

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before."""

    @property
    def headers(self) -> dict[str, object]:
        """The envelope's headers."""

    def decode(self) -> Contract:
        """The contract inside. Raises `DecodeError`."""

    async def settle(self, disposition: Disposition) -> bool:
        """Settle it; False where the broker will deliver it again in any case, because its channel is gone."""


class RabbitDelivery:
    """A delivery from RabbitMQ."""

    def __init__(self, message: AbstractIncomingMessage) -> None:
        self.message = message
        self.received_at = time.monotonic()

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before."""
        return bool(self.message.redelivered)

    @property
    def headers(self) -> dict[str, object]:
        """The envelope's headers."""
        return dict(self.message.headers)

    @property
    def lost(self) -> bool:
        """Whether its channel is gone: the broker took it back and delivers it again, on another channel."""
        try:
            return self.message.channel.is_closed
        except ChannelInvalidStateError:
            return True

    def decode(self) -> Contract:
        """The contract inside. Raises `DecodeError`."""
        return unseal(self.message)

    async def settle(self, disposition: Disposition, *, with_all_before: bool = False) -> bool:
        """See `Delivery.settle`. `with_all_before` acknowledges all earlier ones of the channel too."""
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._answer(disposition, with_all_before)
        except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, TimeoutError) as error:
            # The channel is gone, and the broker has taken the message back: it comes again, and finds its key taken.
            _log.info("delivery.lost", disposition=disposition.name, error=repr(error))
            return False
        return True

    async def _answer(self, disposition: Disposition, with_all_before: bool) -> None:
        """Not through the message, which waits until the socket has taken each answer: there is nothing to wait for."""
        channel, tag = self.message.channel, self.message.delivery_tag
        assert tag is not None  # noqa: S101 - what was delivered has one
        if disposition is Disposition.DONE:
            await channel.basic_ack(tag, multiple=with_all_before, wait=False)
        elif disposition is Disposition.RETURN:
            await channel.basic_nack(tag, requeue=True, wait=False)
        else:
            await channel.basic_reject(tag, requeue=disposition is Disposition.RETRY, wait=False)
