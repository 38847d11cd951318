"""Cancelling a task: decided in PostgreSQL, then told to whoever runs or watches it."""

from __future__ import annotations

from uuid import UUID

import orjson
import structlog

from common.contracts import CancelRequested
from common.contracts.base import now
from common.contracts.runs import cancelled_before_it_began
from common.ending import tell_end
from common.errors import Unavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import CONTROL
from common.pipelining import Pipelined
from gateway.records import Records
from gateway.tasks import Cancelled, Tasks

_log = structlog.get_logger(__name__)


class Cancellations:
    """Cancels tasks."""

    def __init__(self, tasks: Tasks, records: Records, publisher: Publisher, redis: Pipelined) -> None:
        self._tasks = tasks
        self._records = records
        self._publisher = publisher
        self._redis = redis

    async def cancel(self, tenant_id: UUID, task_id: UUID) -> str | None:
        """What is true of the task now: `cancelled`, `cancelling`, or the end it had before; None where there is none.

        Raises `StoreUnavailable` or `CacheUnavailable`: then nothing was cancelled.
        """
        state = await self._tasks.state(tenant_id, task_id)
        if state is not None and state.ended:
            return state.status
        if state is not None:
            tier, priority = state.tier, state.priority
        else:
            answer = await self._records.answer(tenant_id, task_id)
            if answer is None:
                return None
            # A run is made by cancelling only for a task that exists, if only in the record of its submission.
            tier, priority = orjson.loads(answer)["tier"], None
        cancelled = await self._tasks.cancel(tenant_id, task_id, tier)
        await self._tell(tenant_id, task_id, tier, priority, cancelled)
        return cancelled.status

    async def abandon(self, tenant_id: UUID, task_id: UUID) -> None:
        """Cancel a task whose client went away; best effort, as nobody hears of a failure."""
        try:
            await self.cancel(tenant_id, task_id)
        except Unavailable as error:
            _log.warning("task.not_abandoned", task_id=str(task_id), error=repr(error))

    async def _tell(
        self, tenant_id: UUID, task_id: UUID, tier: str, priority: int | None, cancelled: Cancelled
    ) -> None:
        try:
            if cancelled.status == "cancelling":
                await self._ring(tenant_id, task_id)
            elif cancelled.decided:
                end = cancelled_before_it_began(task_id, tenant_id, tier, cancelled.fence, now())
                await tell_end(self._redis, end, priority)
        except Unavailable as error:
            # The decision is durable: workers find it with their next call, streams with their next look.
            _log.info("cancel.untold", task_id=str(task_id), error=repr(error))

    async def _ring(self, tenant_id: UUID, task_id: UUID) -> None:
        bell = CancelRequested(task_id=task_id, tenant_id=tenant_id)
        await self._publisher.publish(CONTROL, "", bell, subject=task_id, stable_id=str(task_id))
