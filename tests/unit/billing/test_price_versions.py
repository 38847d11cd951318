"""Whatever is laid over whatever book: no time has two prices, what is wanted applies, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing.price_versions import ALWAYS, Difference, Version, difference
from billing.pricebook import BookedPrice, Rates

_LAST = 12
"""Times are whole days from the beginning; the last stands for all that comes after."""


def _day(number: int) -> datetime:
    return ALWAYS + timedelta(days=number)


def _rates(number: int) -> Rates:
    return Rates(*[Decimal(number)] * 5)


@st.composite
def lines(draw: st.DrawFn, source: str, *, booked: bool = False) -> list[Version]:
    """Versions of one model that do not overlap, with gaps or without."""
    bounds = sorted(draw(st.sets(st.integers(0, _LAST), max_size=6)))
    numbers = count(1)
    return [
        Version(
            "openai",
            "m",
            _rates(draw(st.integers(1, 3))),
            _day(begin),
            None if end == _LAST else _day(end),
            source,
            next(numbers) if booked else None,
        )
        for begin, end in pairwise(bounds)
        if draw(st.booleans())
    ]


books = lines("book", booked=True)
wishes = lines("own")
bundles = st.lists(st.builds(BookedPrice, st.just("openai"), st.just("m"), st.builds(_rates, st.integers(1, 3)),
                             st.just("bundle")), max_size=1)  # fmt: skip
days = st.integers(0, _LAST - 1)


def _at(book: list[Version], day: int) -> Rates | None:
    found = [one.rates for one in book if one.covers(_day(day))]
    assert len(found) <= 1, "a time has two prices"
    return found[0] if found else None


def _applied(book: list[Version], change: Difference) -> list[Version]:
    """As the database does it."""
    numbers = count(1000)
    gone = {one.price_id for one in change.superseded}
    new = [replace(one, price_id=next(numbers)) for one in change.recorded]
    return [one for one in book if one.price_id not in gone] + new


@given(books, bundles, wishes, days)
def test_what_is_wanted_applies_and_nothing_else_changes(
    book: list[Version], bundle: list[BookedPrice], own: list[Version], effective: int
) -> None:
    after = _applied(book, difference(book, bundle, own, _day(effective)))
    begin = effective if book else 0
    for day in range(_LAST + 1):
        offered = bundle[0].rates if bundle and day >= begin else None
        assert _at(after, day) == (_at(own, day) or offered or _at(book, day))


@given(books, bundles, wishes, days)
def test_what_was_applied_is_not_to_be_applied_again(
    book: list[Version], bundle: list[BookedPrice], own: list[Version], effective: int
) -> None:
    after = _applied(book, difference(book, bundle, own, _day(effective)))
    # A model that had no price got the bundle's from the beginning: it is asked for from then on, too.
    again = difference(after, bundle, own, _day(effective))
    assert again == Difference((), (), ())


@given(books, bundles, wishes, days)
def test_the_changes_that_are_shown_are_all_that_is_written(
    book: list[Version], bundle: list[BookedPrice], own: list[Version], effective: int
) -> None:
    found = difference(book, bundle, own, _day(effective))
    after = _applied(book, found)
    assert bool(found.changes) == bool(found.recorded)
    assert bool(found.changes) or not found.superseded
    for day in range(_LAST + 1):
        shown = [one for one in found.changes if one.valid_from <= _day(day) < (one.valid_until or _day(_LAST + 1))]
        changed = _at(book, day) != _at(after, day)
        assert [(one.before, one.after) for one in shown] == ([(_at(book, day), _at(after, day))] if changed else [])


@given(books, wishes, st.integers(4, 6))
def test_a_digest_is_of_this_change_alone(book: list[Version], own: list[Version], rate: int) -> None:
    found = difference(book, [], own, ALWAYS)
    assert found.digest == difference(list(reversed(book)), [], list(reversed(own)), ALWAYS).digest
    for number, one in enumerate(own):
        other = [*own[:number], replace(one, rates=_rates(rate)), *own[number + 1 :]]
        assert difference(book, [], other, ALWAYS).digest != found.digest


def test_a_price_for_a_time_keeps_what_was_before_and_after() -> None:
    book = [Version("openai", "m", _rates(1), ALWAYS, None, "seed", 7)]
    own = [Version("openai", "m", _rates(2), _day(3), _day(5), "contract")]
    found = difference(book, [], own, ALWAYS)
    assert [one.price_id for one in found.superseded] == [7]
    assert [(one.rates, one.valid_from, one.valid_until, one.source) for one in found.recorded] == [
        (_rates(1), ALWAYS, _day(3), "seed"),
        (_rates(2), _day(3), _day(5), "contract"),
        (_rates(1), _day(5), None, "seed"),
    ]
    (change,) = found.changes
    assert (change.before, change.after, change.valid_from, change.valid_until) == (
        _rates(1),
        _rates(2),
        _day(3),
        _day(5),
    )


def test_a_bundle_with_the_same_rates_changes_nothing_whatever_its_version() -> None:
    book = [Version("openai", "m", _rates(1), ALWAYS, None, "bundle 1", 7)]
    bundle = [BookedPrice("openai", "m", replace(_rates(1), input=Decimal("1.000")), "bundle 2")]
    assert difference(book, bundle, [], _day(3)) == Difference((), (), ())
