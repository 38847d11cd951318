"""Cancelling a batch, or what a tenant has: decided in PostgreSQL, many tasks at a time, then told once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog
import uuid_utils.compat

from common.contracts import CancelsRequested
from common.contracts.base import now
from common.ending import Swept, tell_cancelled
from common.errors import StoreUnavailable, Unavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import CONTROL
from common.pipelining import Pipelined
from gateway.cancellation_records import Cancellation, CancellationRecords

_log = structlog.get_logger(__name__)
_CHUNK = 500
# What does not fit into a request the persister finishes.
_SECONDS = 2.0


@dataclass
class Cancelled:
    """What became of the tasks that were reached."""

    id: UUID
    as_of: datetime
    counts: Counter[str] = field(default_factory=Counter)
    reached: set[UUID] = field(default_factory=set)
    """Those that had not ended."""
    complete: bool = False
    """Whether everything that was recorded was reached."""

    @property
    def already_ended(self) -> int:
        """Tasks that ended before the cancel could reach them."""
        return self.counts.total() - self.counts["cancelled"] - self.counts["cancelling"]


class CancellationsOfMany:
    """Cancels many tasks of one tenant."""

    def __init__(self, records: CancellationRecords, publisher: Publisher, redis: Pipelined) -> None:
        self._records = records
        self._publisher = publisher
        self._redis = redis

    async def cancel(
        self,
        tenant_id: UUID,
        *,
        status: str | None = None,
        batch_id: UUID | None = None,
        metadata: Mapping[str, str] | None = None,
        conversation_id: UUID | None = None,
    ) -> Cancelled:
        """Cancel all that was submitted until now, as far as the filters fit.

        Raises `StoreUnavailable` where it could not be written down; after that it is carried out in any case.
        """
        identity = (uuid_utils.compat.uuid7(), tenant_id, now())
        asked = Cancellation(*identity, status, batch_id, metadata, conversation_id)
        await self._records.begin(asked)
        result = Cancelled(asked.id, asked.as_of)
        clock = asyncio.get_running_loop().time
        until = clock() + _SECONDS
        try:
            while not result.complete and clock() < until:
                swept, result.complete = await self._records.sweep(asked, _CHUNK)
                result.counts.update(one.status for one in swept)
                result.reached.update(one.task_id for one in swept if one.status in ("cancelled", "cancelling"))
                await self._tell(tenant_id, swept)
        except StoreUnavailable as error:
            _log.warning("cancel.unfinished", cancellation_id=str(asked.id), error=repr(error))
        return result

    async def _tell(self, tenant_id: UUID, swept: Sequence[Swept]) -> None:
        """Ring once for all that run, and end the streams of all that never will. Best effort, as for a single task."""
        running = tuple(one.task_id for one in swept if one.status == "cancelling")
        try:
            if running:
                bell = CancelsRequested(tenant_id=tenant_id, task_ids=running)
                await self._publisher.publish(CONTROL, "", bell, subject=tenant_id, stable_id=str(tenant_id))
            await tell_cancelled(self._redis, swept)
        except Unavailable as error:
            _log.info("cancel.untold", tenant_id=str(tenant_id), tasks=len(swept), error=repr(error))
