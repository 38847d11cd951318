"""Contracts become rows; what a batch says twice of one task becomes one row."""

from __future__ import annotations

from uuid import uuid4

from common.contracts.runs import RunError
from persister import rows
from tests.integration.persister.story import ANSWER, START, Story

STORY = Story(uuid4(), uuid4())


def test_a_submission_and_an_end_make_one_row_in_any_order_and_number() -> None:
    (row,) = rows.tasks([STORY.submitted(), STORY.submitted(tier="pro")], [STORY.finished(), STORY.finished(fence=2)])
    assert (row.tier, row.submitted_at, row.status, row.output) == ("free", START, "completed", ANSWER)


def test_the_first_of_several_ends_counts() -> None:
    failed = STORY.finished(status="failed", error=RunError(type="budget_exceeded", message="No."), output=None)
    (row,) = rows.tasks([], [failed, STORY.finished(fence=2)])
    assert (row.status, row.error_type, row.output) == ("failed", "budget_exceeded", None)


def test_what_was_given_and_what_was_produced_never_share_a_number() -> None:
    given = {row.seq for row in rows.given(STORY.submitted())}
    produced = {row.seq for row in rows.produced(STORY.finished())}
    assert given == {0}
    assert produced == {rows.PRODUCED_FROM}


def test_events_keep_their_place() -> None:
    message = STORY.progressed(STORY.event(1, "start", agent="default"), STORY.event(2, fence=2))
    assert [(row.fence, row.seq, row.type, row.data) for row in rows.events(message)] == [
        (1, 1, "start", '{"agent":"default"}'),
        (2, 2, "token", "{}"),
    ]
