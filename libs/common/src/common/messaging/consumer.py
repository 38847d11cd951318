"""Consuming: single deliveries for the lanes, batches for the services that write them to PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustQueue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelInvalidStateError
from aiormq.exceptions import ChannelAccessRefused

from common.contracts import Contract
from common.errors import BrokerUnavailable, ConfigurationError, DecodeError, PoisonError, Unavailable
from common.messaging.connection import Broker
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import CONTROL, control_queue

_log = structlog.get_logger(__name__)
_OPEN_SECONDS = 10.0
_RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)


class Consumption:
    """A consumer that can be halted for a while. It is brought back after a reconnect, unless it is halted.

    Changes are made one after the other, in the order in which they were asked for; after `close` nothing opens it.
    """

    def __init__(
        self, queue: AbstractRobustQueue, tag: str, receive: Callable[[AbstractIncomingMessage], Awaitable[None]]
    ) -> None:
        self._queue = queue
        self._tag = tag
        self._receive = receive
        self._changing = asyncio.Lock()
        self._closed = asyncio.Event()
        self.halted = True

    async def open(self) -> None:
        """Be sent messages. Raises what the library raises."""
        async with self._changing:
            if self._closed.is_set() or not self.halted:
                return
            await self._queue.consume(self._receive, consumer_tag=self._tag)
            self.halted = False
            if self._closed.is_set():  # meanwhile: `close` may have given up waiting for its turn
                await self._cancel()

    async def halt(self) -> None:
        """Be sent nothing more; what is held stays to be settled. Raises `BrokerUnavailable`."""
        await self._change(self._halt())

    async def go_on(self) -> None:
        """Be sent messages again, unless it was closed. Raises `BrokerUnavailable`."""
        await self._change(self.open())

    async def close(self) -> None:
        """Be sent nothing more, whatever becomes of the connection, and whatever change is under way."""
        self._closed.set()
        try:
            await self.halt()
        except BrokerUnavailable as error:
            _log.info("consumer.cancel_failed", queue=self._queue.name, error=str(error))

    async def _halt(self) -> None:
        async with self._changing:
            if not self.halted:
                await self._cancel()

    async def _cancel(self) -> None:
        self.halted = True  # at once: the library forgets it at once, too, even if the broker does not answer
        await self._queue.cancel(self._tag)

    async def _change(self, change: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await change
        except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, TimeoutError) as error:
            raise BrokerUnavailable(f"RabbitMQ did not change the consumer of {self._queue.name}: {error!r}") from error


@asynccontextmanager
async def consuming(
    broker: Broker, queue: str, *, prefetch: int, on_delivery: Callable[[RabbitDelivery], object]
) -> AsyncIterator[Consumption]:
    """Consume a queue on a channel of its own while the context lasts; what is held then stays to be settled.

    `on_delivery` must only hand the delivery on: the callback is cancelled with its channel, a run must not be.
    """

    async def receive(message: AbstractIncomingMessage) -> None:
        on_delivery(RabbitDelivery(message))

    channel = await broker.channel(prefetch=prefetch)
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            # Declared passively, not just named: only so does the library bring it back after a reconnect.
            declared = await channel.declare_queue(queue, passive=True)
            consumption = Consumption(declared, f"{broker.name}/{queue}", receive)
            await consumption.open()
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        await broker.close_channel(channel)
        raise _no_queue(queue, error) from error
    try:
        yield consumption
    finally:
        await consumption.close()


@asynccontextmanager
async def hearing_control(broker: Broker, process: str, on_contract: Callable[[Contract], None]) -> AsyncIterator[None]:
    """Hear `control` in an exclusive queue while the context lasts. What is missed has a durable twin elsewhere."""

    async def receive(message: AbstractIncomingMessage) -> None:
        try:
            on_contract(RabbitDelivery(message).decode())
        except DecodeError as error:
            _log.warning("control.undecodable", reason=error.reason)

    channel = await broker.channel(prefetch=100)
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            queue = await channel.declare_queue(control_queue(process), exclusive=True, auto_delete=True)
            await queue.bind(CONTROL)
            await queue.consume(receive, no_ack=True)
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        raise _no_queue(CONTROL, error) from error
    yield


@dataclass(frozen=True, slots=True)
class Depth:
    """What the broker tells of a queue: how many messages nobody has yet, and how many consumers may have some."""

    ready: int
    consumers: int


async def depth(broker: Broker, queue: str) -> Depth:
    """Ask the broker. Raises `BrokerUnavailable`."""
    if not broker.ready:
        raise BrokerUnavailable("the connection is not up")
    channel = await broker.channel()
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            told = (await channel.declare_queue(queue, passive=True, robust=False)).declaration_result
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        raise BrokerUnavailable(f"RabbitMQ did not tell the depth of {queue}: {error!r}") from error
    finally:
        await broker.close_channel(channel)
    return Depth(told.message_count or 0, told.consumer_count or 0)


def _no_queue(queue: str, error: BaseException) -> Exception:
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"RabbitMQ did not open a consumer of {queue} in time")
    if isinstance(error, ChannelAccessRefused):
        return ConfigurationError(
            f"LANEWAY_RABBIT_URL names a user who may not consume {queue}: is it this service's own?"
        )
    return ConfigurationError(f"The queue {queue} cannot be consumed ({error}): run `make topology`.")


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How large a batch may grow, and how long the first of it waits for company where it is not full already."""

    size: int = 500
    linger: float = 0.05
    prefetch: int = 2000


