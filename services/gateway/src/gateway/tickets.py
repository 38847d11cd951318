"""Everything about a submission that is fixed before it is admitted: its id, its hash, its answer, its message."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import orjson
import uuid_utils.compat

from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from common.contracts.events import StreamEvent
from common.contracts.identifiers import task_id
from common.contracts.runs import RunError
from common.contracts.tasks import BatchPlace
from common.messaging.topology import lane
from gateway.admission import Candidate
from gateway.schemas import TaskRequest


@dataclass(frozen=True, slots=True)
class Ticket:
    """A checked request of one tenant."""

    tenant_id: UUID
    request: TaskRequest
    tier: str
    key: str | None
    at: datetime
    candidate: Candidate
    batch: BatchPlace | None = None

    @property
    def task_id(self) -> UUID:
        """The task's id."""
        return self.candidate.task_id

    def as_answered(self, answer: bytes) -> Ticket:
        """The ticket of the submission that was answered so: a repetition is the same message, deadline and all."""
        return replace(self, at=datetime.fromisoformat(orjson.loads(answer)["created_at"]))

    def refused(self) -> RunFinished:
        """The end of a task that its lane refused, for those who find it in the record."""
        at = now()
        error = RunError(type="lane_full", message="the lane took no more tasks, and the submission was refused")
        data = {"status": "failed", "error": error.model_dump()}
        return RunFinished(
            task_id=self.task_id,
            tenant_id=self.tenant_id,
            tier=self.tier,
            fence=1,
            status="failed",
            error=error,
            events=(StreamEvent(fence=1, seq=1, type="done", at=at, data=data),),
            finished_at=at,
        )

    def message(self, level: int) -> TaskSubmitted:
        """What is published. Built without validation: every value comes out of a validated request."""
        asked = self.request
        seconds = asked.deadline_seconds
        return TaskSubmitted.model_construct(
            kind="task.submitted",
            version=1,
            task_id=self.task_id,
            tenant_id=self.tenant_id,
            user_id=asked.user_id,
            tier=self.tier,
            level=level,
            priority=asked.priority,
            agent=asked.agent,
            model=asked.model,
            input=asked.messages,
            max_cost_usd=asked.max_cost_usd,
            max_steps=asked.max_steps,
            max_output_tokens=asked.max_output_tokens,
            temperature=asked.temperature,
            deadline_at=None if seconds is None else self.at + timedelta(seconds=seconds),
            metadata=asked.metadata,
            batch=self.batch,
            idempotency_key=self.key,
            request_hash=self.candidate.request_hash,
            submitted_at=self.at,
        )


def ticket_for(tenant_id: UUID, request: TaskRequest, tier: str, key: str | None) -> Ticket:
    """The ticket for a request; with a key it has the same id and hash each time."""
    task, at = task_id(tenant_id, key), now()
    candidate = Candidate(
        task_id=task,
        priority=request.priority,
        keyed=key is not None,
        request_hash=request_hash(request),
        owner=uuid_utils.compat.uuid4().hex,
        answer=answer(task, tier, "queued", at),
    )
    return Ticket(tenant_id, request, tier, key, at, candidate)


def request_hash(request: TaskRequest) -> str:
    """SHA-256 of what was asked; what was left to its default does not count, so a later default changes nothing."""
    asked = request.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


def links(task: UUID) -> dict[str, str]:
    """Where a client goes on."""
    own = f"/v1/tasks/{task}"
    return {"self": own, "events": f"{own}/events", "cancel": f"{own}/cancel"}


def answer(task: UUID, tier: str, status: str, created_at: datetime) -> bytes:
    """The body of a 202, and of the 200 to its repetition."""
    return orjson.dumps(
        {
            "id": task,
            "status": status,
            "tier": tier,
            "lane": lane(tier),
            "created_at": created_at,
            "links": links(task),
        }
    )
