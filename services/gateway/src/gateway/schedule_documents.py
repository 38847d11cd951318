"""What clients read of schedules, as `/docs` describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from gateway.documents import Document


class ScheduleLinks(Document):
    """Where a client goes on."""

    self: str


class Tick(Document):
    """What became of one tick, or of several that were missed together."""

    at: datetime
    until: datetime = Field(description="the last one of those that were missed together; else the same as `at`")
    outcome: Literal["fired", "skipped", "missed"]
    reason: str | None = Field(
        description="why it has no task",
        examples=["late", "lane_full", "broker_unavailable", "too_many_outstanding", "tenant_disabled", "no_valid_key"],
    )
    task_id: UUID | None
    settled_at: datetime


class Schedule(Document):
    """A task that comes again by the clock."""

    id: UUID
    name: str | None
    cron: str
    time_zone: str
    missed: Literal["skip", "run_once"]
    enabled: bool
    task: dict[str, Any] = Field(description="as it was given")
    created_at: datetime
    updated_at: datetime
    next_at: datetime | None = Field(description="the next tick, or the one that waits; null while it is not enabled")
    waiting: str | None = Field(
        description="why the tick at `next_at` is late: it is tried until the next one comes",
        examples=["lane_full", "broker_unavailable", "internal_error", "publishing"],
    )
    last_tick: Tick | None
    links: ScheduleLinks


class ScheduleWithTicks(Schedule):
    """The same with its last ticks."""

    ticks: list[Tick] = Field(description="the last ones, newest first")


class SchedulePage(Document):
    """Some schedules, newest first."""

    items: list[Schedule]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")
