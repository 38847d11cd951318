"""Cancels of many that were begun and not finished: a gateway does what fits into its request, or dies in the middle.

The request is durable before anything is cancelled, so whichever persister is there goes on from where it stands.
"""

from __future__ import annotations

import asyncio

import structlog

from common.errors import Unavailable
from common.postgres import Pool, transaction
from persister import metrics, repository

_log = structlog.get_logger(__name__)
_INTERVAL_SECONDS = 1.0
_CHUNK = 500


async def sweep_forever(pool: Pool, timeout: float) -> None:
    """Finish what others have left, until cancelled."""
    while True:
        try:
            while await sweep_next(pool, timeout):
                pass
        except Unavailable as error:
            _log.warning("sweeping.postponed", error=repr(error))
        await asyncio.sleep(_INTERVAL_SECONDS)


async def sweep_next(pool: Pool, timeout: float) -> bool:
    """One part of one cancel, in a transaction of its own; False where none is left unfinished."""
    async with transaction(pool, timeout) as connection:
        cancellation = await repository.next_cancellation(connection)
        if cancellation is None:
            return False
        metrics.CANCELLED.inc(await repository.sweep(connection, cancellation, _CHUNK))
    return True
