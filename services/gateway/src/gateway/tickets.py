"""Everything about a submission that is fixed before it is admitted: its id, its hash, its answer, its message."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import orjson
import uuid_utils.compat

from common.admission import OUTSTANDING_SECONDS
from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from common.contracts.identifiers import task_id
from common.contracts.runs import RunError, ended_before_it_began
from common.contracts.tasks import BatchPlace
from common.messaging.topology import lane
from gateway.admission import Candidate
from gateway.schemas import TaskRequest
from gateway.timing import FURTHEST

LANE_FULL = RunError(type="lane_full", message="the lane took no more tasks, and the submission was refused")


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
    no_store: bool = False
    models: tuple[str, ...] | None = None
    """Those that the tenant's plan allows; None: all."""

    @property
    def task_id(self) -> UUID:
        """The task's id."""
        return self.candidate.task_id

    @property
    def deadline_at(self) -> datetime | None:
        """When the task expires unless it has begun."""
        seconds = self.request.deadline_seconds
        return None if seconds is None else self.at + timedelta(seconds=seconds)

    def as_answered(self, answer: bytes) -> Ticket:
        """The ticket of the submission that was answered so: a repetition is the same message, deadline and all."""
        return replace(self, at=datetime.fromisoformat(orjson.loads(answer)["created_at"]))

    def refused(self, error: RunError = LANE_FULL) -> RunFinished:
        """The end of a task that was not taken, for those who find it all the same."""
        return ended_before_it_began(self.task_id, self.tenant_id, self.tier, now(), "failed", error)

    def message(self, level: int) -> TaskSubmitted:
        """What is published. Built without validation: every value comes out of a validated request."""
        asked = self.request
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
            on_budget_exhausted=asked.on_budget_exhausted,
            models=self.models,
            max_steps=asked.max_steps,
            max_output_tokens=asked.max_output_tokens,
            temperature=asked.temperature,
            response_schema=asked.response_schema,
            deadline_at=self.deadline_at,
            not_before=asked.not_before,
            concurrency_key=asked.concurrency_key,
            concurrency_limit=asked.concurrency_limit,
            conversation_id=asked.conversation_id,
            on_busy=asked.on_busy,
            metadata=asked.metadata,
            no_store=self.no_store,
            batch=self.batch,
            idempotency_key=self.key,
            request_hash=self.candidate.request_hash,
            submitted_at=self.at,
        )


def ticket_for(
    tenant_id: UUID,
    request: TaskRequest,
    tier: str,
    key: str | None,
    models: tuple[str, ...] | None = None,
    *,
    no_store: bool = False,
) -> Ticket:
    """The ticket for a request; with a key it has the same id and hash each time."""
    task, at = task_id(tenant_id, key), now()
    candidate = Candidate(
        task_id=task,
        priority=request.priority,
        keyed=key is not None,
        request_hash=request_hash(request),
        owner=uuid_utils.compat.uuid4().hex,
        answer=answer(task, tier, "queued", at),
        outstanding_seconds=outstanding_seconds(request, at),
    )
    return Ticket(tenant_id, request, tier, key, at, candidate, models=models, no_store=no_store)


def outstanding_seconds(request: TaskRequest, at: datetime) -> int:
    """How long a task that nobody ends counts as outstanding: while it is to wait for its time, and then some hours."""
    start = request.not_before
    waits = timedelta() if start is None else min(max(start - at, timedelta()), FURTHEST)
    return OUTSTANDING_SECONDS + int(waits.total_seconds())


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
