"""What clients read, as `/docs` describes it. The answers are made without these models; a test holds them together."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from common.contracts.runs import Status

MONEY = Field(pattern=r"^[0-9]+(\.[0-9]+)?$", examples=["0.000123"], description="US dollars, exact")


class Document(BaseModel):
    """One that has what it says, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Links(Document):
    """Where a client goes on."""

    self: str
    events: str
    cancel: str


class Submitted(Document):
    """A task that was accepted."""

    id: UUID
    status: Status
    tier: str
    lane: str
    created_at: datetime
    links: Links


class TaskError(Document):
    """Why a task has not completed."""

    type: str = Field(description="stable, for programs")
    message: str


class WaitingCall(Document):
    """A tool call that a person is to decide on."""

    call_id: str
    tool: str
    arguments: dict[str, Any]


class Parked(Document):
    """What a task waits for, without taking up a slot."""

    reason: str | None = Field(
        examples=["not_before", "running_cap", "concurrency_key", "conversation_busy", "approval"]
    )
    until: datetime | None = Field(description="when it goes on, where that is known")
    key: str | None = Field(description="what exactly it waits for, where the reason alone does not say it")
    calls: list[WaitingCall] | None = Field(description="for the reason `approval`: what is still to be decided")


class Progress(Document):
    """How far the agent says it is."""

    message: str = Field(examples=["Reading the third of five reports"])
    percentage: float = Field(ge=0, le=100)
    at: datetime


class Routing(Document):
    """What the rules of `auto` picked, and why."""

    model: str
    reason: str


class Fallback(Document):
    """The task went on with another model, as the first could not answer."""

    step: int
    from_model: str
    to_model: str
    reason: str = Field(description="the type of the error that it was left for")


class Task(Document):
    """A task as it is now. What its submission said of it is absent until it is recorded, a moment after."""

    id: UUID
    status: Status
    tier: str
    lane: str
    priority: int | None = None
    agent: str | None = None
    user_id: str | None = None
    conversation_id: UUID | None = None
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
    parked: Parked | None = Field(description="why, while the status is `parked`")
    progress: Progress | None = Field(description="as the agent last told it; null where it told nothing")
    model: str | None = Field(
        description="that answered, or was called last; before the end the one that was asked for"
    )
    routing: Routing | None = Field(description="where `model` was `auto`; null until the task has ended")
    fallbacks: list[Fallback] | None = Field(description="null until the task has ended")
    output: str | None
    parsed: Any = Field(description="the output's value, where the task had a `response_schema`; else null")
    cached: bool | None = Field(description="the output came from the response cache; null until the task has ended")
    error: TaskError | None
    usage: dict[str, Any] | None = Field(description="tokens by kind")
    steps: int | None
    cost_usd: str | None = MONEY
    links: Links


class TaskPage(Document):
    """Some tasks, newest first."""

    items: list[Task]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class Lane(Document):
    """A lane, and who serves it."""

    lane: str
    tier: str
    queued: int = Field(description="recorded tasks that nobody has begun")
    running: int
    parked: int = Field(description="whatever they wait for")
    parked_ready: int = Field(description="those of them that were woken and wait for a worker")
    work: int = Field(description="queued, running and parked_ready: what to scale workers by")
    oldest_seconds: float = Field(
        description="of the oldest of `work`: since it was submitted or woken or, where it runs, since it began,"
        " without the time for which it was parked"
    )
    starts_per_second: float = Field(description="of the last minute")
    workers: int = Field(description="that have reported within the last seconds")
    slots: int
    slots_free: int = Field(description="tasks of this lane that could begin now; what lanes may borrow each counts")
    ready: int | None = Field(description="messages in the queue; null where the broker does not tell")
    consumers: int | None
    paused: bool = Field(description="an operator has stopped its tier, or everything: nothing of it begins")
    unserved: bool = Field(
        description="it has work, and nobody serves it; where it is paused: and no worker is there for when it goes on"
    )
    as_of: datetime


class LaneList(Document):
    """All lanes, best tier first."""

    items: list[Lane]


class Cancelled(Document):
    """What is true of a task that was to be cancelled."""

    id: UUID
    status: Literal["cancelled", "cancelling", "completed", "failed", "expired"]


class UsageTotals(Document):
    """Model calls, their tokens, and what they cost."""

    calls: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: str = MONEY


class UsageRow(UsageTotals):
    """Those of one group: it has what was grouped by, and nothing of the rest."""

    day: date | None = None
    provider: str | None = None
    model: str | None = None
    agent: str | None = None
    user_id: str | None = None
    label: str | None = Field(default=None, description="the value of the label; null: of tasks without it")


class UsageReport(Document):
    """Usage in a period, both days included."""

    from_: date = Field(alias="from")
    to: date
    rows: list[UsageRow]
    totals: UsageTotals


class Tenant(Document):
    """A tenant that was made."""

    id: UUID
    name: str
    plan: str


class Key(Document):
    """An API key, shown this once."""

    key_id: str
    key: str
    tenant_id: UUID


class PlanLimits(Document):
    """What a plan says of its tenants' limits."""

    name: str
    max_outstanding: int
    max_running: int | None = Field(description="null: no cap")


class TenantLimits(Document):
    """A tenant's own limits, null where its plan's count, and those."""

    tenant_id: UUID
    max_outstanding: int | None
    max_running: int | None
    plan: PlanLimits


class User(Document):
    """A user with a tier of its own."""

    tenant_id: UUID
    user_id: str
    tier: str


class InvalidField(Document):
    """One thing that is wrong with a request."""

    index: int | None = Field(default=None, description="of the item, in a body of many")
    field: str
    pointer: str | None = Field(default=None, description="RFC 6901, into the body; absent for headers and parameters")
    reason: str


class ProblemDocument(Document):
    """RFC 9457."""

    type: str = Field(description="stable, for programs")
    title: str
    status: int
    detail: str
    instance: str
    errors: list[InvalidField] | None = None
    batch: dict[str, Any] | None = Field(
        default=None, description="of a batch that may have been accepted: what its 202 would say"
    )
