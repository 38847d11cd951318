"""A Redis that is away."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


class BrokenRedis(Redis):
    """Refuses whatever is asked of it."""

    def __init__(self) -> None:
        super().__init__(host="192.0.2.1")

    def pipeline(self, *_: Any, **__: Any) -> Any:
        raise RedisConnectionError("refused")
