"""Deletes what belonged to deleted conversations: a part at a time, each in a transaction of its own.

A deletion is durable before anything is deleted, so whichever persister is there goes on from where it stands. What a
conversation's open runs still write is waited for: they were cancelled. What comes later is looked for again.
"""

from __future__ import annotations

from functools import partial

import structlog

from common import streams
from common.errors import CacheUnavailable
from common.pipelining import Pipelined
from common.postgres import Pool, transaction
from persister import conversation_records, metrics
from persister.part_by_part import part_by_part

_log = structlog.get_logger(__name__)
_INTERVAL_SECONDS = 0.5
# A task has thousands of events at worst.
_CHUNK = 50


async def erase_forever(pool: Pool, timeout: float, redis: Pipelined) -> None:
    """Carry deletions out, until cancelled."""
    await part_by_part("erasing", partial(erase_next, pool, timeout, redis), _INTERVAL_SECONDS)


async def erase_next(pool: Pool, timeout: float, redis: Pipelined) -> bool:
    """One part of one deletion; False where none is due."""
    async with transaction(pool, timeout) as connection:
        erased = await conversation_records.erase_next(connection, _CHUNK)
    if erased is None:
        return False
    metrics.ERASED.inc(len(erased["tasks"]))
    if erased["tasks"]:
        try:
            await redis.execute("DEL", *(streams.key(erased["tenant_id"], task) for task in erased["tasks"]))
        except CacheUnavailable as error:
            _log.warning("erasing.log_stays", error=repr(error))  # for an hour at most
    return True
