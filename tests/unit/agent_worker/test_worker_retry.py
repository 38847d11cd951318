from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.providers.base import PermanentError, ProviderError, TransientError
from agent_worker.resilience.circuit import CircuitOpenError
from agent_worker.resilience.retry import Failures, Retry

SOURCE = random.Random(1)
FAILED = TransientError("x", "y")


def test_gives_up_on_what_will_not_heal() -> None:
    assert Retry().delay(Failures(1), PermanentError("bad", "no"), SOURCE) is None


@pytest.mark.parametrize(("failures", "again"), [(1, True), (3, True), (4, False), (5, False)])
def test_gives_up_after_so_many_calls(failures: int, again: bool) -> None:
    assert (Retry(calls=4).delay(Failures(failures), FAILED, SOURCE) is not None) is again


@pytest.mark.parametrize(("failures", "again"), [(1, True), (2, False)])
def test_gives_up_earlier_where_another_model_may_answer(failures: int, again: bool) -> None:
    assert (Retry(calls=4).delay(Failures(failures, fallback=True), FAILED, SOURCE) is not None) is again


@pytest.mark.parametrize(("wish", "again"), [(0.5, True), (2.0, True), (2.5, False)])
def test_nobody_waits_long_where_another_model_may_answer(wish: float, again: bool) -> None:
    error = TransientError("rate_limited", "", retry_after=wish)
    assert (Retry(patience=2).delay(Failures(1, fallback=True), error, SOURCE) is not None) is again
    assert Retry(patience=2).delay(Failures(1), error, SOURCE) is not None


def test_a_model_that_is_left_alone_is_waited_for_only_where_no_other_may_answer() -> None:
    error = CircuitOpenError("m", 0.1)
    assert Retry().delay(Failures(1, fallback=True), error, SOURCE) is None
    delay = Retry().delay(Failures(1), error, SOURCE)
    assert delay is not None
    assert delay >= 0.1


@pytest.mark.parametrize(("retries", "again"), [(11, True), (12, False), (30, False)])
def test_a_run_has_a_budget_of_retries(retries: int, again: bool) -> None:
    assert (Retry(budget=12).delay(Failures(1, retries), FAILED, SOURCE) is not None) is again


@given(st.integers(1, 30), st.none() | st.floats(0, 1e9), st.integers())
def test_delays_are_bounded_and_honour_the_provider(failures: int, wish: float | None, seed: int) -> None:
    retry = Retry(calls=100)
    error: ProviderError = TransientError("x", "y", retry_after=wish)
    delay = retry.delay(Failures(failures), error, random.Random(seed))
    assert delay is not None
    assert 0 <= delay <= retry.cap
    assert delay >= min(wish or 0, retry.cap)


@given(st.integers(1, 9), st.integers(0, 20), st.booleans(), st.none() | st.floats(0, 100), st.integers())
def test_a_fallback_or_a_spent_budget_never_makes_for_more_calls(
    failures: int, retries: int, fallback: bool, wish: float | None, seed: int
) -> None:
    error = TransientError("x", "y", retry_after=wish)
    alone = Retry().delay(Failures(failures), error, random.Random(seed))
    delay = Retry().delay(Failures(failures, retries, fallback), error, random.Random(seed))
    assert delay is None or delay == alone
