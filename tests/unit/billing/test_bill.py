"""A record is put to its open hold, or paid by the platform."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import pytest

from billing.bill import Hold, Price, bill
from billing.ledger import Source
from billing.pricebook import Rates
from billing.pricing import Settlement
from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.usage import Usage

RATES = Rates(*[Decimal(1)] * 5)
COST = Decimal("0.001")
SETTLED = Settlement(cost=COST, charge=COST)
BORNE = Settlement(cost=COST, charge=Decimal(0))
DAY = date(2026, 10, 31)


def _record() -> UsageRecorded:
    return UsageRecorded(
        attempt_id=uuid4(),
        task_id=uuid4(),
        tenant_id=uuid4(),
        agent="default",
        provider="openai",
        model="m",
        step=1,
        call=1,
        fence=1,
        usage=Usage(input_tokens=1000),
        recorded_at=now(),
    )


def _hold(state: str, markup: str = "0", amount: str = "1") -> Hold:
    return Hold(Decimal(amount), state, Price(7, RATES), DAY, Decimal(markup))


@pytest.mark.parametrize("state", ["open", "in_doubt"])
def test_an_unresolved_hold_is_charged(state: str) -> None:
    made = bill(_record(), _hold(state), None)
    assert (made.held, made.price_id, made.settlement) == (True, 7, SETTLED)


@pytest.mark.parametrize("state", ["voided", "settled"])
def test_a_resolved_hold_is_not_charged_again(state: str) -> None:
    made = bill(_record(), _hold(state), None)
    assert (made.held, made.price_id, made.settlement) == (False, 7, BORNE)


def test_without_a_hold_the_platform_pays_the_listed_price() -> None:
    made = bill(_record(), None, Price(8, RATES))
    assert (made.held, made.price_id, made.settlement) == (False, 8, BORNE)


def test_without_any_price_there_is_no_cost() -> None:
    made = bill(_record(), None, None)
    assert (made.price_id, made.settlement, made.entry) == (None, None, None)


def test_a_call_that_nobody_answered_is_the_platforms() -> None:
    made = bill(_record().model_copy(update={"unanswered": True}), _hold("open"), None)
    assert (made.held, made.price_id, made.settlement) == (True, 7, BORNE)


def test_a_markup_is_charged_and_is_no_cost() -> None:
    made = bill(_record(), _hold("open", markup="20"), None)
    assert made.settlement == Settlement(cost=COST, charge=Decimal("0.0012"))


def test_a_markup_is_bounded_by_the_hold_as_well() -> None:
    made = bill(_record(), _hold("open", markup="20", amount="0.0011"), None)
    assert made.settlement == Settlement(cost=COST, charge=Decimal("0.0011"))
    assert made.owed == Decimal("0.0012")
    assert made.settlement.variance == 0


def test_an_entry_names_its_usage_its_hold_and_its_price_in_the_month_of_the_hold() -> None:
    record = _record()
    entry = bill(record, _hold("open"), None).entry
    assert entry is not None
    assert (entry.entry_id, entry.source) == (record.attempt_id, Source(record.attempt_id, record.attempt_id, 7))
    assert entry.month == date(2026, 10, 1)


def test_an_entry_without_a_hold_names_none_and_is_in_the_month_of_its_record() -> None:
    record = _record().model_copy(update={"recorded_at": datetime(2026, 9, 30, 23, 59, tzinfo=UTC)})
    entry = bill(record, None, Price(8, RATES)).entry
    assert entry is not None
    assert entry.source == Source(record.attempt_id, None, 8)
    assert entry.month == date(2026, 9, 1)
