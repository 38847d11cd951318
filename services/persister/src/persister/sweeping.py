"""Cancels of many: those that were begun and not finished, and those that cover what comes to be recorded after them.

A gateway does what fits into its request, or dies in the middle. The request is durable before anything is cancelled,
so whichever persister is there goes on from where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog

from common.ending import Swept, tell_cancelled
from common.errors import CacheUnavailable
from common.pipelining import Pipelined
from common.postgres import Pool, transaction
from persister import metrics, repository
from persister.part_by_part import part_by_part

_log = structlog.get_logger(__name__)
_INTERVAL_SECONDS = 1.0
_CHUNK = 500


async def sweep_forever(pool: Pool, timeout: float, redis: Pipelined) -> None:
    """Finish what others have left, until cancelled."""
    ours: UUID | None = None

    async def part() -> bool:
        nonlocal ours
        ours = await sweep_next(pool, timeout, redis, ours)
        return ours is not None

    await part_by_part("sweeping", part, _INTERVAL_SECONDS)


async def sweep_next(pool: Pool, timeout: float, redis: Pipelined, ours: UUID | None = None) -> UUID | None:
    """One part of one cancel, in a transaction of its own; which one, or None where none is left by the others.

    `ours` is one that was taken over before, and is gone on with at once.
    """
    async with transaction(pool, timeout) as connection:
        cancellation = await repository.next_cancellation(connection, ours)
        if cancellation is None:
            return None
        swept = await repository.sweep(connection, cancellation, _CHUNK)
    await _tell(redis, swept)
    return cancellation


async def cancel_recorded(task_ids: Sequence[UUID], pool: Pool, timeout: float, redis: Pipelined) -> None:
    """A cancel of many looks at what is recorded: what was on its way then is cancelled when it comes.

    In a transaction after the one that records: whichever of the two commits first, the other one sees it.
    """
    if task_ids:
        async with transaction(pool, timeout) as connection:
            swept = await repository.cancel_recorded(connection, task_ids)
        await _tell(redis, swept)


async def _tell(redis: Pipelined, swept: Sequence[Swept]) -> None:
    """What runs is cut when its worker next renews its lease; of what never ran nobody else ends the stream."""
    metrics.CANCELLED.inc(len(swept))
    if not swept:
        return
    try:
        await tell_cancelled(redis, swept)
    except CacheUnavailable as error:
        # Streams find it in the record with their next look, and what counts as outstanding is forgotten by itself.
        _log.info("sweeping.untold", tasks=len(swept), error=repr(error))
