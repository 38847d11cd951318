"""The lines of an entry sum to zero, whatever a call cost, whatever was charged, however often it is corrected."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from billing.ledger import (
    ALLOWANCE,
    COST,
    RECEIVABLE,
    REVENUE,
    VARIANCE,
    Entry,
    Source,
    allowance_entry,
    fee_entry,
    payable,
    reversal,
    usage_entry,
)
from billing.months import Posted, Terms, closing_entries
from billing.pricing import Settlement

MONTH = date(2026, 10, 1)
TENANT = UUID("0198f0d2-0000-7000-8000-000000000001")
amounts = st.decimals(min_value=0, max_value=10_000, places=10)
settlements = st.builds(Settlement, amounts, amounts)


def _entry(settlement: Settlement, attempt: UUID | None = None, revision: int = 0) -> Entry:
    made = attempt or uuid4()
    return usage_entry(Source(made, made, 1), TENANT, MONTH, settlement, "anthropic", revision)


def _balances(*entries: Entry) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for entry in entries:
        for line in entry.lines:
            found[line.account] = found.get(line.account, Decimal(0)) + line.amount
    return {account: amount for account, amount in found.items() if amount}


@given(settlements)
def test_lines_balance_and_none_is_zero(settlement: Settlement) -> None:
    lines = _entry(settlement).lines
    assert sum(line.amount for line in lines) == 0
    assert all(line.amount for line in lines)
    assert len({line.account for line in lines}) == len(lines)


@given(settlements)
def test_each_account_means_one_thing(settlement: Settlement) -> None:
    found = _balances(_entry(settlement))
    assert found.get(RECEIVABLE, 0) == settlement.charge == -found.get(REVENUE, 0)
    assert -found.get(payable("anthropic"), 0) == settlement.cost
    assert found.get(VARIANCE, 0) == settlement.variance
    profit = -found.get(REVENUE, Decimal(0)) - found.get(COST, Decimal(0)) - found.get(VARIANCE, Decimal(0))
    assert profit == settlement.charge - settlement.cost


def test_a_call_that_cost_nothing_has_no_lines() -> None:
    assert _entry(Settlement(Decimal(0), Decimal(0))).lines == ()


@given(settlements, st.lists(settlements, max_size=5))
def test_after_any_corrections_the_last_amounts_stand(first: Settlement, corrections: list[Settlement]) -> None:
    attempt = uuid4()
    posted = [_entry(first, attempt)]
    for revision, settlement in enumerate(corrections, start=1):
        posted += [reversal(posted[-1]), _entry(settlement, attempt, revision)]
    assert _balances(*posted) == _balances(_entry(corrections[-1] if corrections else first, attempt))
    assert len({entry.entry_id for entry in posted}) == len(posted)


def test_entries_about_the_same_have_the_same_id() -> None:
    one, again = (_entry(Settlement(Decimal(1), Decimal(1)), UUID(int=7)) for _ in range(2))
    assert one.entry_id == again.entry_id == UUID(int=7)
    assert reversal(one).entry_id == reversal(again).entry_id != one.entry_id
    assert fee_entry(TENANT, MONTH, Decimal(1)).entry_id == fee_entry(TENANT, MONTH, Decimal(2)).entry_id
    allowances = {allowance_entry(TENANT, MONTH, Decimal(1), number).entry_id for number in (0, 0, 1)}
    assert len(allowances) == 2


@given(amounts, amounts, st.lists(amounts, min_size=1, max_size=6))
def test_a_month_gives_the_allowance_once_however_often_it_is_closed(
    free: Decimal, fee: Decimal, charges: list[Decimal]
) -> None:
    """Closed, then corrected and closed again, any number of times."""
    terms, entries = Terms("pro", free, fee), list[Entry]()
    for charged in charges:
        given_so_far = _balances(*entries).get(ALLOWANCE, Decimal(0))
        kinds = [entry.kind for entry in entries]
        posted = Posted(charged, given_so_far, kinds.count("allowance"), fee if "fee" in kinds else None)
        entries += closing_entries(TENANT, MONTH, terms, posted)
    owed = charges[-1] + _balances(*entries).get(RECEIVABLE, Decimal(0))
    assert owed == charges[-1] - min(free, charges[-1]) + fee
    assert len({entry.entry_id for entry in entries}) == len(entries)
    assert all(sum(line.amount for line in entry.lines) == 0 for entry in entries)
