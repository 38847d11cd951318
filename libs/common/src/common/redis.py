"""Redis: clients with short deadlines and no silent retries, whose failures have one name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from common.errors import CacheUnavailable

Client: TypeAlias = Redis


@asynccontextmanager
async def client(url: str, *, timeout: float, connections: int) -> AsyncIterator[Client]:
    """A client with at most that many connections. A connection that waits too long for its turn is an error too."""
    source = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    connected = Redis(connection_pool=source)
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
