"""However often a price is corrected: nobody is charged more than before, and the ledger's sum is what stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from billing.bill import Price
from billing.correcting import Filed, corrected
from billing.ledger import Entry
from billing.pricebook import Rates
from billing.pricing import Settlement, price, settle
from common.contracts.usage import Usage

amounts = st.decimals(min_value=0, max_value=100, places=10)
published = st.decimals(min_value="0.0001", max_value=1000, places=4)
rates = st.builds(Rates, published, published, published, published, published)
counts = st.integers(min_value=0, max_value=1_000_000)
usages = st.builds(Usage, input_tokens=counts, cache_read_tokens=counts, output_tokens=counts)
markups = st.sampled_from([Decimal(0), Decimal(20), Decimal("12.5")])


def _filed(usage: Usage, markup: Decimal, settlement: Settlement | None) -> Filed:
    price_id = None if settlement is None else 1
    return Filed(
        uuid4(), uuid4(), "openai", usage, date(2026, 10, 1), settlement is not None, markup, 0, price_id, settlement
    )


def _balances(entries: list[Entry]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for entry in entries:
        assert sum(line.amount for line in entry.lines) == 0
        for line in entry.lines:
            found[line.account] = found.get(line.account, Decimal(0)) + line.amount
    return {account: amount for account, amount in found.items() if amount}


@given(usages, markups, amounts, rates, st.lists(rates, min_size=1, max_size=5))
def test_a_series_of_corrections(
    usage: Usage, markup: Decimal, held: Decimal, first: Rates, later: list[Rates]
) -> None:
    settlement = settle(price(usage, first), price(usage, first, markup), held)
    filed = _filed(usage, markup, settlement)
    entries = [filed.entry(1, settlement, 0)]
    for price_id, at in enumerate(later, start=2):
        correction = corrected(filed, Price(price_id, at))
        cost = price(usage, at)
        if correction is None:
            assert filed.settlement is not None
            assert filed.settlement.cost == cost
            continue
        assert correction.settlement.cost == cost
        assert correction.given_back >= 0
        assert correction.settlement.charge <= min(price(usage, at, markup), held)
        entries += correction.entries()
        filed = replace(filed, price_id=price_id, settlement=correction.settlement, revision=correction.revision)
        assert corrected(filed, Price(price_id, at)) is None
    assert filed.settlement is not None
    assert _balances(entries) == _balances([filed.entry(9, filed.settlement, 0)])
    posted = [entry.entry_id for entry in entries]
    assert len(set(posted)) == len(posted)


@given(usages, rates)
def test_what_was_unpriced_is_the_platforms_when_its_price_comes(usage: Usage, at: Rates) -> None:
    correction = corrected(_filed(usage, Decimal(0), None), Price(7, at))
    assert correction is not None
    (entry,) = correction.entries()
    cost = price(usage, at)
    assert (entry.kind, entry.entry_id) == ("usage", correction.filed.attempt_id)
    assert _balances([entry]) == ({"variance": cost, "payable:openai": -cost} if cost else {})
