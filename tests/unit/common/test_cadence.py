"""Ticks by fixed clocks: what changes of the clock do to them, and what is no schedule at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cadence import Cadence, CadenceError, cadence

VIENNA = "Europe/Vienna"
ZONES = ("UTC", VIENNA, "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago", "Asia/Kathmandu")


def ticks(cron: str, begin: str, end: str, zone: str = VIENNA) -> list[str]:
    """The ticks of a stretch of time that is given in UTC, by the wall clock with its offset."""
    made, moment, last = cadence(cron, zone), _utc(begin), _utc(end)
    found: list[str] = []
    while (tick := made.after(moment)) is not None and tick < last:
        found.append(tick.astimezone(made.zone).strftime("%d %H:%M%z"))
        moment = tick
    return found


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_weekdays_at_nine_by_the_wall_clock_in_summer_and_in_winter() -> None:
    assert ticks("0 9 * * 1-5", "2026-03-26", "2026-03-31") == [
        "26 09:00+0100",
        "27 09:00+0100",
        "30 09:00+0200",
    ]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        # The clock goes from 02:00 to 03:00. What is fixed comes right after the gap, and once.
        ("30 2 * * *", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]),
        ("0,30 2 * * *", ["28 02:00+0100", "28 02:30+0100", "29 03:00+0200", "30 02:00+0200", "30 02:30+0200"]),
        ("30 3 * * *", ["28 03:30+0100", "29 03:30+0200", "30 03:30+0200"]),
    ],
)
def test_an_hour_that_does_not_exist(cron: str, expected: list[str]) -> None:
    assert ticks(cron, "2026-03-27T23:00", "2026-03-30T12:00")[: len(expected)] == expected


def test_what_repeats_has_no_tick_in_an_hour_that_does_not_exist() -> None:
    assert ticks("30 * * * *", "2026-03-29T00:00", "2026-03-29T02:00") == ["29 01:30+0100", "29 03:30+0200"]
    quarters = ["29 01:45+0100", "29 03:00+0200", "29 03:15+0200"]
    assert ticks("*/15 * * * *", "2026-03-29T00:40", "2026-03-29T01:20") == quarters


def test_an_hour_that_comes_twice() -> None:
    """From 03:00 back to 02:00: what is fixed comes the first time, what repeats comes both times."""
    assert ticks("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00") == ["25 02:30+0200", "26 02:30+0100"]
    assert ticks("30 * * * *", "2026-10-25T00:00", "2026-10-25T02:00") == ["25 02:30+0200", "25 02:30+0100"]


def test_the_second_of_two_equal_hours_does_not_go_back_to_the_first() -> None:
    within_the_second = "2026-10-25T01:10"
    assert ticks("30 2 * * *", within_the_second, "2026-10-26T12:00") == ["26 02:30+0100"]


def test_a_leap_day_comes_when_it_comes() -> None:
    assert cadence("0 0 29 2 *", "UTC").after(_utc("2026-01-01")) == _utc("2028-02-29")


def test_names_of_days_and_months_and_either_case() -> None:
    assert ticks("0 9 * jan Mon-wed", "2026-01-01", "2026-01-08", "UTC") == [
        f"{day:02} 09:00+0000" for day in (5, 6, 7)
    ]


@pytest.mark.parametrize(
    ("cron", "zone", "field", "reason"),
    [
        ("", "UTC", "cron", "has 0 fields"),
        ("* * * *", "UTC", "cron", "has 4 fields; write 5: minute, hour"),
        ("* * * * * *", "UTC", "cron", "no schedule ticks more often than each minute"),
        ("@daily", "UTC", "cron", "has 1 fields"),
        ("60 * * * *", "UTC", "cron", "the minute is not one that ever comes; write minute"),
        ("* 24 * * *", "UTC", "cron", "the hour is not one"),
        ("* * 0 * *", "UTC", "cron", "the day of month is not one"),
        ("* * * foo *", "UTC", "cron", "the month is not one"),
        ("* * * * 8", "UTC", "cron", "the day of week is not one"),
        ("*/0 * * * *", "UTC", "cron", "the minute is not one"),
        ("5-1 * * * *", "UTC", "cron", "the minute is not one"),
        ("1,,2 * * * *", "UTC", "cron", "the minute is not one"),
        ("²L * * * *", "UTC", "cron", "the minute is not one"),
        ("0 0 30 2 *", "UTC", "cron", "the day of month is not one"),
        ("0 0 * 2 1#5,", "UTC", "cron", "the day of week is not one"),
        ("0 0 " + "1," * 200 + "1 * *", "UTC", "cron", "more than 200 characters"),
        ("0 9 * * *", "Europe/Wien", "time_zone", "no time zone 'Europe/Wien'"),
        ("0 9 * * *", "", "time_zone", "name one of IANA's"),
        ("0 9 * * *", "../../etc/passwd", "time_zone", "no time zone"),
        ("0 9 * * *", "Europe", "time_zone", "no time zone"),
        ("0 9 * * *", "+02:00", "time_zone", "no time zone"),
    ],
)
def test_what_is_no_schedule_says_what_is_wrong_with_which_field(cron: str, zone: str, field: str, reason: str) -> None:
    with pytest.raises(CadenceError) as caught:
        cadence(cron, zone)
    assert caught.value.field == field
    assert reason in caught.value.reason


def _field(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field, and the numbers that it stands for."""
    every = frozenset(range(low, high + 1))
    values = st.integers(low, high)
    spans = (
        st.tuples(values, values)
        .map(sorted)
        .map(lambda two: (f"{two[0]}-{two[1]}", frozenset(range(two[0], two[1] + 1))))
    )
    steps = st.integers(1, high).map(lambda step: (f"*/{step}", frozenset(range(low, high + 1, step))))
    lists = st.frozensets(values, min_size=1, max_size=4).map(lambda some: (",".join(map(str, sorted(some))), some))
    return st.just(("*", every)) | spans | steps | lists


