"""Work that waits in PostgreSQL and is done in parts, by whichever persister is there: what is common to all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from common.errors import Unavailable

_log = structlog.get_logger(__name__)


async def part_by_part(name: str, part: Callable[[], Awaitable[object]], interval: float) -> None:
    """Do one part after the other while there are any, and look again after so many seconds, until cancelled.

    `part` tells whether it found one. Where it raises `Unavailable` it is tried again after the interval.
    """
    while True:
        try:
            while await part():
                pass
        except Unavailable as error:
            _log.warning(f"{name}.postponed", error=repr(error))
        await asyncio.sleep(interval)
