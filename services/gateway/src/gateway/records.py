"""What was answered when a task was submitted: the only trace of it until the persister has written its row."""

from __future__ import annotations

from uuid import UUID

import structlog

from common.admission import record_key
from common.errors import CacheUnavailable
from gateway.pipelining import Pipelined

_log = structlog.get_logger(__name__)


class Records:
    """Reads them; a Redis that is away knows of none."""

    def __init__(self, redis: Pipelined) -> None:
        self._redis = redis

    async def answer(self, tenant_id: UUID, task_id: UUID) -> bytes | None:
        """The body of the task's 202."""
        try:
            found: bytes | None = await self._redis.execute("HGET", record_key(tenant_id, task_id), "answer")
        except CacheUnavailable as error:
            _log.info("record.unread", task_id=str(task_id), error=repr(error))
            return None
        return found