MINUTES, HOURS = _field(0, 59), _field(0, 23)
MOMENTS = st.integers(0, 4 * 366 * 86_400_000).map(
    lambda ms: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)


@given(minute=MINUTES, hour=HOURS, weekday=_field(0, 6), moment=MOMENTS)
@settings(deadline=None)
def test_in_utc_the_ticks_are_exactly_the_minutes_that_the_expression_names(
    minute: tuple[str, frozenset[int]],
    hour: tuple[str, frozenset[int]],
    weekday: tuple[str, frozenset[int]],
    moment: datetime,
) -> None:
    made = Cadence(f"{minute[0]} {hour[0]} * * {weekday[0]}", ZoneInfo("UTC"))
    end = moment + timedelta(hours=30)
    first = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
    named = [
        at
        for at in (first + timedelta(minutes=n) for n in range(30 * 60 + 1))
        if at <= end and at.minute in minute[1] and at.hour in hour[1] and at.isoweekday() % 7 in weekday[1]
    ]
    assert list(takewhile(lambda tick: tick <= end, _following(made, moment))) == named


@given(minute=MINUTES, hour=HOURS, zone=st.sampled_from(ZONES), moment=MOMENTS, into=st.integers(0, 999))
@settings(deadline=None, max_examples=300)
def test_ticks_strictly_increase_and_are_the_same_from_wherever_one_looks(
    minute: tuple[str, frozenset[int]], hour: tuple[str, frozenset[int]], zone: str, moment: datetime, into: int
) -> None:
    made = Cadence(f"{minute[0]} {hour[0]} * * *", ZoneInfo(zone))
    found = [tick for tick, _ in zip(_following(made, moment), range(30), strict=False)]
    assert moment < found[0]
    for before, after in pairwise(found):
        assert before < after
        assert made.after(before + (after - before) * into / 1000) == after
        assert made.latest(found[0], before + (after - before) * into / 1000) == before


@given(minute=MINUTES, hour=HOURS, zone=st.sampled_from(ZONES), moment=MOMENTS)
@settings(deadline=None, max_examples=300)
def test_a_tick_is_named_by_the_expression_or_comes_right_after_a_gap(
    minute: tuple[str, frozenset[int]], hour: tuple[str, frozenset[int]], zone: str, moment: datetime
) -> None:
    made = Cadence(f"{minute[0]} {hour[0]} * * *", ZoneInfo(zone))
    for tick, _ in zip(_following(made, moment), range(30), strict=False):
        local = tick.astimezone(made.zone)
        before = (tick - timedelta(minutes=1)).astimezone(made.zone)
        after_a_gap = before.utcoffset() != local.utcoffset()
        assert after_a_gap or (local.minute in minute[1] and local.hour in hour[1])
        assert (local.second, local.microsecond) == (0, 0)


@given(days=st.integers(0, 2_000), cron=st.sampled_from(["* * * * *", "0 9 * * 1-5", "0 0 1 1 *", "0 0 29 2 *"]))
@settings(deadline=None, max_examples=50)
def test_the_last_of_many_ticks_is_found_however_long_ago_the_first_was(days: int, cron: str) -> None:
    made = Cadence(cron, ZoneInfo(VIENNA))
    first = made.after(_utc("2021-03-01"))
    assert first is not None
    now = first + timedelta(days=days)
    last = made.latest(first, now)
    following = made.after(last)
    assert first <= last <= now
    assert following is not None
    assert following > now


def _following(made: Cadence, moment: datetime) -> Iterator[datetime]:
    while (tick := made.after(moment)) is not None:
        yield tick
        moment = tick
