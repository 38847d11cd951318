"""What is done to the stack meanwhile: processes killed, servers restarted, Redis emptied, records sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aio_pika
import redis.asyncio
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPException

from common.lifecycle import stop
from common.messaging.topology import BILLING_QUEUE, EVENTS
from tests.acceptance.stack import Stack

_WORKERS = ("agent-worker-1", "agent-worker-2")
_BILLING = "billing"


class Adversary:
    """Breaks things, one after another. `second` is a second process of billing."""

    def __init__(self, stack: Stack, second: Stack, seed: int) -> None:
        self._stack = stack
        self._second = second
        self._random = random.Random(seed)
        self.done: list[str] = []
        self.sent_again = 0

    async def rage(self, rounds: int, pause: float) -> None:
        """Do everything so many times, in an order that is another each time."""
        for _ in range(rounds):
            acts = self._acts()
            self._random.shuffle(acts)
            for name, act in acts:
                await asyncio.sleep(pause)
                await act()
                self.done.append(name)
                await self._revive()

    async def heal(self) -> None:
        """Start again what has ended, and wait until all is well."""
        await self._revive()
        for stack in (self._stack, self._second):
            await asyncio.to_thread(stack.until_ready)

    @asynccontextmanager
    async def meddling(self) -> AsyncIterator[None]:
        """Meanwhile every usage record comes again, late and in another order, some of them more than once."""
        meddling = asyncio.create_task(self._meddle())
        try:
            yield
            assert not meddling.done(), "nobody has sent records again all the time"
        finally:
            await stop(meddling)

    def _acts(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        killed = [(f"kill -9 {name}", self._killing(self._stack, name)) for name in (*_WORKERS, _BILLING)]
        return [
            *killed,
            ("kill -9 the second billing", self._killing(self._second, _BILLING)),
            ("restart the broker", self._restart_broker),
            ("crash the database", self._stack.crash_database),
            ("FLUSHALL", self._flush),
            *((f"kill -9 {name} again", self._killing(self._stack, name)) for name in _WORKERS),
        ]

    def _killing(self, stack: Stack, name: str) -> Callable[[], Awaitable[None]]:
        async def kill() -> None:
            await asyncio.to_thread(stack.kill, name)
            await asyncio.to_thread(stack.start, name)

        return kill

    async def _restart_broker(self) -> None:
        await asyncio.to_thread(self._stack.restart_broker)

    async def _flush(self) -> None:
        servers = self._stack.stage.servers
        for url in (servers.redis_state_url, servers.redis_cache_url):
            async with redis.asyncio.from_url(url) as client:
                await client.flushall()

    async def _revive(self) -> None:
        """As a supervisor does."""
        for stack in (self._stack, self._second):
            for name in stack.gone():
                await asyncio.to_thread(stack.start, name)

    async def _meddle(self) -> None:
        while True:
            with suppress(AMQPException, OSError, RuntimeError, TimeoutError):
                await self._meddle_while_connected()
            await asyncio.sleep(0.5)

    async def _meddle_while_connected(self) -> None:
        async with await aio_pika.connect(self._stack.admin_amqp, timeout=10) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("meddler", durable=True)
            await queue.bind(EVENTS, "usage.#")
            while True:
                heard = [message async for message in _waiting(queue)]
                again = heard + self._random.sample(heard, len(heard) // 3)
                self._random.shuffle(again)
                for message in again:
                    await channel.default_exchange.publish(_copy(message), BILLING_QUEUE)
                self.sent_again += len(again)
                await asyncio.sleep(self._random.uniform(0.2, 1.5))


async def _waiting(queue: aio_pika.abc.AbstractQueue) -> AsyncIterator[AbstractIncomingMessage]:
    while (message := await queue.get(no_ack=True, fail=False, timeout=10)) is not None:
        yield message


def _copy(message: AbstractIncomingMessage) -> aio_pika.Message:
    return aio_pika.Message(
        message.body,
        headers=message.headers,
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        correlation_id=message.correlation_id,
        type=message.type,
        app_id=message.app_id,
    )
