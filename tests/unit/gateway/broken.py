"""A Redis that is away."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


class BrokenRedis(Redis):
    """Refuses every connection: nobody listens at this port."""

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
