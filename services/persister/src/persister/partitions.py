"""Keeps a partition of the events ready for this month and the next."""

from __future__ import annotations

import asyncio

import structlog

from common.errors import Unavailable
from common.postgres import Pool, transaction
from persister import repository

_log = structlog.get_logger(__name__)
_DAY = 86_400.0
_RETRY_SECONDS = 10.0


async def keep_partitions(pool: Pool, timeout: float) -> None:
    """At once and then daily, until cancelled. Events without a partition go to the default one in the meantime."""
    while True:
        try:
            async with transaction(pool, timeout) as connection:
                await repository.ensure_partitions(connection)
        except Unavailable as error:
            _log.warning("partitions.postponed", error=repr(error))
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            await asyncio.sleep(_DAY)
