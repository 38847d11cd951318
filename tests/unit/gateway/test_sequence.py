"""Whatever is lost, repeated or out of order: each event comes once and in order, or a gap says so."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from common.contracts.events import BEGINNING, EventId, StreamEvent
from gateway.sequence import Gap, Sequence

_AT = datetime(2026, 1, 1, tzinfo=UTC)


def _event(fence: int, seq: int, kind: str = "token", after: EventId | None = None) -> StreamEvent:
    data = {"after": str(after) if after else None} if kind == "reset" else {}
    return StreamEvent.model_validate({"fence": fence, "seq": seq, "type": kind, "at": _AT, "data": data})


@st.composite
def _logs(draw: st.DrawFn) -> list[StreamEvent]:
    """The whole log of a run: some fences, each beginning with a reset to something that stood before it."""
    log: list[StreamEvent] = []
    standing: list[EventId] = []
    for fence in draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(_rising)):
        length = draw(st.integers(1, 6))
        if fence == 1:
            events = [_event(1, seq) for seq in range(1, length + 1)]
        else:
            kept = draw(st.integers(0, len(standing)))
            standing = standing[:kept]
            reset = _event(fence, 1, "reset", standing[-1] if standing else None)
            events = [reset, *(_event(fence, seq) for seq in range(2, length + 1))]
        log += events
        standing += [event.id for event in events]
    last = log[-1].id
    return [*log, _event(last.fence, last.seq + 1, "done")]


def _rising(steps: list[int]) -> list[int]:
    fences, fence = [], 0
    for step in steps:
        fence += step
        fences.append(fence)
    return fences


def _follows(before: EventId, event: StreamEvent) -> bool:
    if event.id == EventId(before.fence, before.seq + 1):
        return True
    if event.fence <= before.fence or event.seq != 1:
        return False
    if event.type != "reset":
        return event.fence == 1
    after = event.data["after"]
    return after is None or EventId.parse(after) <= before


@given(log=_logs(), data=st.data())
def test_any_arrival_gives_each_event_once_and_in_order_or_tells_of_a_gap(
    log: list[StreamEvent], data: st.DataObject
) -> None:
    arrivals = data.draw(st.lists(st.sampled_from(log), max_size=3 * len(log)))
    start = data.draw(st.sampled_from([BEGINNING, *(event.id for event in log)]))
    patience = data.draw(st.lists(st.booleans(), min_size=len(arrivals), max_size=len(arrivals)))
    sequence, told = Sequence(start), list[StreamEvent | Gap]()
    for event, gives_up in zip(arrivals, patience, strict=True):
        sequence.add([event])
        told += sequence.take()
        if gives_up and (gap := sequence.skip()) is not None:
            told.append(gap)
            told += sequence.take()
    last, skipped_to = start, None
    for item in told:
        if isinstance(item, Gap):
            assert item.after == last < item.before
            skipped_to = item.before
            continue
        assert item.id > last
        assert _follows(last, item) or item.id == skipped_to
        last, skipped_to = item.id, None


@given(log=_logs(), data=st.data())
def test_when_nothing_is_lost_for_good_there_is_no_gap(log: list[StreamEvent], data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([BEGINNING, *(event.id for event in log[:-1])]))
    sequence, told = Sequence(start), list[StreamEvent]()
    for event in data.draw(st.permutations(log)):
        sequence.add([event])
        told += sequence.take()
    assert not sequence.missing
    assert told[-1].type == "done"


@given(log=_logs())
def test_in_order_everything_is_given_out_at_once(log: list[StreamEvent]) -> None:
    sequence = Sequence()
    sequence.add(log)
    first = next((event for event in log if event.fence > 1), None)
    given_out = list(sequence.take())
    if log[0].fence == 1 or (first is not None and first.data["after"] is None):
        assert given_out[-1] == log[-1]
        assert not sequence.missing


def test_a_reset_makes_moot_what_is_missing_after_the_event_it_names() -> None:
    sequence = Sequence(EventId(1, 3))
    sequence.add([_event(1, 7), _event(2, 1, "reset", EventId(1, 3)), _event(2, 2)])
    assert [event.id for event in sequence.take()] == [(2, 1), (2, 2)]
    assert not sequence.missing


def test_a_reset_that_names_an_event_which_is_missing_waits_for_it() -> None:
    sequence = Sequence(EventId(1, 3))
    sequence.add([_event(2, 1, "reset", EventId(1, 4))])
    assert not list(sequence.take())
    assert sequence.missing
    sequence.add([_event(1, 4)])
    assert [event.id for event in sequence.take()] == [(1, 4), (2, 1)]


def test_giving_up_tells_what_is_missing_and_goes_on_after_it() -> None:
    sequence = Sequence(EventId(1, 3))
    sequence.add([_event(1, 6), _event(1, 7)])
    assert not list(sequence.take())
    assert sequence.skip() == Gap(EventId(1, 3), EventId(1, 6))
    assert [event.id for event in sequence.take()] == [(1, 6), (1, 7)]
    assert sequence.skip() is None


def test_where_there_is_no_room_what_is_waited_for_finds_it() -> None:
    sequence = Sequence()
    sequence.add(_event(1, seq) for seq in range(2, 6_000))
    sequence.add([_event(1, 1)])
    given_out = [event.id for event in sequence.take()]
    assert given_out == [(1, seq) for seq in range(1, len(given_out) + 1)]
    assert not sequence.missing
    assert len(given_out) == 5_000
