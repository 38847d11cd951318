"""A Redis that is away."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from common.redis import Client


class BrokenRedis(Client):
    """Refuses every connection: nobody listens at this port."""

    def __init__(self) -> None:
        super().__init__(BlockingConnectionPool(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0)), 1.0)
