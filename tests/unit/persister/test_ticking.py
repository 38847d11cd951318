"""What is done about a schedule that is due, by a fixed clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cadence import Cadence
from persister.ticking import ON_TIME, Missed, Turn, Watch, turn

HOURLY = Cadence("0 * * * *", ZoneInfo("UTC"))
POLICIES: tuple[Missed, ...] = ("skip", "run_once")


def _at(hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tick_on_time_is_fired_and_the_next_one_comes(policy: Missed) -> None:
    assert turn(HOURLY, _at(9), _at(9, 0, 2), policy, tried=False) == Turn(_at(9), None, _at(10))


def test_what_nobody_was_there_for_is_skipped() -> None:
    assert turn(HOURLY, _at(9), _at(9, 5), "skip", tried=False) == Turn(None, (_at(9), _at(9)), _at(10))
    assert turn(HOURLY, _at(9), _at(12, 5), "skip", tried=False) == Turn(None, (_at(9), _at(12)), _at(13))


def test_or_runs_once_for_all() -> None:
    assert turn(HOURLY, _at(9), _at(9, 5), "run_once", tried=False) == Turn(_at(9), None, _at(10))
    assert turn(HOURLY, _at(9), _at(12, 5), "run_once", tried=False) == Turn(_at(12), (_at(9), _at(11)), _at(13))


@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_is_due_just_now_stands_for_those_before_it(policy: Missed) -> None:
    assert turn(HOURLY, _at(9), _at(12, 0, 1), policy, tried=False) == Turn(_at(12), (_at(9), _at(11)), _at(13))


def test_what_could_not_be_published_is_tried_until_the_next_comes() -> None:
    assert turn(HOURLY, _at(9), _at(9, 59, 59), "skip", tried=True) == Turn(_at(9), None, _at(10))
    assert turn(HOURLY, _at(9), _at(10, 0, 3), "skip", tried=True) == Turn(_at(10), (_at(9), _at(9)), _at(11))
    assert turn(HOURLY, _at(9), _at(10, 5), "skip", tried=True) == Turn(None, (_at(9), _at(10)), _at(11))


def test_what_came_while_somebody_was_there_only_waits_for_its_turn() -> None:
    """Of many thousands that are due at once some are published later than a tick may be missed by."""
    busy = timedelta(minutes=1)
    late = turn(HOURLY, _at(9), _at(9, 1, 10), "skip", watched=busy, tried=False)
    assert late == Turn(_at(9), None, _at(10))
    before = turn(HOURLY, _at(9), _at(9, 1, 20), "skip", watched=busy, tried=False)
    assert before == Turn(None, (_at(9), _at(9)), _at(10))


def test_a_watch_goes_on_while_one_looks_and_begins_anew_after_a_standstill() -> None:
    times = iter([100.0, 100.5, 110.0, 125.0, 140.5, 141.0])
    watch = Watch(lambda: next(times))
    assert [watch.look().total_seconds() for _ in range(5)] == [0.5, 10.0, 25.0, 0.0, 0.5]


CRONS = st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 9 * * 1-5", "15,45 1-3 * * *", "0 0 1 * *"])


@given(
    cron=CRONS,
    policy=st.sampled_from(POLICIES),
    tried=st.booleans(),
    begin=st.integers(0, 366 * 86_400),
    late=st.integers(0, 3 * 86_400),
    watched=st.integers(0, 600).map(lambda seconds: timedelta(seconds=seconds)),
)
@settings(deadline=None, max_examples=300)
def test_no_tick_is_forgotten_and_none_comes_twice(
    cron: str, policy: Missed, tried: bool, begin: int, late: int, watched: timedelta
) -> None:
    cadence = Cadence(cron, ZoneInfo("Europe/Vienna"))
    due = cadence.after(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=begin))
    assert due is not None
    now = due + timedelta(seconds=late)
    found = turn(cadence, due, now, policy, watched=watched, tried=tried)
    last = cadence.latest(due, now)
    settled = [*(found.missed or ()), *([found.tick] if found.tick else [])]
    assert settled[0] == due
    assert settled[-1] == last
    assert settled == sorted(settled)
    if found.missed and found.tick:
        assert cadence.after(found.missed[1]) == found.tick
    assert found.next_at == cadence.after(last)
    assert found.next_at is not None
    assert found.next_at > now
    if policy == "run_once" or now - last <= ON_TIME + watched:
        assert found.tick == last
