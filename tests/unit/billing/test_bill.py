"""A record is put to its open hold, or paid by the platform."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

import pytest

from billing.bill import Hold, Price, bill
from billing.pricebook import Rates
from billing.pricing import Settlement
from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.usage import Usage

RATES = Rates(*[Decimal(1)] * 5)
COST = Decimal("0.001")


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


def _hold(state: str) -> Hold:
    return Hold(Decimal(1), state, Price(7, RATES))


@pytest.mark.parametrize("state", ["open", "in_doubt"])
def test_an_unresolved_hold_is_charged(state: str) -> None:
    made = bill(_record(), _hold(state), None)
    assert (made.held, made.price_id, made.settlement) == (True, 7, Settlement(COST, Decimal(0)))


@pytest.mark.parametrize("state", ["voided", "settled"])
def test_a_resolved_hold_is_not_charged_again(state: str) -> None:
    made = bill(_record(), _hold(state), None)
    assert (made.held, made.price_id, made.settlement) == (False, 7, Settlement(Decimal(0), COST))


def test_without_a_hold_the_platform_pays_the_listed_price() -> None:
    made = bill(_record(), None, Price(8, RATES))
    assert (made.held, made.price_id, made.settlement) == (False, 8, Settlement(Decimal(0), COST))


def test_without_any_price_there_is_no_cost() -> None:
    made = bill(_record(), None, None)
    assert (made.price_id, made.cost, made.settlement) == (None, None, None)


def test_a_call_that_nobody_answered_is_the_platforms() -> None:
    made = bill(_record().model_copy(update={"unanswered": True}), _hold("open"), None)
    assert (made.held, made.price_id, made.settlement) == (True, 7, Settlement(Decimal(0), COST))
