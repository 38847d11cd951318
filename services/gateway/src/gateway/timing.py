"""Times that a task names, held against the moment of its submission. Pure.

Not a part of the body's own check: the same request may come again long after, and then it is the same task.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from gateway.failures import invalid_field, invalid_fields
from gateway.schemas import TaskRequest

LATE = timedelta(minutes=1)
"""A start may be so long ago: clocks differ, and requests take their time."""
FURTHEST = timedelta(days=366)


def check_times(request: TaskRequest, at: datetime) -> None:
    """Refuse a start that is no plan, and a deadline that comes before it. Raises `Problem`."""
    start = request.not_before
    if start is None:
        return
    if at - start > LATE:
        raise invalid_field("not_before", "is in the past: leave it out to start at once")
    if start - at > FURTHEST:
        raise invalid_field("not_before", "is more than a year ahead: submit the task nearer to its time")
    seconds = request.deadline_seconds
    if seconds is not None and start - at >= timedelta(seconds=seconds):
        raise invalid_fields(
            {
                "not_before": f"is not before the deadline, {seconds:g} s after submission: the task would only expire",
                "deadline_seconds": "counts from submission: make it longer than the time until not_before",
            }
        )
