"""One usage record put to its price and its hold. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date
from decimal import Decimal

from billing.ledger import Entry, Source, usage_entry
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
    """What was held for an attempt, at which price and markup, and on which day of its tenant."""

    amount: Decimal
    state: str
    price: Price
    day: date
    markup_percent: Decimal = NOTHING

    @property
    def unresolved(self) -> bool:
        """Whether a charge can still be made against it."""
        return self.state in _UNRESOLVED


@dataclass(frozen=True, slots=True)
class Bill:
    """What becomes of a record. Without a price it has no settlement, and is never charged."""

    record: UsageRecorded
    hold: Hold | None = None
    price_id: int | None = None
    settlement: Settlement | None = None
    owed: Decimal = NOTHING
    """What it would be charged if more had been held."""

    @property
    def held(self) -> bool:
        """Whether it resolves its hold."""
        return self.hold is not None and self.hold.unresolved

    @property
    def month(self) -> date:
        """The one it is invoiced with: its hold's."""
        day = self.hold.day if self.hold else self.record.recorded_at.astimezone(UTC).date()
        return day.replace(day=1)

    @property
    def entry(self) -> Entry | None:
        """What is posted."""
        if self.settlement is None or self.price_id is None:
            return None
        record = self.record
        source = Source(record.attempt_id, record.attempt_id if self.hold else None, self.price_id)
        return usage_entry(source, record.tenant_id, self.month, self.settlement, record.provider)


def bill(record: UsageRecorded, hold: Hold | None, listed: Price | None) -> Bill:
    """Price a record at its hold's price, or at the one listed then where it has no hold.

    A tenant owes only what was held for it, and only for an answer: for all else the platform pays.
    """
    applied = hold.price if hold else listed
    if applied is None:
        return Bill(record)
    cost, owed, held = price(record.usage, applied.rates), NOTHING, NOTHING
    if hold and hold.unresolved and not record.unanswered:
        owed, held = price(record.usage, applied.rates, hold.markup_percent), hold.amount
    return Bill(record, hold, applied.price_id, settle(cost, owed, held), owed)
