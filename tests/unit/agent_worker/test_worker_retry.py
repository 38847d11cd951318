from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.providers.base import PermanentError, ProviderError, TransientError
from agent_worker.resilience.retry import Retry


def test_gives_up_on_what_will_not_heal() -> None:
    assert Retry().delay(1, PermanentError("bad", "no"), random.Random(1)) is None


@pytest.mark.parametrize(("failures", "again"), [(1, True), (3, True), (4, False), (5, False)])
def test_gives_up_after_so_many_calls(failures: int, again: bool) -> None:
    delay = Retry(calls=4).delay(failures, TransientError("x", "y"), random.Random(1))
    assert (delay is not None) is again


@given(st.integers(1, 30), st.none() | st.floats(0, 1e9), st.integers())
def test_delays_are_bounded_and_honour_the_provider(failures: int, wish: float | None, seed: int) -> None:
    retry = Retry(calls=100)
    error: ProviderError = TransientError("x", "y", retry_after=wish)
    delay = retry.delay(failures, error, random.Random(seed))
    assert delay is not None
    assert 0 <= delay <= retry.cap
    assert delay >= min(wish or 0, retry.cap)
