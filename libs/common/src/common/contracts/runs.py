"""How a run goes: its log at each step boundary, and its one end."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from common.contracts.base import Contract
from common.contracts.events import StreamEvent
from common.contracts.usage import Usage

TerminalStatus = Literal["completed", "failed", "cancelled", "expired"]
Status = Literal["queued", "running", "parked", "completed", "failed", "cancelled", "expired"]
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled", "expired"})


class RunError(BaseModel):
    """Why a run failed: a stable type for programs, a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: str
    message: str


class RunMessage(BaseModel):
    """One message of the finished conversation, in blocks as the agent loop keeps them."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    step: int
    role: Literal["user", "assistant", "tool"]
    content: tuple[dict[str, Any], ...]


class Routing(BaseModel):
    """What the rules of `auto` picked, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    model: str
    reason: str


class Fallback(BaseModel):
    """A run went on with another model in this step; `reason` is the type of the error that it left the first for."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    step: int
    from_model: str
    to_model: str
    reason: str


class RunProgressed(Contract):
    """The events of a finished step, for the durable log. Confirmed before the step's checkpoint is written."""

    KIND: ClassVar[str] = "run.progressed"
    kind: Literal["run.progressed"] = "run.progressed"
    version: Literal[1] = 1
    task_id: UUID
    tenant_id: UUID
    fence: int
    step: int
    events: tuple[StreamEvent, ...]


class RunFinished(Contract):
    """The end of a run, decided once in PostgreSQL and stored there as these very bytes until it was published."""

    KIND: ClassVar[str] = "run.finished"
    kind: Literal["run.finished"] = "run.finished"
    version: Literal[1] = 1
    task_id: UUID
    tenant_id: UUID
    tier: str
    fence: int
    status: TerminalStatus
    output: str | None = None
    structured: bool = Field(default=False, description="the output is JSON that matches the task's `response_schema`")
    cached: bool = Field(default=False, description="the output came from the response cache")
    error: RunError | None = None
    usage: Usage = Field(default_factory=Usage)
    provider: str | None = None
    model: str | None = None
    """The last that was called."""
    routing: Routing | None = Field(default=None, description="where the model was left to the rules")
    fallbacks: tuple[Fallback, ...] = ()
    steps: int = 0
    attempts: int = 0
    messages: tuple[RunMessage, ...] = ()
    events: tuple[StreamEvent, ...] = Field(default=(), description="the log since the last step boundary, with `done`")
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime


def ended_before_it_began(
    task_id: UUID, tenant_id: UUID, tier: str, at: datetime, status: TerminalStatus, error: RunError, fence: int = 1
) -> RunFinished:
    """The end of a task that never ran: one event, and nothing that it used."""
    done = StreamEvent(fence=fence, seq=1, type="done", at=at, data={"status": status, "error": error.model_dump()})
    return RunFinished(
        task_id=task_id,
        tenant_id=tenant_id,
        tier=tier,
        fence=fence,
        status=status,
        error=error,
        events=(done,),
        finished_at=at,
    )


def cancelled_before_it_began(task_id: UUID, tenant_id: UUID, tier: str, fence: int, at: datetime) -> RunFinished:
    """The end of a task that was cancelled before it ran: the same, whoever has to tell of it."""
    error = RunError(type="cancelled", message="the task was cancelled before it began")
    return ended_before_it_began(task_id, tenant_id, tier, at, "cancelled", error, fence)


DEADLINE_PASSED = RunError(type="deadline_passed", message="the task did not start before its deadline")
"""The error of a task that expired."""
