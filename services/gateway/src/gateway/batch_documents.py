"""What clients read of many tasks at once, as `/docs` describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from common.contracts.runs import Status
from gateway.documents import MONEY, Document, Fallback, Routing, TaskError


class BatchLinks(Document):
    """Where a client goes on."""

    self: str
    events: str
    results: str
    cancel: str


class BatchedTask(Document):
    """What became of the submission of one task."""

    index: int = Field(description="its place in the batch, from 0")
    id: UUID
    tier: str
    status: Literal["accepted", "refused", "unsent", "unknown"]
    reason: str | None = Field(default=None, description="why it is not `accepted`")


class BatchSubmitted(Document):
    """A batch, and which of its tasks were accepted."""

    id: UUID
    created_at: datetime
    size: int
    complete: bool = Field(description="whether all of them were")
    tasks: list[BatchedTask]
    links: BatchLinks


class BatchCounts(Document):
    """How many tasks have which status."""

    queued: int
    running: int
    parked: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    unrecorded: int = Field(description="submitted a moment ago, or not accepted")


class BatchProgress(Document):
    """How far a batch is."""

    ended: int
    total: int
    fraction: float


class BatchTask(Document):
    """One task among the others."""

    index: int
    id: UUID
    status: Status | Literal["unrecorded"]


class BatchTasks(Document):
    """Some tasks, in the order in which they were submitted."""

    items: list[BatchTask]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class Batch(Document):
    """A batch as it is now."""

    id: UUID
    created_at: datetime
    size: int
    counts: BatchCounts
    progress: BatchProgress
    cost_usd: str = MONEY
    cost_final: bool = Field(description="whether all tasks have ended and every model call is settled")
    tasks: BatchTasks
    links: BatchLinks


class BatchResult(Document):
    """How a task ended, or how far it is."""

    index: int
    id: UUID
    status: Status | Literal["unrecorded"]
    output: str | None
    parsed: Any
    cached: bool | None
    error: TaskError | None
    usage: dict[str, Any] | None
    model: str | None
    routing: Routing | None
    fallbacks: list[Fallback] | None
    steps: int | None
    attempts: int
    cost_usd: str | None = MONEY
    started_at: datetime | None
    finished_at: datetime | None


class BatchResults(Document):
    """Some results, in the order in which the tasks were submitted."""

    items: list[BatchResult]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class BatchCancelled(Document):
    """What is true of the tasks of a batch that was to be cancelled; the four add up to its size."""

    id: UUID
    as_of: datetime
    cancelled: int = Field(description="will not run any more")
    cancelling: int = Field(description="run, and are being stopped")
    already_ended: int
    pending: int = Field(description="recorded nowhere yet: those that were accepted never begin")


class TasksCancelled(Document):
    """What became of the tasks that a cancel reached."""

    id: UUID = Field(description="of the cancel")
    as_of: datetime = Field(description="tasks that were created after this are not covered")
    cancelled: int
    cancelling: int
    already_ended: int
    complete: bool = Field(description="whether all was reached; otherwise the rest follows without another request")
