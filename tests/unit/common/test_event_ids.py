"""An event id is `<fence>-<seq>`, orders as the stream does, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.events import BEGINNING, LARGEST, EventId

numbers = st.integers(min_value=0, max_value=LARGEST)
ids = st.builds(EventId, numbers, numbers)


@given(ids)
def test_text_and_back(event_id: EventId) -> None:
    assert EventId.parse(str(event_id)) == event_id


@given(ids, ids)
def test_a_later_fence_sorts_after_all_of_an_earlier_one(one: EventId, other: EventId) -> None:
    assert (one < other) == (one.fence < other.fence or (one.fence == other.fence and one.seq < other.seq))
    assert one >= BEGINNING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "-",
        "1-",
        "-1",
        "1-2-3",
        "a-1",
        "1-b",
        "+1-2",
        " 1-2",
        "1-٣",
        "9" * 39 + "-1",
        "2147483648-1",
        "1-2147483648",
    ],
)
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an event id"):
        EventId.parse(text)
