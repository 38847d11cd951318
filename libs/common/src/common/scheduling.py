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

    It has the same id each time it is tried, and the moment of its first try as far as that was recorded: where the
    persister died before, it is submitted at a later moment, and only one of the two is ever run.
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


_WHY = {
    LANE_FULL: "the lane took no more tasks while the schedule's tick was due",
    PUBLISHING: "it is not known whether the lane took the task while the schedule's tick was due",
    "broker_unavailable": "the broker did not answer while the schedule's tick was due",
    "internal_error": "an error of ours kept the schedule's tick from being published",
    "deadline_passed": "the task could not be published by its deadline",
    "too_many_outstanding": "the tenant had too many tasks outstanding when the schedule's tick was tried again",
    "tenant_disabled": "the tenant was disabled when the schedule's tick was tried again",
    "no_valid_key": "the tenant had no valid key when the schedule's tick was tried again",
    "tier_not_allowed": "the tier was above the user's when the schedule's tick was tried again",
}


def given_up(schedule: UUID, tick: datetime, tenant_id: UUID, tier: str, reason: str) -> RunFinished:
    """The end of a task that is not tried again, for the reason that its tick has. The record may have a copy of it."""
    known = _WHY.get(reason)
    error = RunError(type=reason, message=known) if known else RunError(type="unusable_schedule", message=reason)
    return ended_before_it_began(scheduled_task_id(schedule, tick), tenant_id, tier, now(), "failed", error)
