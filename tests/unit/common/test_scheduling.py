"""A schedule's message, as the task of one tick."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest

from common.contracts import TaskSubmitted
from common.contracts.identifiers import scheduled_task_id
from common.contracts.tasks import InputMessage
from common.scheduling import given_up, task_of_tick

SCHEDULE = UUID("0199a000-0000-7000-8000-000000000001")
TICK = datetime(2026, 3, 1, 9, tzinfo=UTC)


def _template(deadline: float | None = None) -> TaskSubmitted:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    return TaskSubmitted(
        task_id=uuid4(),
        tenant_id=uuid4(),
        tier="pro",
        level=15,
        priority=7,
        agent="default",
        input=(InputMessage(role="user", content="What is new?"),),
        metadata={"order": "4711"},
        deadline_at=None if deadline is None else made + timedelta(seconds=deadline),
        request_hash="0" * 64,
        submitted_at=made,
    )


def test_a_tick_has_one_task_whoever_asks_and_wherever_his_clock_stands() -> None:
    here = TICK.astimezone(timezone(timedelta(hours=2)))
    assert scheduled_task_id(SCHEDULE, TICK) == scheduled_task_id(SCHEDULE, here)
    assert scheduled_task_id(SCHEDULE, TICK) == UUID("54348a19-e7a1-5cee-8eda-d609198d953a")
    others = {scheduled_task_id(SCHEDULE, TICK + timedelta(minutes=n)) for n in range(100)}
    assert len(others) == 100
    assert scheduled_task_id(uuid4(), TICK) not in others


def test_each_tick_has_its_own_id_time_tier_level_and_deadline() -> None:
    template, at = _template(deadline=600), TICK + timedelta(seconds=1)
    task = task_of_tick(template, SCHEDULE, TICK, tier="free", level=29, at=at)
    assert (task.task_id, task.tier, task.level) == (scheduled_task_id(SCHEDULE, TICK), "free", 29)
    assert (task.submitted_at, task.deadline_at) == (at, at + timedelta(minutes=10))
    own = {"schedule_id": str(SCHEDULE), "scheduled_for": "2026-03-01T09:00:00+00:00"}
    assert task.metadata == {"order": "4711"} | own
    same = ("tenant_id", "priority", "agent", "input", "request_hash")
    assert all(getattr(task, name) == getattr(template, name) for name in same)
    assert TaskSubmitted.decode(task.encode()) == task


def test_without_a_deadline_there_is_none() -> None:
    assert task_of_tick(_template(), SCHEDULE, TICK, tier="pro", level=1, at=TICK).deadline_at is None


@pytest.mark.parametrize(
    ("reason", "type_", "words"),
    [
        ("lane_full", "lane_full", "took no more tasks"),
        ("broker_unavailable", "broker_unavailable", "broker did not answer"),
        ("internal_error", "internal_error", "error of ours"),
        ("publishing", "publishing", "not known"),
        ("deadline_passed", "deadline_passed", "deadline"),
        ("tenant_disabled", "tenant_disabled", "disabled"),
        ("unusable: no such field", "unusable_schedule", "unusable: no such field"),
    ],
)
def test_what_is_given_up_has_failed_as_the_same_task_and_says_why(reason: str, type_: str, words: str) -> None:
    end = given_up(SCHEDULE, TICK, uuid4(), "pro", reason)
    assert (end.task_id, end.status) == (scheduled_task_id(SCHEDULE, TICK), "failed")
    assert end.error is not None
    assert end.error.type == type_
    assert words in end.error.message
