"""The entries of one attempt sum to zero, whatever it cost and whatever was held."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from billing.ledger import COST, RECEIVABLE, REVENUE, VARIANCE, entries, payable
from billing.pricing import Settlement

amounts = st.decimals(min_value=0, max_value=10_000, places=10)


@given(amounts, amounts)
def test_entries_balance_and_none_is_zero(charge: Decimal, variance: Decimal) -> None:
    lines = entries(Settlement(charge, variance), "anthropic")
    assert sum(line.amount for line in lines) == 0
    assert all(line.amount for line in lines)
    assert len({line.account for line in lines}) == len(lines)


@given(amounts, amounts)
def test_each_account_means_one_thing(charge: Decimal, variance: Decimal) -> None:
    found = {line.account: line.amount for line in entries(Settlement(charge, variance), "openai")}
    assert found.get(RECEIVABLE, 0) == charge == -found.get(REVENUE, 0)
    assert -found.get(payable("openai"), 0) == charge + variance
    profit = -found.get(REVENUE, Decimal(0)) - found.get(COST, Decimal(0)) - found.get(VARIANCE, Decimal(0))
    assert profit == -variance


def test_a_call_that_cost_nothing_makes_no_entries() -> None:
    assert entries(Settlement(Decimal(0), Decimal(0)), "anthropic") == ()
