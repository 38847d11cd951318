"""What a run does that does not fit into a budget, whatever the amounts, the times and the task's wish."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.budgets import BudgetExceededError, OnBudget, ParkedForBudgetError, Patience, consider, key_of
from agent_worker.leave import Leave
from agent_worker.obstacles import Obstacle

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AMOUNTS = st.decimals(0, 1000, places=10)
SECONDS = st.floats(0, 10_000)
SCOPES = st.sampled_from(["conversation", "run", "tenant_day", "tenant_month", "user_day"])
ON_BUDGET: st.SearchStrategy[OnBudget] = st.sampled_from(["fail", "wait", "park"])
# What it waits for in its slot is the shortest.
PATIENCE = st.tuples(SECONDS, SECONDS, SECONDS).map(sorted).flatmap(
    lambda three: st.permutations(three[1:]).map(lambda two: Patience(two[0], two[1], in_slot=three[0]))
)  # fmt: skip


def leaves(verdict: Literal["wait", "exceeded"]) -> st.SearchStrategy[Leave]:
    return st.builds(
        Leave,
        verdict=st.just(verdict),
        scope=SCOPES,
        amount=AMOUNTS,
        cap=AMOUNTS,
        subject=st.text(max_size=5),
        missing=AMOUNTS,
        renews_at=st.none() | st.just(NOW + timedelta(hours=3)),
        waited=st.none() | SECONDS,
    )


def outcome(leave: Leave, on_budget: OnBudget, patience: Patience, own_cap: Decimal | None = None) -> Any:
    """None where it is to look again, the obstacle where it parks, the error where it ends."""
    try:
        consider(leave, on_budget, own_cap, patience, NOW)
    except ParkedForBudgetError as parked:
        return parked.obstacle
    except BudgetExceededError as error:
        return error
    return None


@given(leave=leaves("wait") | leaves("exceeded"), patience=PATIENCE, own_cap=st.none() | AMOUNTS)
def test_who_is_to_fail_never_parks(leave: Leave, patience: Patience, own_cap: Decimal | None) -> None:
    assert not isinstance(outcome(leave, "fail", patience, own_cap), Obstacle)


@given(leave=leaves("wait"), patience=PATIENCE, own_cap=st.none() | AMOUNTS)
def test_who_is_to_park_never_fails_for_holds_that_are_open(
    leave: Leave, patience: Patience, own_cap: Decimal | None
) -> None:
    assert not isinstance(outcome(leave, "park", patience, own_cap), BudgetExceededError)


@given(leave=leaves("exceeded"), on_budget=ON_BUDGET, patience=PATIENCE, own_cap=st.none() | AMOUNTS)
def test_what_is_used_up_is_not_looked_at_again_in_the_slot(
    leave: Leave, on_budget: OnBudget, patience: Patience, own_cap: Decimal | None
) -> None:
    assert outcome(leave, on_budget, patience, own_cap) is not None


@given(leave=leaves("wait"), on_budget=ON_BUDGET, patience=PATIENCE, times=st.lists(SECONDS, min_size=2))
def test_a_longer_wait_never_brings_it_back(
    leave: Leave, on_budget: OnBudget, patience: Patience, times: list[float]
) -> None:
    stages = [type(None), Obstacle, BudgetExceededError]
    seen = [stages.index(type(outcome(replace(leave, waited=waited), on_budget, patience))) for waited in sorted(times)]
    assert seen == sorted(seen)


@given(leave=leaves("wait"), patience=PATIENCE)
def test_open_holds_are_waited_for_as_long_as_was_asked(leave: Leave, patience: Patience) -> None:
    for on_budget, longest in (("fail", patience.settling), ("wait", patience.waiting)):
        ended = outcome(replace(leave, waited=longest), on_budget, patience)  # type: ignore[arg-type]
        assert isinstance(ended, BudgetExceededError)
        assert "of waiting for open holds" in str(ended)
    slot = outcome(replace(leave, waited=patience.in_slot), "wait", patience)
    if patience.in_slot < patience.waiting:
        left = timedelta(seconds=patience.waiting - patience.in_slot)
        assert (slot.wake_at, slot.needs) == (NOW + left, leave.amount)  # woken in time to give up
    assert outcome(replace(leave, waited=patience.in_slot), "park", patience).wake_at is None


@given(leave=leaves("exceeded"), patience=PATIENCE, own_cap=st.none() | AMOUNTS, same=st.booleans())
def test_who_parks_for_a_budget_ends_only_where_nobody_can_raise_it(
    leave: Leave, patience: Patience, own_cap: Decimal | None, same: bool
) -> None:
    own_cap = leave.cap if same else own_cap
    found: Any = outcome(leave, "park", patience, own_cap)
    hopeless = leave.scope == "run" and leave.cap == own_cap
    assert isinstance(found, Obstacle) != hopeless
    if isinstance(found, Obstacle):
        assert leave.amount is not None
        assert leave.cap is not None
        assert (found.reason, found.needs) == ("budget", leave.amount)
        assert found.wake_at == (leave.renews_at if leave.amount <= leave.cap else None)


@given(scope=SCOPES, subject=st.text(max_size=20))
def test_a_line_is_read_as_it_was_named(scope: str, subject: str) -> None:
    # As `runtime.wake_for_budget` does: what is before the first colon, and all that is after it.
    read, _, rest = key_of(scope, subject).partition(":")
    assert (read, rest) == (scope, subject)


@given(leave=leaves("wait") | leaves("exceeded"))
def test_an_error_says_the_scope_and_what_is_missing_in_plain_digits(leave: Leave) -> None:
    error = BudgetExceededError(leave)
    assert leave.missing is not None
    assert (error.scope, error.missing) == (leave.scope, leave.missing)
    assert f"the {leave.scope} budget" in str(error)
    assert f"has {leave.missing or Decimal(0):f} USD too little left" in str(error)


@pytest.mark.parametrize("verdict", ["wait", "exceeded"])
def test_an_answer_without_amounts_is_no_crash(verdict: Any) -> None:
    for on_budget in ("fail", "wait", "park"):
        outcome(Leave(verdict, None, None, None), on_budget, Patience())
