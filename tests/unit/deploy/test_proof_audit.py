"""What was served against what is booked: equal to the token and to the last digit, or named."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from billing.pricebook import Rates
from common.contracts.usage import Usage
from deploy.proof import report
from deploy.proof.audit import Booked, compare

RATES = Rates(Decimal(1), Decimal("0.1"), Decimal("1.25"), Decimal(2), Decimal(5))
USAGE = Usage(
    input_tokens=1000, cache_read_tokens=100, cache_write_5m_tokens=10, cache_write_1h_tokens=5, output_tokens=7
)
COST = Decimal("0.0010675")


def _served(attempt: UUID, **changes: Any) -> dict[str, Any]:
    return {
        "client_request_id": str(attempt),
        "started_at": 100.0,
        "input_tokens": 1000,
        "cache_read_tokens": 100,
        "cache_write_tokens": 15,
        "output_tokens": 7,
        "reasoning_tokens": 0,
        **changes,
    }


def _booked(**changes: Any) -> Booked:
    one = Booked(uuid4(), "anthropic", "settled", RATES, USAGE, False, "req_1", COST, 101.0)
    return replace(one, **changes)


def _found(booked: Booked, *served: dict[str, Any]) -> list[str]:
    return compare(served or [_served(booked.attempt_id)], {booked.attempt_id: booked}).differences


def test_a_call_that_is_booked_as_it_was_served_agrees() -> None:
    one = _booked()
    compared = compare([_served(one.attempt_id)], {one.attempt_id: one})
    sums = compared.providers["anthropic"]
    assert compared.differences == []
    assert sums.served == sums.ledger == COST
    assert (sums.lost_calls, sums.cut_calls, sums.difference) == (0, 0, Decimal(0))


def test_what_was_lost_and_what_was_cut_is_the_platforms_and_is_named() -> None:
    lost, cut = _booked(usage=None, state="voided", cost=Decimal(0)), _booked(estimated=True)
    served = [_served(lost.attempt_id), _served(cut.attempt_id, output_tokens=9)]
    compared = compare(served, {one.attempt_id: one for one in (lost, cut)})
    sums = compared.providers["anthropic"]
    assert compared.differences == []
    # The audit does not say how cache writes divide by lifetime; without a record they count as the shorter one.
    assert (sums.lost, sums.lost_calls, sums.cut, sums.cut_calls) == (Decimal("0.00106375"), 1, Decimal("0.00001"), 1)
    assert sums.served == sums.ledger + sums.lost + sums.cut


@pytest.mark.parametrize(
    ("booked", "said"),
    [
        (_booked(usage=USAGE.model_copy(update={"output_tokens": 8})), "output_tokens 8, and was served 7"),
        (_booked(usage=USAGE.model_copy(update={"cache_write_5m_tokens": 9})), "cache_write_tokens 14"),
        (_booked(cost=COST + Decimal("0.0000000001")), "anthropic served -0.0000000001 USD more"),
        (_booked(usage=None, cost=Decimal(0)), "has no usage, and is settled"),
    ],
)
def test_every_other_difference_is_one(booked: Booked, said: str) -> None:
    assert any(said in line for line in _found(booked)), _found(booked)


def test_a_call_is_served_once_and_only_with_a_hold() -> None:
    one, strange = _booked(), uuid4()
    assert _found(one, _served(one.attempt_id), _served(one.attempt_id)) == [
        f"attempt {one.attempt_id} was served twice"
    ]
    assert _found(one, _served(one.attempt_id), _served(strange)) == [f"attempt {strange} was served and never held"]
    nothing = {"input_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0, "output_tokens": 0}
    assert _found(one, _served(one.attempt_id), _served(strange, **nothing)) == []
    assert _found(one, _served(one.attempt_id, **nothing), _served(one.attempt_id)) == []


def test_what_is_charged_for_was_served_as_far_back_as_the_audit_goes() -> None:
    one, other = _booked(recorded_at=99.0), _booked()
    assert (
        _found(one, _served(uuid4(), output_tokens=0, input_tokens=0, cache_read_tokens=0, cache_write_tokens=0)) == []
    )
    found = _found(other, _served(uuid4(), output_tokens=0, input_tokens=0, cache_read_tokens=0, cache_write_tokens=0))
    assert found == [f"attempt {other.attempt_id} is in the books, and was never served"]


def test_an_estimate_of_what_the_provider_counts_nothing_of_is_the_platforms() -> None:
    one, other = _booked(estimated=True, request_id=None), _booked()
    compared = compare([_served(other.attempt_id)], {booked.attempt_id: booked for booked in (one, other)})
    sums = compared.providers["anthropic"]
    assert compared.differences == []
    assert (sums.ledger, sums.cut, sums.cut_calls, sums.difference) == (2 * COST, -COST, 1, Decimal(0))


def test_where_there_are_no_books_nothing_is_proved() -> None:
    assert report.differences([]) == ["there are no books of what was asked for: nothing is proved"]
