"""Everything about a batch that is fixed before it is admitted: its id, its hash, its tasks and theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

from common.contracts.base import now
from common.contracts.identifiers import batch_id, batched_task_id
from common.contracts.tasks import BatchPlace
from gateway.admission import Candidate
from gateway.schemas import TaskRequest
from gateway.tickets import Ticket, answer, outstanding_seconds, request_hash


@dataclass(frozen=True, slots=True)
class BatchTicket:
    """A checked batch of one tenant. Its tasks are submitted a microsecond apart, so that they have an order."""

    id: UUID
    tenant_id: UUID
    key: str | None
    at: datetime
    request_hash: str
    tasks: tuple[Ticket, ...]

    def as_submitted(self, at: datetime) -> BatchTicket:
        """The ticket of the same batch when it came first: a repetition is the same messages, deadlines and all."""
        return replace(
            self, at=at, tasks=tuple(replace(task, at=moment(at, place)) for place, task in enumerate(self.tasks))
        )


def moment(at: datetime, place: int) -> datetime:
    """When the task at a place was submitted, of a batch that was submitted at that time."""
    return at + timedelta(microseconds=place)


def batch_ticket(
    tenant_id: UUID,
    asked: Sequence[tuple[TaskRequest, str]],
    key: str | None,
    models: tuple[str, ...] | None = None,
    *,
    no_store: bool = False,
) -> BatchTicket:
    """The ticket for requests, each with its tier; with a key it has the same ids and hashes each time."""
    batch, at = batch_id(tenant_id, key), now()
    tickets = (
        replace(_ticket(tenant_id, request, tier, key, moment(at, index), place), models=models)
        for index, (request, tier) in enumerate(asked)
        for place in [BatchPlace(id=batch, index=index, size=len(asked))]
    )
    tasks = tuple(replace(ticket, no_store=no_store) for ticket in tickets)
    whole = hashlib.sha256("".join(task.candidate.request_hash for task in tasks).encode()).hexdigest()
    return BatchTicket(batch, tenant_id, key, at, whole, tasks)


def _ticket(
    tenant_id: UUID, request: TaskRequest, tier: str, key: str | None, at: datetime, place: BatchPlace
) -> Ticket:
    task = task_ids(place.id, place.size)[place.index]
    # The key is the batch's: what it guards, the batch's own record guards.
    candidate = Candidate(
        task_id=task,
        priority=request.priority,
        keyed=False,
        request_hash=request_hash(request),
        owner="",
        answer=answer(task, tier, "queued", at),
        outstanding_seconds=outstanding_seconds(request, at),
    )
    return Ticket(tenant_id, request, tier, key, at, candidate, place)


@lru_cache(maxsize=64)
def task_ids(batch: UUID, size: int) -> tuple[UUID, ...]:
    """The ids of all tasks of a batch, in their order."""
    return tuple(batched_task_id(batch, index) for index in range(size))


def batch_links(batch: UUID) -> dict[str, str]:
    """Where a client goes on."""
    own = f"/v1/batches/{batch}"
    return {"self": own, "events": f"{own}/events", "results": f"{own}/results", "cancel": f"{own}/cancel"}
