"""Redis: clients with short deadlines and no silent retries, whose failures have one name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from common.errors import CacheUnavailable


class Client(Redis):
    """A client whose every command has a deadline of so many seconds.

    The library's own deadline for a write is `asyncio.wait_for`, which before Python 3.12 loses a cancellation that
    comes in the moment in which the write ends: a stream whose reader had left would go on.
    """

    def __init__(self, source: BlockingConnectionPool, seconds: float) -> None:
        super().__init__(connection_pool=source)
        self._seconds = seconds

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See `Redis.execute_command`."""
        async with asyncio.timeout(self._seconds):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def client(url: str, *, timeout: float, connections: int) -> AsyncIterator[Client]:
    """A client with at most that many connections. A connection that waits too long for its turn is an error too."""
    source = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout,
        socket_timeout=None,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    connected = Client(source, timeout)
    try:
        yield connected
    finally:
        await connected.aclose(close_connection_pool=True)


@contextmanager
def reporting() -> Iterator[None]:
    """Name every failure of Redis `CacheUnavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise CacheUnavailable(f"Redis did not answer: {error!r}") from error
