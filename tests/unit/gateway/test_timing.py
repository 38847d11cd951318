"""Times that a task names, against the moment of its submission."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.problems import Problem
from gateway.schemas import TASK_REQUEST, TaskRequest
from gateway.timing import FURTHEST, LATE, check_times

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
SECONDS = st.floats(-1e9, 1e9).map(lambda seconds: timedelta(seconds=seconds))


def _request(start: datetime | None, **fields: Any) -> TaskRequest:
    document = {"input": "x", **fields} | ({"not_before": start.isoformat()} if start else {})
    return TASK_REQUEST.validate_json(json.dumps(document))


def _refused(request: TaskRequest) -> list[str]:
    """The fields that are at fault."""
    try:
        check_times(request, NOON)
    except Problem as problem:
        return [error["field"] for error in problem.errors or ()]
    return []


@pytest.mark.parametrize("start", [None, NOON, NOON - LATE, NOON + timedelta(days=1), NOON + FURTHEST])
def test_a_start_that_is_a_plan_is_accepted(start: datetime | None) -> None:
    assert _refused(_request(start)) == []


def test_a_start_long_ago_or_far_ahead_is_refused() -> None:
    assert _refused(_request(NOON - timedelta(hours=1))) == ["not_before"]
    assert _refused(_request(NOON + timedelta(days=400))) == ["not_before"]


def test_a_start_after_the_deadline_is_refused_and_both_are_named() -> None:
    start = NOON + timedelta(hours=1)
    assert _refused(_request(start, deadline_seconds=3600)) == ["not_before", "deadline_seconds"]
    assert _refused(_request(start, deadline_seconds=3601)) == []


@given(ahead=SECONDS, deadline=st.none() | st.floats(1, 30 * 86_400))
def test_what_is_accepted_can_start_before_it_expires(ahead: timedelta, deadline: float | None) -> None:
    start = NOON + ahead
    request = _request(start, deadline_seconds=deadline)
    if not _refused(request):
        assert -LATE <= start - NOON <= FURTHEST
        assert deadline is None or start < NOON + timedelta(seconds=deadline)
