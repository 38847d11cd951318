"""What clients read, as `/docs` describes it. The answers are made without these models; a test holds them together."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from common.contracts.runs import Status
from gateway.pausing import Scope

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


class Parked(_Document):
    """What a task waits for, without taking up a slot."""

    reason: str | None = Field(examples=["not_before", "running_cap", "concurrency_key"])
    until: datetime | None = Field(description="when it goes on, where that is known")
    key: str | None = Field(description="what exactly it waits for, where the reason alone does not say it")


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
    queued_ms: int | None
    duration_ms: int | None
    attempts: int
    parked: Parked | None = Field(description="why, while the status is `parked`")
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


class Pause(_Document):
    """Work that an operator has stopped."""

    scope: Scope
    name: str | None = Field(description="the tier, tenant id or agent; null for everything")
    kill: bool = Field(description="what ran was stopped and parked, too")
    by: str
    reason: str
    set_at: datetime


class PauseLogEntry(_Document):
    """Who paused or resumed what."""

    at: datetime
    action: Literal["pause", "kill", "resume"]
    scope: Scope
    name: str | None
    by: str
    reason: str


class Pauses(_Document):
    """What is paused now, the oldest first; and the log, the newest first."""

    pauses: list[Pause]
    log: list[PauseLogEntry]


class InvalidField(_Document):
    """One thing that is wrong with a request."""

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
