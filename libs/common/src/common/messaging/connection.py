"""One connection to RabbitMQ, kept up: jittered reconnects, and a watchdog for the states a client gets stuck in.

Publishing and consuming use separate connections, so that a broker which stops reading publishers (memory or disk
alarm) can still deliver and be acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from typing import Self

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractRobustChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ProbableAuthenticationError

from common.errors import BrokerUnavailable, ConfigurationError
from common.settings import Rabbit

_log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_WATCH_SECONDS = 1.0
# A channel that is still not restored after this long never will be: the connection is taken down under it.
_STUCK_SECONDS = 10.0
# At aiormq's default of 10 frames a busy connection can drop the frame that closes a channel, and hang.
_FRAME_BUFFER = 4096


class Broker:
    """A connection of one purpose. Use as an async context manager; every channel it opens comes back by itself."""

    def __init__(self, rabbit: Rabbit, name: str) -> None:
        """`name` is the purpose, e.g. `gateway/publish`; operators see it with this process's host and number."""
        self._rabbit = rabbit
        self._name = f"{name}@{socket.gethostname()}-{os.getpid()}"
        self._connection: aio_pika.abc.AbstractRobustConnection | None = None
        self._channels: list[AbstractRobustChannel] = []
        self._watchdog: asyncio.Task[None] | None = None
        self.blocked = False
        """Whether the broker reads no publishes on it: an alarm. Known within a second, once one was published."""

    async def __aenter__(self) -> Self:
        aiormq.Connection.FRAME_BUFFER_SIZE = _FRAME_BUFFER
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                self._connection = await aio_pika.connect_robust(
                    self._rabbit.url.get_secret_value(),
                    client_properties={"connection_name": self._name},
                    # Each process waits its own time, so that a broker that returns is not stormed.
                    reconnect_interval=str(round(random.uniform(0.3, 1.5), 2)),  # noqa: S311 - no secret
                    heartbeat=str(self._rabbit.heartbeat),
                )
        except ProbableAuthenticationError as error:
            raise ConfigurationError("RabbitMQ refuses the user or the password of LANEWAY_RABBIT_URL.") from error
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            raise BrokerUnavailable(f"RabbitMQ cannot be reached: {_reason(error)}") from error
        self._watchdog = asyncio.create_task(self._watch(), name=f"watchdog:{self._name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.gather(self._watchdog, return_exceptions=True)
        if self._connection is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._connection.close()
            except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
                _log.warning("broker.close_failed", connection=self._name, error=repr(error))

    @property
    def name(self) -> str:
        """What operators see in the management UI, of the connection and of its consumers."""
        return self._name

    @property
    def ready(self) -> bool:
        """Whether the connection and all its channels are up at this moment."""
        if self._connection is None or not self._connection.connected.is_set():
            return False
        return all(_open(channel) for channel in self._channels)

    async def channel(self, *, prefetch: int = 0) -> AbstractRobustChannel:
        """A channel with publisher confirms, on which an unroutable message raises."""
        if self._connection is None:
            raise BrokerUnavailable("the connection was not opened")
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await channel.initialize()
                if prefetch:
                    await channel.set_qos(prefetch_count=prefetch)
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            raise BrokerUnavailable(f"RabbitMQ opened no channel: {error!r}") from error
        self._channels.append(channel)
        return channel

    async def close_channel(self, channel: AbstractRobustChannel) -> None:
        """Close one channel; what it held unacknowledged goes back to its queue."""
        if channel in self._channels:
            self._channels.remove(channel)
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await channel.close()
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            _log.warning("broker.channel_close_failed", connection=self._name, error=repr(error))

    async def _watch(self) -> None:
        stuck_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            connected = self._connection is not None and self._connection.connected.is_set()
            self._notice(blocked=connected and await self._is_blocked())
            if self.ready or not connected:
                stuck_since = None
                continue
            stuck_since = stuck_since or loop.time()
            if loop.time() - stuck_since > _STUCK_SECONDS:
                _log.error("broker.stuck", connection=self._name, action="reconnect")
                stuck_since = None
                await self._drop_transport()

    def _notice(self, *, blocked: bool) -> None:
        if blocked != self.blocked:
            _log.warning("broker.blocked" if blocked else "broker.unblocked", connection=self._name)
        self.blocked = blocked

    async def _is_blocked(self) -> bool:
        transport = self._connection.transport if self._connection is not None else None
        if transport is None:
            return False
        try:
            # The library tells of it only in this way: at once, or after the alarm.
            async with asyncio.timeout(0):
                await transport.connection.ready()
        except TimeoutError:
            return True
        return False

    async def _drop_transport(self) -> None:
        transport = self._connection.transport if self._connection is not None else None
        if transport is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await transport.connection.close(ConnectionError("stuck channel"))
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            _log.warning("broker.drop_failed", connection=self._name, error=repr(error))


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    # The driver does not hand on what the broker says to a virtual host that is not there, or not for this user.
    return "it does not open the virtual host of LANEWAY_RABBIT_URL" if "Connection.OpenOk" in text else text


def _open(channel: AbstractRobustChannel) -> bool:
    return channel.is_initialized and not channel.is_closed
