"""What clients read, as `/docs` describes it. The answers are made without these models; a test holds them together."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from common.contracts.runs import Status

_MONEY = Field(pattern=r"^[0-9]+(\.[0-9]+)?$", examples=["0.000123"], description="US dollars, exact")


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Links(_Document):
    """Where a client goes on."""

    self: str
    events: str
    cancel: str


class Submitted(_Document):
    """A task that was accepted."""

    id: UUID
    status: Status
    tier: str
    lane: str
    created_at: datetime
    links: Links


class TaskError(_Document):
    """Why a task has not completed."""

    type: str = Field(description="stable, for programs")
    message: str


class Task(_Document):
    """A task as it is now. What its submission said of it is absent until it is recorded, a moment after."""

    id: UUID
    status: Status
    tier: str
    lane: str
    priority: int | None = None
    agent: str | None = None
    user_id: str | None = None
    metadata: dict[str, str] = {}
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    position: int | None = Field(
        default=None, description="estimate: about how many of the lane go first; null unless it is queued, or unknown"
    )
    estimated_start: datetime | None = Field(
        default=None, description="estimate, from the lane's recent pace; null where there is none to reckon with"
    )
    queued_ms: int | None
    duration_ms: int | None
    attempts: int
    model: str | None
    output: str | None
    error: TaskError | None
    usage: dict[str, Any] | None = Field(description="tokens by kind")
    steps: int | None
    cost_usd: str | None = _MONEY
    links: Links


class TaskPage(_Document):
    """Some tasks, newest first."""

    items: list[Task]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class BatchLinks(_Document):
    """Where a client goes on."""

    self: str
    events: str
    results: str
    cancel: str


class BatchedTask(_Document):
    """What became of the submission of one task."""

    index: int = Field(description="its place in the batch, from 0")
    id: UUID
    tier: str
    status: Literal["accepted", "refused", "unsent", "unknown"]
    reason: str | None = Field(default=None, description="why it is not `accepted`")


class BatchSubmitted(_Document):
    """A batch, and which of its tasks were accepted."""

    id: UUID
    created_at: datetime
    size: int
    complete: bool = Field(description="whether all of them were")
    tasks: list[BatchedTask]
    links: BatchLinks


class BatchCounts(_Document):
    """How many tasks have which status."""

    queued: int
    running: int
    parked: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    unrecorded: int = Field(description="submitted a moment ago, or not accepted")


class BatchProgress(_Document):
    """How far a batch is."""

    ended: int
    total: int
    fraction: float


class BatchTask(_Document):
    """One task among the others."""

    index: int
    id: UUID
    status: Status | Literal["unrecorded"]


class BatchTasks(_Document):
    """Some tasks, in the order in which they were submitted."""

    items: list[BatchTask]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class Batch(_Document):
    """A batch as it is now."""

    id: UUID
    created_at: datetime
    size: int
    counts: BatchCounts
    progress: BatchProgress
    cost_usd: str = _MONEY
    cost_final: bool = Field(description="whether all tasks have ended and every model call is settled")
    tasks: BatchTasks
    links: BatchLinks


class BatchResult(_Document):
    """How a task ended, or how far it is."""

    index: int
    id: UUID
    status: Status | Literal["unrecorded"]
    output: str | None
    error: TaskError | None
    usage: dict[str, Any] | None
    model: str | None
    steps: int | None
    attempts: int
    cost_usd: str | None = _MONEY
    started_at: datetime | None
    finished_at: datetime | None


class BatchResults(_Document):
    """Some results, in the order in which the tasks were submitted."""

    items: list[BatchResult]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class BatchCancelled(_Document):
    """What is true of the tasks of a batch that was to be cancelled; the four add up to its size."""

    id: UUID
    as_of: datetime
    cancelled: int = Field(description="will not run any more")
    cancelling: int = Field(description="run, and are being stopped")
    already_ended: int
    pending: int = Field(description="not recorded yet: each is cancelled when it is")


class TasksCancelled(_Document):
    """What became of the tasks that a cancel reached."""

    id: UUID = Field(description="of the cancel")
    as_of: datetime = Field(description="tasks that were created after this are not covered")
    cancelled: int
    cancelling: int
    already_ended: int
    complete: bool = Field(description="whether all was reached; otherwise the rest follows without another request")


class Lane(_Document):
    """A lane, and who serves it."""

    lane: str
    tier: str
    queued: int = Field(description="recorded tasks that nobody has begun")
    running: int
    parked: int
    work: int = Field(description="queued, running and parked: what to scale workers by")
    oldest_seconds: float
    starts_per_second: float = Field(description="of the last minute")
    workers: int = Field(description="that have reported within the last seconds")
    slots: int
    slots_free: int = Field(description="tasks of this lane that could begin now; what lanes may borrow each counts")
    ready: int | None = Field(description="messages in the queue; null where the broker does not tell")
    consumers: int | None
    unserved: bool = Field(description="it has work, and nobody serves it")
    as_of: datetime


class LaneList(_Document):
    """All lanes, best tier first."""

    items: list[Lane]


class Cancelled(_Document):
    """What is true of a task that was to be cancelled."""

    id: UUID
    status: Literal["cancelled", "cancelling", "completed", "failed", "expired"]


class UsageTotals(_Document):
    """Model calls, their tokens, and what they cost."""

    calls: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: str = _MONEY


class UsageRow(UsageTotals):
    """Those of one day and model."""

    day: date
    provider: str
    model: str


class UsageReport(_Document):
    """Usage in a period, both days included."""

    from_: date = Field(alias="from")
    to: date
    rows: list[UsageRow]
    totals: UsageTotals


class Tenant(_Document):
    """A tenant that was made."""

    id: UUID
    name: str
    plan: str


class Key(_Document):
    """An API key, shown this once."""

    key_id: str
    key: str
    tenant_id: UUID


class User(_Document):
    """A user with a tier of its own."""

    tenant_id: UUID
    user_id: str
    tier: str


class InvalidField(_Document):
    """One thing that is wrong with a request."""

    index: int | None = Field(default=None, description="of the item, in a body of many")
    field: str
    pointer: str | None = Field(default=None, description="RFC 6901, into the body; absent for headers and parameters")
    reason: str


class ProblemDocument(_Document):
    """RFC 9457."""

    type: str = Field(description="stable, for programs")
    title: str
    status: int
    detail: str
    instance: str
    errors: list[InvalidField] | None = None