ItemT = TypeVar("ItemT")


class BatchConsumer(Generic[ItemT]):
    """Feeds a queue to a handler in batches: one commit, then one acknowledgement for all of it.

    `decode` makes of a delivery what the handler takes; what it cannot read (`DecodeError`) goes to the dead letters.
    A handler that raises `Unavailable` is given the same batch again, later. Any other error is tracked down by
    halving: the message that causes it alone is rejected, to the dead letters at once for a `PoisonError`, and by
    way of the delivery limit otherwise. `hopeless` says what else becomes of what would go to the dead letters at once:
    a queue that has none retries it.
    """

    def __init__(
        self,
        queue: str,
        handler: Callable[[Sequence[ItemT]], Awaitable[None]],
        *,
        decode: Callable[[RabbitDelivery], ItemT],
        policy: BatchPolicy | None = None,
        hopeless: Disposition = Disposition.DEAD,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._decode = decode
        self._policy = policy or BatchPolicy()
        self._hopeless = hopeless
        # Bounded by the prefetch: the broker sends no more until some are acknowledged.
        self._buffer: asyncio.Queue[tuple[RabbitDelivery, ItemT | DecodeError]] = asyncio.Queue()
        self.handled = 0
        self._oldest: RabbitDelivery | None = None

    @property
    def lag(self) -> float:
        """Seconds since the oldest came that it has not handled; 0 where it has handled all that came."""
        return time.monotonic() - self._oldest.received_at if self._oldest else 0.0

    async def run(self, broker: Broker) -> None:
        """Consume until cancelled. A batch that is being handled is finished first where the caller shields it."""
        async with consuming(broker, self._queue, prefetch=self._policy.prefetch, on_delivery=self._take):
            while True:
                await self._handle(await self._collect())

    def _take(self, delivery: RabbitDelivery) -> None:
        """Read it as it comes: while one batch is with the database, the next one is decoded."""
        try:
            self._buffer.put_nowait((delivery, self._decode(delivery)))
        except DecodeError as error:
            self._buffer.put_nowait((delivery, error))

    async def _collect(self) -> list[tuple[RabbitDelivery, ItemT | DecodeError]]:
        self._oldest = None
        batch = [await self._buffer.get()]
        self._oldest = batch[0][0]
        if self._buffer.qsize() + 1 < self._policy.size:
            await asyncio.sleep(self._policy.linger)
        while len(batch) < self._policy.size and not self._buffer.empty():
            batch.append(self._buffer.get_nowait())
        # What a lost connection delivered can no longer be acknowledged, and comes again. Each delivery is asked
        # itself: the new connection may deliver before the library says that it is there.
        return [(delivery, item) for delivery, item in batch if not delivery.lost]

    async def _handle(self, batch: list[tuple[RabbitDelivery, ItemT | DecodeError]]) -> None:
        good: list[tuple[RabbitDelivery, ItemT]] = []
        for delivery, item in batch:
            if isinstance(item, DecodeError):
                _log.warning("message.undecodable", queue=self._queue, reason=item.reason)
                await delivery.settle(self._hopeless)
            else:
                good.append((delivery, item))
        if good and await self._succeeds(good):
            # The channel is ours alone, and what came before is settled: one acknowledgement covers the batch.
            await good[-1][0].settle(Disposition.DONE, with_all_before=True)
            self.handled += len(good)

    async def _succeeds(self, batch: list[tuple[RabbitDelivery, ItemT]]) -> bool:
        """Handle the batch, or each half of it; settle what fails alone. True where the caller is to acknowledge."""
        failure = await self._try([item for _, item in batch])
        if failure is None:
            return True
        if len(batch) > 1:
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                if await self._succeeds(half):
                    for delivery, _ in half:
                        await delivery.settle(Disposition.DONE)
                    self.handled += len(half)
            return False
        delivery, _ = batch[0]
        _log.error("message.failed", queue=self._queue, kind=delivery.message.type, error=repr(failure))
        await delivery.settle(self._hopeless if isinstance(failure, PoisonError) else Disposition.RETRY)
        return False

    async def _try(self, items: list[ItemT]) -> Exception | None:
        attempt = 0
        while True:
            try:
                await self._handler(items)
            except Unavailable as error:
                delay = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
                _log.warning("batch.postponed", queue=self._queue, seconds=delay, error=repr(error))
                attempt += 1
                await asyncio.sleep(delay)
            except Exception as error:  # noqa: BLE001 - the boundary that decides what becomes of a failed message
                return error
            else:
                return None
