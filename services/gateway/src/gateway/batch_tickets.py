"""Everything about a batch that is fixed before it is admitted: its id, its hash, its tasks and theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from common.contracts.base import now
from common.contracts.identifiers import batch_id, batched_task_id
from common.contracts.tasks import BatchPlace
from gateway.admission import Candidate
from gateway.schemas import TaskRequest
from gateway.tickets import Ticket, answer, request_hash


@dataclass(frozen=True, slots=True)
class BatchTicket:
    """A checked batch of one tenant. All its tasks were submitted at the same moment."""

    id: UUID
    tenant_id: UUID
    key: str | None
    at: datetime
    request_hash: str
    tasks: tuple[Ticket, ...]

    def as_submitted(self, at: datetime) -> BatchTicket:
        """The ticket of the same batch when it came first: a repetition is the same messages, deadlines and all."""
        return replace(self, at=at, tasks=tuple(replace(task, at=at) for task in self.tasks))


def batch_ticket(tenant_id: UUID, asked: Sequence[tuple[TaskRequest, str]], key: str | None) -> BatchTicket:
    """The ticket for requests, each with its tier; with a key it has the same ids and hashes each time."""
    batch, at = batch_id(tenant_id, key), now()
    ids = task_ids(batch, len(asked))
    tasks = tuple(
        Ticket(
            tenant_id,
            request,
            tier,
            key,
            at,
            _candidate(task, request, tier, at),
            BatchPlace(id=batch, index=index, size=len(asked)),
        )
        for index, (task, (request, tier)) in enumerate(zip(ids, asked, strict=True))
    )
    whole = hashlib.sha256("".join(task.candidate.request_hash for task in tasks).encode()).hexdigest()
    return BatchTicket(batch, tenant_id, key, at, whole, tasks)


def _candidate(task: UUID, request: TaskRequest, tier: str, at: datetime) -> Candidate:
    # The key is the batch's: what it guards, the batch's own record guards.
    return Candidate(task, request.priority, False, request_hash(request), "", answer(task, tier, "queued", at))


@lru_cache(maxsize=64)
def task_ids(batch: UUID, size: int) -> tuple[UUID, ...]:
    """The ids of all tasks of a batch, in their order."""
    return tuple(batched_task_id(batch, index) for index in range(size))


def batch_links(batch: UUID) -> dict[str, str]:
    """Where a client goes on."""
    own = f"/v1/batches/{batch}"
    return {"self": own, "events": f"{own}/events", "results": f"{own}/results", "cancel": f"{own}/cancel"}
