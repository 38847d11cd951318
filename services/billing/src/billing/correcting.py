"""What becomes of a call whose price is corrected, or that had none. Pure.

A correction gives back what was charged too much and never takes more: what a tenant was charged was below its caps
then, and its runs have gone by that since. Cost that was unknown is the platform's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from billing.bill import Price
from billing.ledger import Entry, Source, reversal, usage_entry
from billing.pricing import NOTHING, Settlement, price, settle
from common.contracts.usage import Usage


@dataclass(frozen=True, slots=True)
class Filed:
    """A usage record as it was filed, with its amounts so far; None where it was unpriced."""

    attempt_id: UUID
    tenant_id: UUID
    provider: str
    usage: Usage
    month: date
    held: bool
    markup_percent: Decimal
    revision: int
    price_id: int | None
    settlement: Settlement | None

    def entry(self, price_id: int, settlement: Settlement, revision: int) -> Entry:
        """What is posted for it."""
        source = Source(self.attempt_id, self.attempt_id if self.held else None, price_id)
        return usage_entry(source, self.tenant_id, self.month, settlement, self.provider, revision)


@dataclass(frozen=True, slots=True)
class Correction:
    """Other amounts for a call."""

    filed: Filed
    price_id: int
    settlement: Settlement
    revision: int

    @property
    def given_back(self) -> Decimal:
        """By how much the charge is lower."""
        return (self.filed.settlement.charge if self.filed.settlement else NOTHING) - self.settlement.charge

    def entries(self) -> Iterator[Entry]:
        """The reversal of what is posted, and what is posted instead."""
        filed = self.filed
        if filed.settlement is not None and filed.price_id is not None:
            yield reversal(filed.entry(filed.price_id, filed.settlement, filed.revision))
        yield filed.entry(self.price_id, self.settlement, self.revision)


def corrected(filed: Filed, listed: Price) -> Correction | None:
    """By the price that the book has now for when the call was made; None where that changes nothing."""
    owed = price(filed.usage, listed.rates, filed.markup_percent)
    charged = filed.settlement.charge if filed.settlement else NOTHING
    settlement = settle(price(filed.usage, listed.rates), owed, charged)
    if settlement == filed.settlement:
        return None
    # What was unpriced had no entry to reverse: this is its first.
    revision = filed.revision if filed.settlement is None else filed.revision + 1
    return Correction(filed, listed.price_id, settlement, revision)
