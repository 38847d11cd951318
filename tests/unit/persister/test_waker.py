"""When a waker looks again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from persister.waker import pause


def test_it_looks_when_the_next_is_due() -> None:
    assert pause(0.3) == 0.3


@given(until=st.none() | st.floats(allow_nan=False))
def test_it_never_spins_and_never_waits_longer_than_a_second(until: float | None) -> None:
    assert 0.05 <= pause(until) <= 1.0
