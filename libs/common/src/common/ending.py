"""What is left to do for a task that ends without having run: nobody else ends its stream and frees its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from common import admission, batches, streams
from common.contracts import RunFinished
from common.contracts.base import now
from common.contracts.runs import cancelled_before_it_began
from common.errors import CacheRefused
from common.pipelining import Pipelined


@dataclass(frozen=True, slots=True)
class Swept:
    """A task that a cancel of many has reached, and what `runtime.cancel` said of it."""

    task_id: UUID
    tenant_id: UUID
    tier: str
    priority: int | None
    batch_id: UUID | None
    status: str
    fence: int
    decided: bool


async def tell_end(redis: Pipelined, end: RunFinished, priority: int | None) -> None:
    """End its live stream, and stop counting it. Doing it again changes nothing. Raises `CacheUnavailable`.

    Without a priority its place is looked for among all.
    """
    await streams.append(redis, streams.key(end.tenant_id, end.task_id), end.events, create=True)
    for one in admission.PRIORITIES if priority is None else (priority,):
        await admission.release(redis, end.tenant_id, end.task_id, one)


async def tell_cancelled(redis: Pipelined, swept: Sequence[Swept]) -> None:
    """As `tell_end`, of those that will never run now; their batches are rung, too. Raises `CacheUnavailable`."""
    over = [one for one in swept if one.decided and one.status == "cancelled"]
    at = now()
    calls = []
    for one in over:
        end = cancelled_before_it_began(one.task_id, one.tenant_id, one.tier, one.fence, at)
        log = streams.key(one.tenant_id, one.task_id)
        calls.append(([log], streams.append_arguments(end.events, create=True)))
    for answer in await redis.run_each(streams.APPEND, calls):
        if isinstance(answer, CacheRefused):
            raise answer
    places: dict[tuple[UUID, int], list[UUID]] = defaultdict(list)
    for one in over:
        for priority in admission.PRIORITIES if one.priority is None else (one.priority,):
            places[one.tenant_id, priority].append(one.task_id)
    for (tenant_id, priority), tasks in places.items():
        await admission.release_each(redis, tenant_id, tasks, priority)
    for tenant_id, batch_id in {(one.tenant_id, one.batch_id) for one in over if one.batch_id is not None}:
        await batches.ring(redis, tenant_id, batch_id)
