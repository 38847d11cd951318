"""Ends tasks that have not begun by their deadline, on time, wherever they wait: far back in a lane, or parked.

The end is decided and recorded in one transaction: no crash can come between the two, and nothing is to be repaired. A
message that comes out of its lane later finds the task ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import structlog

from common.contracts import RunFinished
from common.contracts.runs import DEADLINE_PASSED, ended_before_it_began
from common.ending import tell_end
from common.errors import CacheUnavailable
from common.pipelining import Pipelined
from persister import metrics, repository, rows

if TYPE_CHECKING:
    from common.postgres import Connection

_log = structlog.get_logger(__name__)


async def expire_overdue(connection: Connection, redis: Pipelined, limit: int) -> int:
    """End at most so many; how many were due."""
    async with connection.transaction():
        due = await repository.overdue(connection, limit)
        ends = [_end(task) for task in sorted(due, key=lambda task: task["task_id"])]
        decided = await repository.expire(connection, ends) if ends else []
        expired = [end for end, was in zip(ends, decided, strict=True) if was]
        await repository.record_tasks(connection, rows.tasks([], expired))
        await repository.record_events(connection, [row for end in expired for row in rows.events(end)])
    metrics.EXPIRED.inc(len(expired))
    await _tell(redis, expired, {task["task_id"]: task["priority"] for task in due})
    return len(due)


def _end(task: asyncpg.Record) -> RunFinished:
    at = datetime.now(UTC)
    return ended_before_it_began(task["task_id"], task["tenant_id"], task["tier"], at, "expired", DEADLINE_PASSED)


async def _tell(redis: Pipelined, ends: Sequence[RunFinished], priorities: dict[object, int | None]) -> None:
    try:
        await asyncio.gather(*(tell_end(redis, end, priorities[end.task_id]) for end in ends))
    except CacheUnavailable as error:
        # Streams find it in the record with their next look, and what counts as outstanding is forgotten by itself.
        _log.info("expiry.untold", error=repr(error))
