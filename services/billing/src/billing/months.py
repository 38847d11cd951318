"""What a plan takes and gives for a month that is over: its fee, and the part of the charges that is free. Pure.

Caps are about what was charged before that: an allowance lowers what a tenant owes, not what its runs may use.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from billing.ledger import Entry, allowance_entry, fee_entry


@dataclass(frozen=True, slots=True)
class Terms:
    """What its plans came to, by the days of each, when the month was closed first."""

    plan: str
    """The one of its last day."""
    free_allowance: Decimal
    monthly_fee: Decimal


@dataclass(frozen=True, slots=True)
class Posted:
    """What the ledger has of a tenant's month, in US dollars."""

    charges: Decimal
    """What its calls were charged, corrections included."""
    allowance: Decimal
    """What was given of it."""
    allowances: int
    """In how many entries."""
    fee: Decimal | None
    """None: not posted."""


def closing_entries(tenant_id: UUID, month: date, terms: Terms, posted: Posted) -> tuple[Entry, ...]:
    """What is still to be posted for a month. After a correction of its calls that is the difference."""
    free = min(terms.free_allowance, posted.charges)
    entries = [allowance_entry(tenant_id, month, free - posted.allowance, posted.allowances)]
    if posted.fee is None:
        entries.append(fee_entry(tenant_id, month, terms.monthly_fee))
    return tuple(entry for entry in entries if entry.lines)
