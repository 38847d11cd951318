"""Whether all usage records of some time ago are known to be settled: none in the queue, none in any process's hands.

The broker tells what waits in the queue and how many consumers it has, not what they hold. So each process notes up to
when it has settled what it was given: where nothing waits, and as many processes keep up as there are consumers, the
queue is drained. One that is stuck, or cannot reach the database, is a consumer without a note. One that has died is
none, and what it held comes to another after a delay; for that time, and for that of the notes that outlive their
process, the queue must have been drained without interruption before it is known to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import structlog

from billing import repository
from common.errors import BrokerUnavailable
from common.messaging.consumer import Depth
from common.postgres import Pool, transaction

_log = structlog.get_logger(__name__)
# Looks that a process may miss, or be behind, and still counts as one that keeps up.
_LOOKS = 3


class Drain:
    """What one process knows, and lets the others know."""

    def __init__(
        self,
        pool: Pool,
        timeout: float,
        *,
        interval: float,
        longest_retry: float,
        depth: Callable[[], Awaitable[Depth]],
        lag: Callable[[], float | None],
    ) -> None:
        """`interval` is between two looks, and the broker delays no redelivery by more than `longest_retry`.

        `lag` tells how far behind this process is, in seconds; None where it is not connected.
        """
        self._pool = pool
        self._timeout = timeout
        self._keeping_up = timedelta(seconds=_LOOKS * interval)
        self._patience = longest_retry + 2 * _LOOKS * interval
        self._depth = depth
        self._lag = lag
        self._process = uuid4()
        self._drained_since: float | None = None

    async def known(self) -> bool:
        """Look once more. Raises `StoreUnavailable`."""
        drained, at = await self._drained(), asyncio.get_running_loop().time()
        self._drained_since = (self._drained_since or at) if drained else None
        return self._drained_since is not None and at - self._drained_since >= self._patience

    async def _drained(self) -> bool:
        async with transaction(self._pool, self._timeout) as connection:
            if (lag := self._lag()) is not None:
                await repository.note_lag(connection, self._process, timedelta(seconds=lag))
            keeping_up = await repository.count_keeping_up(connection, self._keeping_up)
        try:
            depth = await self._depth()
        except BrokerUnavailable as error:
            _log.warning("drain.unknown", error=repr(error))
            return False
        return depth.ready == 0 and 0 < depth.consumers <= keeping_up
