"""What was answered when a task was submitted: the only trace of it until the persister has written its row."""

from __future__ import annotations

from uuid import UUID

from common.admission import record_key
from common.pipelining import Pipelined


class Records:
    """Reads them."""

    def __init__(self, redis: Pipelined) -> None:
        self._redis = redis

    async def answer(self, tenant_id: UUID, task_id: UUID) -> bytes | None:
        """The body of the task's 202, or None where there is none, or no more.

        Raises `CacheUnavailable`: then nobody can say that there is no such task.
        """
        found: bytes | None = await self._redis.execute("HGET", record_key(tenant_id, task_id), "answer")
        return found
