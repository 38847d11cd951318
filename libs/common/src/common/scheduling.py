"""What a schedule's task is at each tick. Pure: the gateway makes the message, the persister publishes it each time."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from common.contracts.identifiers import scheduled_task_id
from common.contracts.runs import RunError, ended_before_it_began

SCHEDULE_ID, SCHEDULED_FOR = "schedule_id", "scheduled_for"
OWN_METADATA = frozenset({SCHEDULE_ID, SCHEDULED_FOR})
"""Each task of a schedule has these pairs beside its tenant's."""

LANE_FULL = "lane_full"
"""Why a tick waits: each time its lane has refused its task, and surely has no message of it."""
PUBLISHING = "publishing"
"""Why a tick waits: it is tried once more at this moment. As with all other reasons its lane may have its task."""


def task_of_tick(
    template: TaskSubmitted, schedule: UUID, tick: datetime, *, tier: str, level: int, at: datetime
) -> TaskSubmitted:
    """The schedule's message as this tick's task, submitted at that moment: a deadline counts from there.

    It is the same each time it is tried, with the moment of its first try.
    """
    deadline = template.deadline_at
    return template.model_copy(
        update={
            "task_id": scheduled_task_id(schedule, tick),
            "tier": tier,
            "level": level,
            "submitted_at": at,
            "deadline_at": None if deadline is None else at + (deadline - template.submitted_at),
            "metadata": template.metadata | {SCHEDULE_ID: str(schedule), SCHEDULED_FOR: tick.isoformat()},
        }
    )


def given_up(schedule: UUID, tick: datetime, tenant_id: UUID, tier: str) -> RunFinished:
    """The end of a task that could not be published. The record may have a copy of what its lane refused."""
    error = RunError(type="lane_full", message="the lane took no more tasks while the schedule's tick was due")
    return ended_before_it_began(scheduled_task_id(schedule, tick), tenant_id, tier, now(), "failed", error)
