"""One usage record put to its price and its hold. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.pricebook import Rates
from billing.pricing import NOTHING, Settlement, price, settle
from common.contracts import UsageRecorded

_UNRESOLVED = frozenset({"open", "in_doubt"})


@dataclass(frozen=True, slots=True)
class Price:
    """A row of `billing.prices`."""

    price_id: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Hold:
    """What was held for an attempt, at which price."""

    amount: Decimal
    state: str
    price: Price


@dataclass(frozen=True, slots=True)
class Bill:
    """What becomes of a record. Without a price it has no cost, and is never charged."""

    record: UsageRecorded
    price_id: int | None = None
    cost: Decimal | None = None
    settlement: Settlement | None = None
    held: bool = False


def bill(record: UsageRecorded, hold: Hold | None, listed: Price | None) -> Bill:
    """Price a record at its hold's price, or at the one listed then where it has no hold.

    A tenant owes only what was held for it, and only for an answer: for all else the platform pays.
    """
    applied = hold.price if hold else listed
    if applied is None:
        return Bill(record)
    cost = price(record.usage, applied.rates)
    held = hold is not None and hold.state in _UNRESOLVED
    owed = hold.amount if hold and held and not record.unanswered else NOTHING
    return Bill(record, applied.price_id, cost, settle(cost, owed), held)
