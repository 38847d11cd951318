"""What a replay is said to have done is what was recorded of it."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from benchmarks.replay.report import BUSY, FULL, REST, Replayed, figures, tiers_table
from benchmarks.replay.summary import Ended, TierSummary, middle, summary

ONE, OTHER = uuid4(), uuid4()
TIERS = ("enterprise", "pro", "free")


def _ended(tier: str, wait: float, ran: float = 1.0, tenant: UUID = ONE, *, in_time: bool = True) -> Ended:
    return Ended(tenant, tier, wait, wait + 0.5, ran, in_time)


def _replayed(enterprise: float, free_in_time: int = 1, lost: int = 0, failed: int = 0) -> Replayed:
    ended = [_ended("enterprise", enterprise), _ended("enterprise", enterprise)]
    ended += [_ended("free", 9.0, in_time=place < free_in_time) for place in range(3)]
    return Replayed(summary(ended, {"free": 2}, TIERS), lost, failed)


def test_each_tier_is_summed_up_by_itself() -> None:
    ended = [
        _ended("enterprise", 0.1, ran=6.0),
        _ended("free", 1.0, ran=1.0),
        _ended("free", 2.0, ran=2.0, in_time=False),
        _ended("free", 10.0, ran=1.0, tenant=OTHER),
    ]

    found = summary(ended, {"free": 3}, TIERS)

    assert list(found) == ["enterprise", "free"]
    assert found["enterprise"].waits == (0.1, 0.1, 0.1)
    assert (found["enterprise"].share, found["free"].share) == (0.6, 0.4)
    assert found["free"].waits[0] == 2.0
    assert found["free"].first_tokens[0] == 2.5
    assert (found["free"].tasks, found["free"].refused, found["free"].ended_in_time) == (3, 3, 2)
    assert found["free"].unfairness == pytest.approx(10 / 5.75)  # tenants' medians: 1.5 and 10


def test_a_task_that_said_nothing_has_a_wait_and_no_first_token() -> None:
    found = summary([Ended(ONE, "pro", 0.2, None, 1.0, True)], {}, TIERS)

    assert found["pro"].waits == (0.2, 0.2, 0.2)
    assert found["pro"].first_tokens == ()


def test_several_replays_are_told_by_the_median_of_each_number() -> None:
    runs = [
        TierSummary(tasks, 0, (wait, wait, wait), (wait,), 0.5, wait, tasks)
        for tasks, wait in ((10, 3.0), (20, 1.0), (30, 2.0))
    ]

    assert middle(runs) == TierSummary(20, 0, (2.0, 2.0, 2.0), (2.0,), 0.5, 2.0, 20)


def test_the_table_has_a_row_for_each_tier_that_was_served_at_each_load() -> None:
    text = tiers_table({REST: [_replayed(0.01)], FULL: [_replayed(0.02)]}, TIERS)

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert [row[:2] for row in rows[2:]] == [
        ["40 %", "enterprise"],
        ["40 %", "free"],
        ["120 %", "enterprise"],
        ["120 %", "free"],
    ]
    assert rows[2][2:6] == ["2", "0", "10 / 10 / 10", "510 / 510 / 510"]
    assert rows[3][2:] == ["3", "2", "9,000 / 9,000 / 9,000", "9,500 / 9,500 / 9,500", "60.0 %", "1 ×"]


@pytest.mark.parametrize(
    ("full", "missed"),
    [
        (_replayed(0.02), set()),
        (_replayed(0.03), {f"enterprise wait p{percent} at 120 %, against 40 %" for percent in (50, 95, 99)}),
        (_replayed(0.01, free_in_time=0), {"free runs that ended at 120 % while requests came"}),
        (_replayed(0.01, lost=1), {"accepted and lost, all loads"}),
        (_replayed(0.01, failed=2), {"accepted and failed, all loads"}),
    ],
)
def test_what_is_asked_of_an_overload_is_missed_where_it_is(full: Replayed, missed: set[str]) -> None:
    quiet = _replayed(0.01)

    found = figures({REST: [quiet], BUSY: [quiet], FULL: [full]})

    assert {figure.name for figure in found if figure.verdict == "MISSED"} == missed
